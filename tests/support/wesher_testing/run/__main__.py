"""Runs rings of tests: ``python -m wesher_testing.run [RING ...]``, all without a name."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wesher_testing.run import rings, system_packages
from wesher_testing.run.ring_runner import run

ALL_MINUTES = 80.0
"""What all rings may take in CI, on a machine without the cache."""
_INTERRUPTED = 130
"""The exit status of a program that a Ctrl-C has ended."""


def main(names: list[str]) -> int:
    """Install what the named rings need and run them; return the exit status."""
    try:
        chosen = rings.named(names)
    except rings.UnknownRing as error:
        print(error, file=sys.stderr)
        return 2
    programs = (program for ring in chosen for program in ring.programs)
    try:
        if status := system_packages.install(system_packages.missing(programs)):
            return status
    except KeyboardInterrupt:
        return _INTERRUPTED
    return run(chosen, get_tools=_get_tools, all_minutes=ALL_MINUTES)


def _get_tools(names: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "wesher_testing.run.ring_tools", *names]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
