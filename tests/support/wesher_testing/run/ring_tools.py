"""Gets the tools that rings name: ``python -m wesher_testing.run.ring_tools TOOL ...``.

It builds or unpacks one after the other into the cache, and prints a line of JSON for
each as soon as it is done: its name, and the reason if it cannot be had. The runner
then starts the rings that wait for it.
"""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import get_args

from wesher_testing.cluster import flannel, kubelets
from wesher_testing.cluster.earlier_release import earlier_release, is_in_history
from wesher_testing.cluster.helm import VERSIONS, helm
from wesher_testing.cluster.image import builder_flags, wesher_image
from wesher_testing.device import vm
from wesher_testing.peers import attacker, go_peer
from wesher_testing.run import toolbox
from wesher_testing.run.cache import ToolUnavailable

_INTERRUPTED = 130
"""The exit status of a program that a Ctrl-C has ended."""


def _gossip_peers() -> object:
    built = [go_peer.binary(library) for library in get_args(go_peer.Library)]
    return built, toolbox.debian_package_root("serf")


def _api_server() -> object:
    return [toolbox.kubernetes_binary(name) for name in ("kube-apiserver", "kubectl")], toolbox.etcd()


def _helm() -> object:
    return [helm(version) for version in VERSIONS]


def _cluster() -> object:
    kubelets.prepare()
    flannel.prepare()
    if is_in_history():
        earlier_release()
    return wesher_image()


TOOLS: Mapping[str, Callable[[], object]] = {
    "wireguard-go": toolbox.wireguard_go,
    "stand-in": builder_flags,
    "attacker": attacker.binary,
    "gossip peers": _gossip_peers,
    "vm": vm.prepare,
    "api server": _api_server,
    "helm": _helm,
    "cluster": _cluster,
}
"""What gets each tool, quick ones first; it may raise `ToolUnavailable`."""


def main(names: list[str]) -> int:
    """Get the tools; return the exit status."""
    try:
        for name in sorted(names, key=list(TOOLS).index):
            print(json.dumps({"tool": name, **_get(TOOLS[name])}), flush=True)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def _get(get: Callable[[], object]) -> dict[str, object]:
    try:
        get()
    except ToolUnavailable as error:
        return {"lacking": str(error)}
    except Exception as error:  # noqa: BLE001 - the other tools are still to be got
        traceback.print_exc()
        return {"broken": f"{type(error).__name__}: {error}"}
    return {}


if __name__ == "__main__":
    # The children of a long step are ended on SIGTERM as on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
