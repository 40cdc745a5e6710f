"""``make cluster`` and ``make cluster-down``, as somebody at the terminal uses them."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from wesher_testing.cluster.image import Image
from wesher_testing.run.cache import cache_dir
from wesher_testing.run.machine_load import stretched
from wesher_testing.run.toolbox import REPOSITORY

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_UP_WITHIN = 240.0
"""Seconds that it may take where everything is built."""


@dataclass(frozen=True, slots=True)
class Terminal:
    """Where the commands are given: with the machine's cache, and a place of its own for the cluster."""

    cache: Path

    def make(self, *words: str) -> str:
        """Run make; return all that it said."""
        done = subprocess.run(
            ["make", "--silent", *words],
            cwd=REPOSITORY,
            env={**os.environ, "WESHER_CACHE": str(self.cache)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * _UP_WITHIN,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture
def terminal(image: Image, tmp_path: Path) -> Iterator[Terminal]:
    cache = tmp_path / "cache"
    (cache / ".locks").mkdir(parents=True)
    for entry in cache_dir().iterdir():
        if entry.name not in {".locks", "cluster"}:
            (cache / entry.name).symlink_to(entry)
    at = Terminal(cache)
    try:
        yield at
    finally:
        at.make("cluster-down")


def test_a_cluster_is_left_up_with_all_one_needs_to_use_it_and_taken_away_again(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    said = terminal.make("cluster", "NODES=1")
    took = time.monotonic() - began
    with capsys.disabled():
        sys.stdout.write(f"\n  make cluster with one node: {took:.0f} s")
    assert took < stretched(_UP_WITHIN)

    assert re.search(r"^weshermesh\.wesher\.dev/default +True +1/1 ", said, re.MULTILINE)
    assert re.search(r"^wesher-system +pod/wesher-operator-\S+ +1/1 +Running ", said, re.MULTILINE)
    assert terminal.make("cluster").startswith("a cluster is up already; to use it:\n")

    lines = [line.strip() for line in said.splitlines()]
    begin = lines.index("to use it:")
    kubeconfig = Path(lines[begin + 1].removeprefix("export KUBECONFIG="))
    assert stat.S_IMODE(kubeconfig.stat().st_mode) == 0o600
    for line, answer in ((lines[begin + 2], "node-1"), (lines[begin + 3], "deployed")):
        env = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        shown = subprocess.run(shlex.split(line), env=env, capture_output=True, text=True, check=True)
        assert answer in shown.stdout
    assert lines[begin + 4 :] == ["to end it:", "make cluster-down"]

    terminal.make("cluster-down")
    assert not kubeconfig.exists()
    assert terminal.make("cluster-down") == "no cluster is up\n"
