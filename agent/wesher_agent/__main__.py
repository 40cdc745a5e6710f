"""The ``wesher`` command."""

from __future__ import annotations

import os
import sys

from wesher_agent.cli import commands


def main() -> int:
    """Run the command line and return its exit code."""
    return commands.run(sys.argv[1:], os.environ)


if __name__ == "__main__":
    sys.exit(main())
