"""A machine as an administrator has it: a lab's host with systemd, and with wesher as its service.

systemd is the first process of namespaces of its own, on a copy-on-write view of this machine's files.
Its ``/etc``, ``/run`` and ``/var/lib`` are the host's, so they can be looked at from outside. Its units are
those that `Machine` is given and what ``scripts/install-service`` puts there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from wesher_testing.lab.namespaces import CommandFailed, Host
from wesher_testing.run.cache import cache_dir
from wesher_testing.run.toolbox import REPOSITORY, wireguard_go

_PATIENCE = 60.0
"""Seconds for systemd to come up, and for a command to end."""

# A control group of its own: without one all machines would share their services' groups.
_BOOT = """
mkdir "$WORK"
mount -t tmpfs none "$WORK"
mkdir "$WORK/groups" "$WORK/upper" "$WORK/work" "$WORK/root"
mount -t cgroup2 none "$WORK/groups"
mkdir "$WORK/groups/$GROUP"
echo $$ > "$WORK/groups/$GROUP/cgroup.procs"
exec unshare --mount --ipc --pid --cgroup --fork --kill-child sh -ec "$WORLD"
"""

# Homes are hidden from the service, so what it runs is mounted outside them. What stands for
# other programs runs from where it is.
_WORLD = """
mount -t overlay none "$WORK/root" -o "lowerdir=/,upperdir=$WORK/upper,workdir=$WORK/work"
cd "$WORK/root"
mount -t proc none proc
mount -t sysfs none sys
mount -t tmpfs none sys/fs/cgroup
mount -t cgroup2 none sys/fs/cgroup
for directory in tmp dev root; do mount -t tmpfs none "$directory"; done
for directory in etc run var/lib; do mount --rbind "/$directory" "$directory"; done
mkdir -p dev/net opt/python opt/site opt/code/agent opt/code/common opt/wesher/bin
for device in null zero full random urandom net/tun; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
for place in $NEEDED; do mkdir -p "./$place"; mount --rbind "$place" "./$place"; done
mount --bind "$PYTHON" opt/python
mount --bind "$SITE" opt/site
for part in agent common; do mount --bind "$REPOSITORY/$part" "opt/code/$part"; done
install -m 0755 "$WIREGUARD_GO" usr/local/bin/wireguard-go
rm -rf etc/systemd/system etc/default/wesher
mkdir -p etc/systemd/system etc/default
printf '[Unit]\nDefaultDependencies=no\n' > etc/systemd/system/machine.target
exec chroot . /lib/systemd/systemd --system --unit=machine.target --log-target=null --show-status=0
"""
PROGRAM = """#!/bin/sh
export PYTHONHOME=/opt/python LD_LIBRARY_PATH=/opt/python/lib
export PYTHONPATH=/opt/code/common:/opt/code/agent:/opt/site PYTHONDONTWRITEBYTECODE=1
exec /opt/python/bin/python3 -m wesher_agent "$@"
"""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Machine:
    """One machine, on which systemd runs once this returns. Ends with its lab.

    Args:
        host: what it is made of.

    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self._group = f"wesher-{host.name}-{os.getpid()}"
        needed = (REPOSITORY, cache_dir(), Path(sys.prefix), Path(sys.base_prefix))
        self._unshare = host.popen(
            ["sh", "-ec", _BOOT],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={
                "PATH": PATH,
                "container": "lab",
                "WORK": "/run/machine",
                "GROUP": self._group,
                "WORLD": _WORLD,
                "NEEDED": " ".join(map(str, needed)),
                "PYTHON": sys.base_prefix,
                "SITE": sysconfig.get_path("purelib"),
                "REPOSITORY": str(REPOSITORY),
                "WIREGUARD_GO": str(wireguard_go()),
            },
        )
        self._wait_for_systemd()

    @property
    def name(self) -> str:
        """Its host name."""
        return self.host.name

    def run(
        self, command: str, *, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a line of shell as root on it, in a copy of this repository.

        Raises:
            CommandFailed: its status is not 0, and ``check`` is set.

        """
        done = subprocess.run(
            self.command(["bash", "-ec", f"cd {REPOSITORY}\n{command}"]),
            env={"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        if check and done.returncode:
            raise CommandFailed(
                f"{self.name}: {command}: status {done.returncode}: {done.stderr}{done.stdout}"
            )
        return done

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs ``argv`` on it."""
        spaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd")
        return ["nsenter", f"--target={self._systemd()}", *spaces, "--", *argv]

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file on it."""
        file = self.files / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode)
        file.write_text(text)
        file.chmod(mode)

    @property
    def files(self) -> Path:
        """Its file system, as seen from outside."""
        return Path(f"/proc/{self._systemd()}/root")

    def install(self, program: str = PROGRAM) -> None:
        """Install wesher as ``make install`` does, with the libraries of this checkout."""
        self.write("/opt/wesher/bin/wesher", program, 0o755)
        self.run("scripts/install-service ''")

    def close(self) -> None:
        """Cut its power, and take its control groups away."""
        self._unshare.kill()
        self._unshare.wait()
        groups = f"/run/machine/groups/{self._group}"
        # Busy until the last process is buried.
        self.host.run(
            ["sh", "-c", f"until find {groups} -depth -type d -exec rmdir {{}} + ; do sleep 0.05; done"],
            timeout=_PATIENCE,
        )

    def _systemd(self) -> int:
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text().split()
        return int(children[0])

    def _wait_for_systemd(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                if (self.files / "run/systemd/private").exists():
                    return
            except (OSError, IndexError):
                pass
            if self._unshare.poll() is not None or time.monotonic() > deadline:
                raise CommandFailed(f"{self.name}: systemd did not come up")
            time.sleep(0.05)
