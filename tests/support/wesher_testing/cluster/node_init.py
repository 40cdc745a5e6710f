"""The first process of a lab's node: it buries orphans, and all of the node ends when it does.

Started by `wesher_testing.cluster.kubelets` as a program of its own in a new pid and mount
namespace. It lays out what a kubelet would otherwise share with the machine, then
says so with an empty line and waits. Killing it is a power cut.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_KERNEL_SETTINGS = {
    "kernel/keys/root_maxbytes": 25_000_000,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
}
"""What a kubelet sets unless it finds it so: pkg/kubelet/cm, setupKernelTunables."""


def main(arguments: Sequence[str]) -> int:
    """Lay out the node with its own ``directory`` for what must outlive it; never return by itself."""
    directory = Path(arguments[0])
    # Nothing may spread to the host's namespace, and volumes must spread to containers as on any node.
    _mount("--make-rprivate", "/")
    logs = directory / "log"
    logs.mkdir(parents=True, exist_ok=True)
    _mount("--bind", str(logs), "/var/log")
    for name, value in _KERNEL_SETTINGS.items():
        shown = directory / "sys" / name
        shown.parent.mkdir(parents=True, exist_ok=True)
        shown.write_text(f"{value}\n")
        _mount("--bind", str(shown), f"/proc/sys/{name}")
    _mount("--make-rshared", "/")

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    print(flush=True)
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        signal.sigwait({signal.SIGCHLD})


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
