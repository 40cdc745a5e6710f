"""The few system packages the demo and the tests use, and putting them on the machine.

Runs before the project's own environment exists, so it needs nothing but Python:
``python3 -m wesher_testing.run.system_packages demo``. It names what is missing first, and
never removes a package. Daemons are not its business: the toolbox unpacks them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence

PACKAGES = {
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "dpkg-deb": "dpkg",
    "ip": "iproute2",
    "kill": "procps",
    "nft": "nftables",
    "nsenter": "util-linux",
    "pgrep": "procps",
    "ping": "iputils-ping",
    "qemu-system-x86_64": "qemu-system-x86",
    "sysctl": "procps",
    "systemd-analyze": "systemd",
    "tcpdump": "tcpdump",
    "wg": "wireguard-tools",
    "zstd": "zstd",
}
"""Program to Debian package."""

HOSTS = ("ip", "nft", "nsenter", "ping", "sysctl", "tcpdump")
"""What hosts in network namespaces use, and captures on them."""
IMAGES = ("buildah", "debootstrap")
"""What builds container images."""

_COMMANDS: dict[str, tuple[str, ...]] = {"cluster": (*HOSTS, *IMAGES), "demo": HOSTS, "venv": ()}
_MAKE_ENVIRONMENTS = ("demo", "venv")
"""Those that make a Python environment with the machine's own Python."""


def find(program: str) -> str | None:
    """Return the path of a program, looking where administrators' programs are too."""
    return shutil.which(program, path=os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin")


def missing(programs: Iterable[str]) -> list[str]:
    """Return the packages of those programs that this machine lacks, sorted."""
    return sorted({PACKAGES[program] for program in programs if find(program) is None})


def main(arguments: list[str]) -> int:
    """Install what the named command of make needs; return the exit status."""
    if len(arguments) != 1 or arguments[0] not in _COMMANDS:
        print(f"usage: system_packages {'|'.join(_COMMANDS)}", file=sys.stderr)
        return 2
    return install(missing_for(arguments[0]))


def missing_for(command: str) -> list[str]:
    """Return the packages that a command of make needs and this machine lacks.

    Args:
        command: ``demo``, ``cluster`` or ``venv``.

    """
    wanted = missing(_COMMANDS[command])
    if command in _MAKE_ENVIRONMENTS and importlib.util.find_spec("ensurepip") is None:
        # Debian ships the standard library's venv without the part that puts pip into it.
        wanted.append(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")
    return wanted


def install(wanted: Sequence[str]) -> int:
    """Name the packages and install them; return the exit status.

    With ``WESHER_NO_SYSTEM_PACKAGES`` set they are only named.
    """
    if not wanted:
        return 0
    print(f"system packages missing: {' '.join(wanted)}", flush=True)
    if os.environ.get("WESHER_NO_SYSTEM_PACKAGES"):
        print("WESHER_NO_SYSTEM_PACKAGES is set: install them yourself, then run this again", file=sys.stderr)
        return 1
    apt_get = find("apt-get")
    if apt_get is None:
        print("no apt-get here: install the packages that provide them, then run this again", file=sys.stderr)
        return 1
    return _install(apt_get, wanted)


def _install(apt_get: str, packages: Sequence[str]) -> int:
    command = [apt_get, "install", "--yes", "--no-install-recommends", "--no-remove", *packages]
    as_root = become_root()
    if as_root is None:
        print(f"neither root nor sudo here: as root, run {' '.join(command)}", file=sys.stderr)
        return 1
    # sudo would drop it from the environment.
    quietly = ["env", "DEBIAN_FRONTEND=noninteractive"]
    for attempt in ([apt_get, "update"], command):
        print(f"+ {' '.join([*as_root, *attempt])}", flush=True)
        done = subprocess.run(
            [*as_root, *quietly, *attempt],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        # Stale lists are still lists: only the installation decides.
        if done.returncode != 0 and attempt is command:
            said = f"{done.stdout.rstrip()}\napt-get could not install {' '.join(packages)}"
            print(said, file=sys.stderr)
            return 1
    return 0


def become_root() -> list[str] | None:
    """Return what to put before a command that needs root: nothing, sudo, or ``None`` without either."""
    if os.geteuid() == 0:
        return []
    sudo = find("sudo")
    return [sudo] if sudo else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
