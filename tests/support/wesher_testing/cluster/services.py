"""A service of a lab's node, started as systemd starts a unit with ``Type=notify``.

`running` is what the unit's manager does: it starts the program with a socket to notify, and writes a file
once the program is ready. `after` is ``After=``: it holds another program back until then. A restart is that
of ``systemctl restart`` with ``KillMode=process``: only the main process gets the signal.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_RUN = "/run"
"""A reboot forgets it."""


def running(unit: str, argv: Sequence[str | Path]) -> list[str]:
    """Return the command that runs a unit on its node."""
    return [sys.executable, "-I", __file__, unit, *map(str, argv)]


def restart(unit: str) -> list[str]:
    """Return the command that restarts a unit and waits until it is ready again."""
    wait = f"until [ -e {_RUN}/{unit}.ready ]; do sleep 0.05; done"
    return ["sh", "-ec", f"rm {_RUN}/{unit}.ready; kill -HUP $(cat {_RUN}/{unit}.pid); {wait}"]


def after(unit: str) -> list[str]:
    """Return what holds a program back until a unit is ready."""
    return ["sh", "-c", f'until [ -e {_RUN}/{unit}.ready ]; do sleep 0.05; done; exec "$@"', "sh"]


def main(unit: str, argv: Sequence[str]) -> None:
    """Keep a unit running; return only with an error."""
    manager, ready = Path(_RUN, f"{unit}.notify"), Path(_RUN, f"{unit}.ready")
    signal.signal(signal.SIGHUP, lambda *_: program.terminate())
    Path(_RUN, f"{unit}.pid").write_text(str(os.getpid()))
    while True:
        manager.unlink(missing_ok=True)
        ready.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(manager))
            program = subprocess.Popen(argv, env={**os.environ, "NOTIFY_SOCKET": str(manager)})
            notified.settimeout(0.1)
            while program.poll() is None:
                try:
                    message = notified.recv(4096).decode()
                except TimeoutError:
                    continue
                if "READY=1" in message.splitlines():
                    ready.write_text(message)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
