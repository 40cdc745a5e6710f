"""The rings of tests, from the innermost out: ``python -m wesher_testing.rings [RING ...]``.

Each ring has a share of the time that everything may take on two cores; how they
are run and counted is `wesher_testing.ring_runner`.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import get_args

from wesher_testing import attacker, go_peer, kubelets, toolbox
from wesher_testing.demo.world import wireguard_go
from wesher_testing.helm import VERSIONS, helm
from wesher_testing.image import wesher_image
from wesher_testing.ring_runner import Ring, Step, run

SET_UP_MINUTES = 22.0
"""What building and fetching all tools may take on a machine without the cache."""
ALL_MINUTES = 80.0
"""What everything may take on such a machine."""

_BIN = Path(sys.executable).parent


def _tool(name: str, *arguments: str) -> Step:
    return Step(name if not arguments else f"{name} {arguments[0]}", (str(_BIN / name), *arguments))


def _tests(*folders: str, marked: str = "", name: str = "tests") -> Step:
    paths = (f"tests/{folder}" for folder in folders)
    return Step(
        name,
        (sys.executable, "-m", "pytest", "-q", *(("-m", marked) if marked else ()), *paths),
        counts_itself=True,
    )


def _gossip_peers() -> object:
    built = [go_peer.binary(library) for library in get_args(go_peer.Library)]
    return built, toolbox.debian_package_root("serf")


def _api_server() -> object:
    return _kubernetes("kube-apiserver", "kubectl"), toolbox.etcd()


def _helm() -> object:
    return [helm(version) for version in VERSIONS]


def _cluster() -> object:
    kubelets.prepare()
    return wesher_image(), helm(3)


def _kubernetes(*names: str) -> object:
    return [toolbox.kubernetes_binary(name) for name in names]


RINGS = (
    Ring(
        "check",
        "style, types, import rules, unit and property tests",
        1.5,
        (
            _tool("ruff", "check", "."),
            _tool("ruff", "format", "--check", "."),
            _tool("lint-imports", "--no-logo"),
            _tool("mypy"),
            # Two, since there are two cores.
            _tests("unit", marked="not needs_root", name="unit tests"),
            _tests("property", "repo", "fuzz/test_kept_inputs.py", name="other tests"),
        ),
    ),
    Ring(
        "fuzz", "every decoder, against inputs nobody has thought of", 4, (_tests("fuzz/test_new_inputs.py"),)
    ),
    Ring("sim", "the gossip engine on a virtual network", 4, (_tests("sim"),)),
    Ring(
        "interop",
        "gossip with Go's memberlist and with serf",
        4,
        (_tests("interop"),),
        prepare=(_gossip_peers,),
    ),
    Ring(
        "lab",
        "what needs root but no mesh: files on real mounts, an installation, the namespaces of outer rings",
        2,
        (_tests("lab", "unit", marked="needs_root"),),
        needs_root=True,
    ),
    Ring(
        "agent",
        "the agent as a process, attacked too",
        6,
        (_tests("agent"),),
        needs_root=True,
        prepare=(wireguard_go, attacker.binary),
    ),
    Ring(
        "wireguard",
        "user-space WireGuard devices",
        2,
        (_tests("wireguard"),),
        needs_root=True,
        prepare=(wireguard_go,),
    ),
    Ring(
        "reliability",
        "cuts, kills, restarts and foreign hands on meshes of real hosts, Go's memberlist beside",
        7,
        (_tests("reliability"),),
        needs_root=True,
        prepare=(wireguard_go, _gossip_peers),
    ),
    Ring("vm", "kernel WireGuard and a mesh of it, on a real kernel in QEMU", 4, (_tests("vm"),)),
    Ring(
        "apiserver",
        "the operator and the chart on a real API server",
        7,
        (_tests("apiserver"),),
        prepare=(_api_server, _helm),
    ),
    Ring(
        "demo",
        "a mesh of three hosts from end to end",
        2,
        (_tests("demo"),),
        needs_root=True,
        prepare=(_api_server, wireguard_go),
    ),
    Ring(
        "cluster",
        "the image and the chart on real kubelets",
        15,
        (_tests("cluster"),),
        needs_root=True,
        prepare=(_api_server, _cluster, _helm),
    ),
)


def main(names: list[str]) -> int:
    """Run the named rings, or all; return the exit status."""
    known = {ring.name: ring for ring in RINGS}
    if unknown := [name for name in names if name not in known]:
        print(f"no ring {unknown[0]!r}: there are {', '.join(known)}", file=sys.stderr)
        return 2
    # So that children are ended on SIGTERM as they are on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run(
        [known[name] for name in names] or RINGS, set_up_minutes=SET_UP_MINUTES, all_minutes=ALL_MINUTES
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
