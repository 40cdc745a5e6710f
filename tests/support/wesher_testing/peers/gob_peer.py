"""A real Go program that writes and reads metadata with ``encoding/gob``."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from wesher_testing.run.toolbox import REPOSITORY, go_binary

_MODULE = REPOSITORY / "tests/support/go/gob_peer"


class GobPeer:
    """Starts the program anew for each call, since Go numbers types as a process first meets them."""

    def __init__(self) -> None:
        self._program: Path = go_binary(_MODULE, ".", "gob_peer")

    def encode(self, kind: str, **fields: Any) -> bytes:
        """Return what Go writes for a struct of that kind (see ``main.go``); bytes are given as base64."""
        return bytes.fromhex(self._ask(f"encode {json.dumps({'kind': kind, **fields})}"))

    def decode(self, stream: bytes) -> dict[str, str]:
        """Return what Go wesher would read: ``addr`` and ``key``, or ``error``."""
        answer: dict[str, str] = json.loads(self._ask(f"decode {stream.hex()}"))
        return answer

    def _ask(self, line: str) -> str:
        done = subprocess.run(
            [self._program], input=line + "\n", capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout.strip()
