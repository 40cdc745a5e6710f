"""What the plain machines of the demo run: a Python with the agent's libraries, and WireGuard.

Needs nothing but the machine's own Python. Both go into the cache: 55 MB and half a minute once.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from wesher_testing.run.cache import cache_dir, kept, run_reported
from wesher_testing.run.demo.plan import Cost
from wesher_testing.run.system_packages import find
from wesher_testing.run.toolbox import (
    REPOSITORY,
    ToolUnavailable,
    debian_package_root,
    system_program,
    wireguard_go,
)

_LOCK = REPOSITORY / "requirements-agent.lock"
_MEGABYTES = 60
"""What both take on disk."""


def cost() -> Cost:
    """Return what the plain machines take."""
    if (cache_dir() / _entry()).exists():
        return Cost("half a minute")
    fetched = "The agent's Python libraries are fetched, and wireguard-go unless this kernel has WireGuard."
    return Cost("one minute, with the first encrypted ping after half of it", _MEGABYTES, fetched)


def agent_python() -> Path:
    """Return a Python that has the locked libraries of the agent, and not the agent itself."""
    return kept(_entry(), _make) / "bin/python"


def wireguard() -> Path | None:
    """Return wireguard-go, or ``None`` where the kernel has WireGuard.

    Debian's package is slower than the newest release but is there in a second.

    Raises:
        ToolUnavailable: there is neither of them, nor a Go to build it with.

    """
    if _kernel_has_wireguard():
        return None
    if found := find("wireguard-go"):
        return Path(found)
    try:
        return debian_package_root("wireguard-go") / "usr/bin/wireguard-go"
    except ToolUnavailable as unavailable:
        if find("go") is None:
            raise ToolUnavailable(
                f"this kernel has no WireGuard, and wireguard-go is not on PATH: install it ({unavailable})"
            ) from unavailable
        return wireguard_go()


def _entry() -> str:
    # An environment works only with the interpreter that made it.
    made_of = b"\0".join([_LOCK.read_bytes(), sys.version.encode(), sys.base_prefix.encode()])
    return f"agent-python/{hashlib.sha256(made_of).hexdigest()[:16]}"


def _make(target: Path) -> None:
    # Beside the draft, so that it goes with it: pip removes nothing when its parent kills it.
    scratch = target.with_name("scratch")
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch)}
    run_reported("making a Python environment", [sys.executable, "-m", "venv", target], env=environment)
    run_reported(
        "installing the agent's libraries",
        [
            *(target / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--require-hashes", "--requirement", _LOCK),
        ],
        env=environment,
    )


def _kernel_has_wireguard() -> bool:
    # In a network namespace that is gone with the command.
    done = subprocess.run(
        ["unshare", "--net", system_program("ip"), "link", "add", "probe", "type", "wireguard"],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0
