"""A long build beside the demo: at the lowest priority, with its own log, ended with the demo."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wesher_testing.run.cache import hand_back
from wesher_testing.run.process_group import end_group, signals_held
from wesher_testing.run.toolbox import REPOSITORY

_NOT_FOR_IT = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHONDONTWRITEBYTECODE")
"""What the make and the Python that started the demo mean only for the demo."""


class Background:
    """One command in the background; use it as a context, whose end ends the command.

    Under sudo it runs as the user who called, since it writes into the checkout and the cache.

    Args:
        argv: the command; it runs at the root of the checkout.
        log: where its output goes; a former one is overwritten.

    Attributes:
        log: the same.

    """

    def __init__(self, argv: Sequence[str], log: Path) -> None:
        self.log = log
        self._argv = argv

    def __enter__(self) -> Self:
        # Go's build directories would be left behind by a build that is killed.
        self._scratch = Path(tempfile.mkdtemp(prefix="wesher-demo-build-"))
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_IT}
        environment |= {"TMPDIR": str(self._scratch), "PYTHONPATH": str(REPOSITORY / "tests/support")}
        options: dict[str, Any] = {}
        if caller := _caller():
            environment |= {"HOME": caller.pw_dir, "USER": caller.pw_name, "LOGNAME": caller.pw_name}
            groups = os.getgrouplist(caller.pw_name, caller.pw_gid)
            options = {"user": caller.pw_uid, "group": caller.pw_gid, "extra_groups": groups}
            os.chown(self._scratch, caller.pw_uid, caller.pw_gid)
        with ExitStack() as starting, self.log.open("wb") as words:
            starting.enter_context(signals_held())
            self._child = subprocess.Popen(
                ["nice", "-n", "19", *self._argv],
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                # In a group of its own: a Ctrl-C at the terminal is for the demo, which ends it.
                process_group=0,
                **options,
            )
            try:
                # An interruption that came while the build was started ends it here.
                starting.close()
            except BaseException:
                self.__exit__(None, None, None)
                raise
        hand_back(self.log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            end_group(self._child)
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The pid of the command, which is also its process group's."""
        return self._child.pid

    @property
    def status(self) -> int | None:
        """The exit status of a command that has ended."""
        return self._child.returncode

    def has_ended(self) -> bool:
        """Return whether the command has ended."""
        return self._child.poll() is not None


def _caller() -> pwd.struct_passwd | None:
    """Return the user who called sudo."""
    if os.geteuid() != 0 or "SUDO_UID" not in os.environ:
        return None
    return pwd.getpwuid(int(os.environ["SUDO_UID"]))
