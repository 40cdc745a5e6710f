"""The command behind ``make demo``: ``KEEP=1`` leaves everything up until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from wesher_testing.cluster.api_server import ApiServerFailed, KubectlFailed
from wesher_testing.lab.namespaces import CommandFailed
from wesher_testing.run import toolbox
from wesher_testing.run.demo.narrator import ClaimFailed, Narrator
from wesher_testing.run.demo.stages import Demo, how_to_use
from wesher_testing.run.demo.world import World, wireguard_go

_FAILURES = (ClaimFailed, CommandFailed, KubectlFailed, ApiServerFailed, RuntimeError)


def main() -> int:
    """Run the demo; return the exit status."""
    if os.geteuid() != 0:
        command = toolbox.as_root([sys.executable, "-m", "wesher_testing.run.demo"])
        print("· the demo makes network namespaces: running it with sudo", file=sys.stderr)
        os.execv(command[0], command)  # noqa: S606 - the words are ours
    # So that an end by SIGTERM unwinds like an end by Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    say = Narrator()
    try:
        with say.stage("Tools"):
            if not Path("/dev/net/tun").exists():
                say.note("no /dev/net/tun here: only the kernel's WireGuard can work")
            tools = [toolbox.kubernetes_binary(name) for name in ("kube-apiserver", "kubectl")]
            for tool in (*tools, toolbox.etcd(), wireguard_go()):
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
        for log in world.logs:
            say.note(f"the end of {log.name}:")
            say.output("\n".join(log.read_text(errors="replace").splitlines()[-15:]))
        say.verdict(f"FAILED: {error}")
        return 1
    say.verdict(f"done: {say.claims} claims hold")
    return 0


if __name__ == "__main__":
    sys.exit(main())
