"""The command ``kubectl-wesher``, which kubectl runs for ``kubectl wesher``."""

from __future__ import annotations

import sys

EXIT_FAILED = 1


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        from wesher_operator.kubectl import commands  # noqa: PLC0415
    except ModuleNotFoundError as error:
        # The wheel brings this command also to machines that want another of its commands.
        library = str(error.name).partition(".")[0]
        text = f"kubectl wesher: error: the library {library} is missing: install wesher[kubectl]"
        print(text, file=sys.stderr)  # noqa: T201 - a command's answer
        return EXIT_FAILED
    return commands.main()


if __name__ == "__main__":
    sys.exit(main())
