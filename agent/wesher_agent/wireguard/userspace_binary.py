"""Which program on this machine is wireguard-go. Blocking, but short."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from wesher_agent.netlink.errors import WireGuardUnavailable
from wesher_common.errors import InvalidSpec

_NAMES = ("wireguard-go", "wireguard")
"""Distributions' name, and the one that ``go install golang.zx2c4.com/wireguard`` gives."""

_MARK = "Userspace WireGuard daemon"
_VERSION_TIMEOUT = 5.0


def find_userspace_binary(given: str | None = None) -> Path | None:
    """Return the path of wireguard-go, or None where there is none.

    Args:
        given: the user's ``--userspace-binary``; otherwise PATH is searched.

    Raises:
        InvalidSpec: the given program is not there, or is another one.
        WireGuardUnavailable: a program does not say in time what it is.

    """
    if given is None:
        found = (shutil.which(name) for name in _NAMES)
        return next((Path(path) for path in found if path and _is_wireguard_go(path)), None)
    path = shutil.which(given)
    if path is None:
        raise InvalidSpec("--userspace-binary", "program not found", value=given)
    if not _is_wireguard_go(path):
        raise InvalidSpec(
            "--userspace-binary", f"is not wireguard-go according to `{given} --version`", value=given
        )
    return Path(path).absolute()


def _is_wireguard_go(path: str) -> bool:
    try:
        answer = subprocess.run(  # noqa: S603 - the program the administrator named, or PATH's
            [path, "--version"],
            env={},  # ours may hold the cluster key
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        # A busy machine says nothing about the program: another look may succeed.
        raise WireGuardUnavailable(
            f"`{path} --version` did not answer within {_VERSION_TIMEOUT:.0f} s: trying again"
        ) from error
    except OSError:
        return False
    return _MARK in answer.stdout
