"""The second half of ``make demo``, in Kubernetes: ``KEEP=1`` leaves it up until Ctrl-C.

Runs as root on the developers' environment, which the first half has made by now.
"""

from __future__ import annotations

import os
import signal
import sys

from wesher_testing.cluster.api_server import ApiServerFailed, KubectlFailed
from wesher_testing.run import toolbox
from wesher_testing.run.demo import kubernetes_parts
from wesher_testing.run.demo.kept import how_to_end, on_script
from wesher_testing.run.demo.narrator import FAILURES, Narrator
from wesher_testing.run.demo.stages import NODES, OUTSIDER, PROGRAMS, Demo, kubectl_script
from wesher_testing.run.demo.world import World

_FAILURES = (*FAILURES, KubectlFailed, ApiServerFailed)


def main() -> int:
    """Run it; return the exit status."""
    # So that an end by SIGTERM unwinds like an end by Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    say = Narrator()
    say.headline("a mesh in Kubernetes")
    try:
        with say.stage("Tools"):
            for tool in kubernetes_parts.programs():
                say.note(str(tool))
        with World() as world:
            status = _show(say, world)
            if os.environ.get("KEEP") and world.has_api:
                print(how_to_use(world), flush=True)
                signal.pause()
            return status
    except KeyboardInterrupt:
        say.verdict("ended; nothing is left")
        return 130
    except toolbox.ToolUnavailable as error:
        print(error, file=sys.stderr)
        return 1


def _show(say: Narrator, world: World) -> int:
    try:
        Demo(say, world).run()
    except _FAILURES as error:
        say.failure(error, world.logs)
        return 1
    say.verdict(f"done: {say.claims} claims hold")
    return 0


def how_to_use(world: World) -> str:
    """Write scripts that reach into a demo that is left up, and return how to use and end it."""
    directory = world.lab.directory
    kubectl_script(directory / "kubectl", world.api)
    on = on_script(world.lab, PROGRAMS)
    return "\n".join(
        (
            "The mesh stays up. As root, in another terminal:",
            f"  {directory}/kubectl get wesher",
            f"  {directory}/kubectl wesher status",
            f"  {on} {NODES[0]} wesher members",
            f"  {on} {NODES[0]} ping {NODES[1]}",
            f"  {on} {OUTSIDER}    # a shell there",
            f"  ls {directory}/*.log",
            how_to_end(),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
