"""First and only process of the VM that `vm` boots: tells the stories, then ends the machine.

There is no shell, no udev and no modprobe: what a story needs is Python, three
programs and the modules that are loaded here.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sys
import time
import traceback
import tty
from collections.abc import Callable
from pathlib import Path

MODULES = Path("/modules")
"""Kernel modules, their names in the order to load them."""
REQUEST = Path("/request.json")
RESULTS = Path("/dev/ttyS1")

_FINIT_MODULE = 313
_RB_AUTOBOOT = 0x01234567
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Tell every story that was asked for, one JSON line each."""
    for kind, target in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run")):
        Path(target).mkdir(exist_ok=True)
        _libc.mount(kind.encode(), target.encode(), kind.encode(), 0, None)
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    with RESULTS.open("w") as results:
        tty.setraw(results.fileno())

        def say(**line: object) -> None:
            print(json.dumps(line), file=results, flush=True)

        say(kernel=platform.release())
        try:
            _load_modules()
            request = json.loads(REQUEST.read_text())
            sys.path[:0] = request["path"]
            _tell(request["stories"], say)
        except Exception:  # noqa: BLE001 - whatever it is, the other side prints it
            say(broken=traceback.format_exc())
        say(done=True)
    os.sync()
    # QEMU is told not to reboot, so this ends it, whatever the machine has of ACPI.
    _libc.reboot(_RB_AUTOBOOT)


def _tell(stories: list[str], say: Callable[..., None]) -> None:
    from wesher_testing.device import cases, mesh_cases  # noqa: PLC0415 - their path was not known before
    from wesher_testing.device.harness import Carrier  # noqa: PLC0415
    from wesher_testing.device.private_hosts import StoryFailed  # noqa: PLC0415

    for name in stories:
        start = time.monotonic()
        try:
            if name in mesh_cases.STORIES:
                figures = mesh_cases.tell(name)
            else:
                figures = cases.tell(name, Carrier("Kernel"))
            say(story=name, seconds=time.monotonic() - start, figures=figures)
        except StoryFailed as failed:
            say(story=name, seconds=time.monotonic() - start, failure=str(failed))


def _load_modules() -> None:
    for module in sorted(MODULES.iterdir()):
        with module.open("rb") as file:
            if _libc.syscall(_FINIT_MODULE, file.fileno(), b"", 0) != 0:
                raise OSError(ctypes.get_errno(), f"module {module.name}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
