"""The rings of tests, from the innermost out: what each proves, needs and may cost.

``python -m wesher_testing.run.rings [RING ...]`` only checks the names, before anything is
installed, so nothing here needs more than Python itself. `wesher_testing.run` runs
them, and `wesher_testing.run.ring_tools` gets the tools that they name.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from wesher_testing.run.system_packages import HOSTS, IMAGES
from wesher_testing.run.toolbox import REPOSITORY

_BIN = Path(sys.executable).parent


class Lane(Enum):
    """What a ring mostly does. The runner takes one ring of each lane at a time."""

    COMPUTES = "computes"
    WAITS = "waits"


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a ring."""

    name: str
    argv: tuple[str, ...]
    counts_itself: bool = False
    """Whether it is pytest and reports how many tests it ran; any other command counts as one."""
    quiet: bool = False
    """Whether its output is shown only if it fails."""


@dataclass(frozen=True, slots=True)
class Ring:
    """One ring: what it proves, what it costs, what it needs."""

    name: str
    proves: str
    minutes: float
    """Its share of the time on two cores, beside a ring of the other lane; set-up is not counted."""
    steps: tuple[Step, ...]
    lane: Lane = Lane.COMPUTES
    workers: int = 1
    """How many of its steps run at the same time."""
    needs_root: bool = False
    programs: tuple[str, ...] = ()
    """Programs of `wesher_testing.run.system_packages.PACKAGES` that it runs."""
    tools: tuple[str, ...] = ()
    """What `wesher_testing.run.ring_tools` must get for it."""


class UnknownRing(ValueError):  # noqa: N818 - reads as the fact it states
    """There is no ring of that name; the text lists those there are."""


def _tool(name: str, *arguments: str) -> Step:
    step = name if not arguments else f"{name} {arguments[0]}"
    return Step(step, (str(_BIN / name), *arguments), quiet=True)


def _tests(*folders: str, marked: str = "", name: str = "tests", quiet: bool = False) -> Step:
    paths = (f"tests/{folder}" for folder in folders)
    marks = ("-m", marked) if marked else ()
    return Step(name, (sys.executable, "-m", "pytest", "-q", *marks, *paths), counts_itself=True, quiet=quiet)


def _files(folder: str, *, only: Sequence[str] = (), but: Sequence[str] = ()) -> list[str]:
    """Return the files of tests in a folder below ``tests``, all of them or the named ones."""
    found = sorted((REPOSITORY / "tests" / folder).glob("test_*.py"))
    return [
        f"{folder}/{file.name}" for file in found if file.stem not in but and (not only or file.stem in only)
    ]


def _file_by_file(folder: str, *longest: str) -> tuple[Step, ...]:
    """Return a step for each file of tests in a folder, the longest ones first."""
    others = _files(folder, but=longest)
    ordered = [file for name in longest for file in _files(folder, only=[name])] + others
    return tuple(_tests(file, name=Path(file).stem) for file in ordered)


_OTHER_CLUSTERS = (
    "test_make_cluster",
    "test_two_clusters",
    "test_on_top",
    "test_readiness",
    "test_traffic",
    "test_across_clouds",
    "test_flannel",
)
"""Files of the cluster ring that make clusters of their own, beside the one that the others share."""
_SECOND_API_SERVER = (
    *("test_operator", "test_errands", "test_crd_rules", "test_chart", "test_agent_pods"),
    *("test_peers", "test_new_authority"),
)
"""Half of the apiserver ring by time; each half has an API server and an etcd."""

RINGS = (
    Ring(
        "check",
        "style, types, import rules, unit and property tests",
        5,
        (
            _tool("ruff", "check", "."),
            _tool("ruff", "format", "--check", "."),
            _tool("lint-imports", "--no-logo"),
            _tool("mypy"),
            # Two, since there are two cores.
            _tests("unit", marked="not needs_root", name="unit tests", quiet=True),
            _tests("property", "repo", "fuzz/test_kept_inputs.py", name="other tests", quiet=True),
        ),
        workers=6,
    ),
    Ring(
        "lab",
        "tests that need root but no cluster: real mounts, installations, a release, the systemd service",
        6,
        (
            *_file_by_file("lab", "test_operations", "test_migration", "test_release"),
            _tests("unit/files", marked="needs_root", name="test_files"),
        ),
        workers=3,
        needs_root=True,
        programs=(*HOSTS, *IMAGES, "dpkg-deb", "systemd-analyze"),
        tools=("wireguard-go", "gossip peers", "stand-in"),
    ),
    Ring(
        "sim",
        "members on a simulated network, fuzzed decoders, and sabotaged code that the tests must catch",
        14,
        (
            _tests("sim", name="simulations"),
            _tests("fuzz/test_new_inputs.py", name="new inputs"),
            Step("sabotage", (sys.executable, "tests/sabotage.py")),
        ),
        workers=2,
    ),
    Ring(
        "wireguard",
        "user-space WireGuard devices",
        1.5,
        (_tests("wireguard"),),
        lane=Lane.WAITS,
        needs_root=True,
        programs=("ip", "ping", "wg"),
        tools=("wireguard-go",),
    ),
    Ring(
        "agent",
        "the agent as a process, including attacks on it",
        16,
        _file_by_file(
            "agent", "test_live_edits", "test_attacks", "test_one_host", "test_hostile", "test_mesh"
        ),
        lane=Lane.WAITS,
        workers=3,
        needs_root=True,
        programs=HOSTS,
        tools=("wireguard-go", "attacker"),
    ),
    # The longest of its lane, so it is begun early: the rings after it then fit into either lane.
    Ring(
        "cluster",
        "the image and the chart on real kubelets",
        26,
        (
            _tests(*_files("cluster", but=_OTHER_CLUSTERS), name="one cluster"),
            _tests(*_files("cluster", only=_OTHER_CLUSTERS), name="separate clusters"),
        ),
        lane=Lane.WAITS,
        workers=2,
        needs_root=True,
        programs=(*HOSTS, *IMAGES, "kill", "pgrep"),
        tools=("api server", "helm", "cluster"),
    ),
    Ring(
        "reliability",
        "cuts, kills, restarts and outside changes on meshes of real hosts, some with Go's memberlist",
        6,
        _file_by_file("reliability", "test_partitions", "test_kills", "test_loss"),
        lane=Lane.WAITS,
        workers=3,
        needs_root=True,
        programs=HOSTS,
        tools=("wireguard-go", "gossip peers"),
    ),
    Ring(
        "vm",
        "kernel WireGuard, alone and in a mesh, on a real kernel in QEMU",
        6,
        (_tests("vm"),),
        programs=("ip", "ping", "wg", "qemu-system-x86_64", "zstd"),
        tools=("vm",),
    ),
    Ring(
        "interop",
        "gossip with Go's memberlist and with serf",
        3,
        _file_by_file("interop", "test_mixed_mesh", "test_large_mesh", "test_tombstones"),
        lane=Lane.WAITS,
        workers=3,
        tools=("gossip peers",),
    ),
    Ring(
        "apiserver",
        "the operator and the chart on a real API server",
        17,
        (
            _tests(*_files("apiserver", but=_SECOND_API_SERVER), name="one API server"),
            _tests(*_files("apiserver", only=_SECOND_API_SERVER), name="another API server"),
        ),
        workers=2,
        tools=("api server", "helm"),
    ),
    Ring(
        "demo",
        "a mesh of plain machines and one in Kubernetes, from end to end",
        5,
        _file_by_file("demo", "test_demo"),
        workers=2,
        needs_root=True,
        programs=HOSTS,
        tools=("api server", "wireguard-go"),
    ),
)


def named(names: Sequence[str]) -> tuple[Ring, ...]:
    """Return the rings of these names, all of them for no name.

    Raises:
        UnknownRing: there is no ring of one of the names.

    """
    known = {ring.name: ring for ring in RINGS}
    if unknown := [name for name in names if name not in known]:
        raise UnknownRing(f"there is no ring {unknown[0]!r}: choose from {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names)) or RINGS


def main(names: list[str]) -> int:
    """Check the names; return the exit status."""
    try:
        named(names)
    except UnknownRing as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
