"""The ``wesher`` command as a process: what signals and a closed output do to it."""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Run the command line and return its exit code."""
    # Ctrl-C ends a command silently, even while modules load; the agent handles the signal itself.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from wesher_agent.cli import commands  # noqa: PLC0415
    except ModuleNotFoundError as error:
        # kubectl's plugin is installed with this command, but without its libraries.
        library = str(error.name).partition(".")[0]
        text = f"wesher: error: the library {library} is missing: install wesher[agent]"
        print(text, file=sys.stderr)  # noqa: T201 - a command's answer
        return 1
    try:
        try:
            return commands.run(sys.argv[1:], os.environ)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough, as `head` has.
        _drop_output()
    except OSError as error:
        print(f"wesher: error: {error}", file=sys.stderr)  # noqa: T201 - a command's answer
        _drop_output()
    return commands.FAILURE


def _drop_output() -> None:
    """Discard what could not be written: the interpreter would report it again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
