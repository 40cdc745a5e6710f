"""The programs that the Kubernetes half of the demo runs: got in the background, shown later."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from wesher_testing.run import toolbox


def programs() -> Iterator[Path]:
    """Yield each program once it is there.

    Raises:
        ToolUnavailable: one cannot be had.

    """
    for name in ("kube-apiserver", "kubectl"):
        yield toolbox.kubernetes_binary(name)
    yield toolbox.etcd()
    yield toolbox.wireguard_go()


def main() -> int:
    """Get them; return the exit status."""
    try:
        for program in programs():
            print(program, flush=True)
    except toolbox.ToolUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    # The children of a long step are ended on SIGTERM as on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
