"""What whole agents must do on the kernel's WireGuard, told as stories of a mesh of three hosts.

For the VM, whose kernel has it: the whole agent with the flags that users give it,
once a host, and ping between all of them. Of a device alone tell the `device.cases`.
"""

from __future__ import annotations

import base64
import importlib
import itertools
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv4Network
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn, Self

import wesher_agent.app
import wesher_agent.cli.commands
import wesher_common
from wesher_agent.control import AgentUnreachable, ask, socket_path
from wesher_agent.files.state_format import render_state
from wesher_agent.kube import api
from wesher_agent.mesh.saved_state import SavedState
from wesher_common.certificate import Authority, Subject
from wesher_common.keys import ClusterKey, KeyRing, WireGuardPrivateKey
from wesher_common.mesh_document import (
    GossipSettings,
    IdentitySettings,
    MeshDocument,
    WireGuardSettings,
)
from wesher_common.seeds import SeedAddress
from wesher_common.version import VERSION
from wesher_testing.device.harness import addresses, equal, holds, link, routes, wg, wg_peers
from wesher_testing.device.private_hosts import Host, enter, hosts_on_a_switch, in_private_world, only_ever

_STORY_TIMEOUT = 400.0
_PATIENCE = 120.0
"""Seconds for what takes a few: the VM is slow, and the machine may have other work."""
_LOOK_EVERY = 0.5
_REPAIRED_WITHIN = 30.0
_SLOW_VM = 15.0
"""Seconds that a slow VM may add to what our own clock promises."""
_ON_THE_WAY = 10
"""How many of the last pings may lack an answer when ping is ended."""
_ANSWERS_AFTER = 2 * _ON_THE_WAY
"""How many more answers show that all is well after something was done, and that the last hide nothing."""

_INTERFACE = "wgmesh"
_OVERLAY = "10.189.0.0/16"
_KEY = base64.b64encode(bytes(range(100, 132)))
_FIRST = "a"
_AUTHORITY = Authority(b"a" * 32)
_DAY = 24 * 3600.0
_NEXT_VERSION = "99.0.0"
_PACKAGES = (wesher_agent, wesher_common)

_ANSWERED = re.compile(r"bytes from .* icmp_seq=(\d+) ")
_SENT = re.compile(r"^(\d+) packets transmitted", re.MULTILINE)

Story = Callable[[], Any]
STORIES: dict[str, Story] = {}
"""By name, in the order they are told; a story may return figures worth printing."""


def tell(name: str) -> Any:
    """Run one story in a world of its own and return its figures.

    Raises:
        StoryFailed: it did not go as it should.

    """
    return in_private_world(STORIES[name], timeout=_STORY_TIMEOUT)


def _story(story: Story) -> Story:
    STORIES[story.__name__] = story
    return story


@_story
def an_agent_restarts_and_all_are_upgraded_without_a_lost_ping() -> dict[str, float]:
    mesh = _Mesh()
    devices = [_identity(member) for member in mesh.members]
    next_release = _Release(_another_code(mesh.directory))
    steps = [(mesh.members[0], mesh.release, VERSION)]
    steps += [(member, next_release, _NEXT_VERSION) for member in mesh.members]
    begun = time.monotonic()
    with _Pings(mesh) as pings:
        for member, release, version in steps:
            member.stop(signal.SIGTERM)
            member.start(release)
            member.wait_ready(version)
        mesh.wait_whole()
        pings.wait_for_more()
    equal(pings.lost, {}, "pings lost")
    equal([_identity(member) for member in mesh.members], devices, "devices")
    return {"a restart and three upgrades": time.monotonic() - begun}


@_story
def a_device_that_a_killed_agent_left_is_adopted_and_then_looked_after() -> dict[str, float]:
    mesh = _Mesh()
    victim = mesh.members[1]
    device, before = _identity(victim), _handshakes(victim)
    holds(len(before) == len(mesh.members) - 1 and all(before.values()), f"handshakes: {before}")
    with _Pings(mesh) as pings:
        victim.stop(signal.SIGKILL)
        pings.wait_for_more()
        equal(_identity(victim), device, "the device without an agent")
        victim.start(mesh.release)
        victim.wait_ready(VERSION)
        mesh.wait_whole()
        pings.wait_for_more()
    equal(pings.lost, {}, "pings lost")
    equal(_identity(victim), device, "the device that was adopted")
    after = _handshakes(victim)
    holds(all(after.get(peer, 0) >= when for peer, when in before.items()), f"{before} became {after}")

    # Other hands: a peer, the address, the MTU and a route.
    wished, repairs = _looks(victim), victim.repairs
    (destination, *_) = sorted(routes(victim.host, _INTERFACE))
    victim.host.run("wg", "set", _INTERFACE, "peer", next(iter(before)), "remove")
    victim.host.run("ip", "route", "del", destination, "dev", _INTERFACE)
    victim.host.run("ip", "address", "flush", "dev", _INTERFACE)
    victim.host.run("ip", "link", "set", _INTERFACE, "mtu", "1300")
    took = _until(
        lambda: _looks(victim) == wished and victim.repairs > repairs,
        "the device is repaired",
        victim,
        patience=_REPAIRED_WITHIN + _SLOW_VM,
    )
    return {"repaired after": took}


@_story
def tunnels_come_up_by_certificates_on_hosts_that_reboot_into_wrong_clocks() -> dict[str, float]:
    """There is no operator and no API server; one host runs all the time, and its clock jumps too."""
    mesh = _Mesh(_flags_of_a_certified_member)
    equal(_uncertified(mesh), {}, "uncertified")
    took = {}
    right = time.time()
    for clock, wall, rebooted in (
        ("60 days later", right + 60 * _DAY, mesh.members[:2]),
        ("in 1970", _DAY, mesh.members[:1]),
        ("11 years later", right + 11 * 365 * _DAY, mesh.members[1:2]),
    ):
        for member in rebooted:
            member.stop(signal.SIGKILL)
            member.host.run("ip", "link", "delete", _INTERFACE)
        time.clock_settime(time.CLOCK_REALTIME, wall)
        begun = time.monotonic()
        for member in rebooted:
            member.start(mesh.release)
        mesh.wait_whole()
        mesh.wait_reachable()
        took[clock] = time.monotonic() - begun
        equal(_uncertified(mesh), {}, f"uncertified {clock}")
    return took


class _Release:
    """One release of the agent, loaded: its agents are forked from it.

    Loading it takes ten seconds in the VM, and so each start would.

    Args:
        code: the folder with its packages; None is ours, which is loaded already.

    """

    def __init__(self, code: Path | None = None) -> None:
        self._orders, theirs = Pipe()
        if os.fork() == 0:
            only_ever(partial(_be_release, theirs, code))

    def start(self, host: Host, log: Path, flags: Sequence[str]) -> int:
        """Start an agent in a host, everything it says added to a file; return its pid."""
        return int(self._ask("start", host.holder, str(log), flags))

    def ended(self, pid: int) -> int:
        """Wait until an agent has ended; return its exit code, negative for a signal."""
        return int(self._ask("ended", pid))

    def _ask(self, *order: Any) -> Any:
        self._orders.send(order)
        if not self._orders.poll(_PATIENCE):
            raise AssertionError(f"not done within {_PATIENCE:.0f} s: {order[0]}")
        return self._orders.recv()


def _be_release(orders: Connection, code: Path | None) -> NoReturn:
    if code is not None:
        names = tuple(package.__name__ for package in _PACKAGES)
        for module in [module for module in sys.modules if module.partition(".")[0] in names]:
            del sys.modules[module]
        sys.path.insert(0, str(code))
        for module in ("wesher_agent.app", "wesher_agent.cli.commands"):
            importlib.import_module(module)
    main = importlib.import_module("wesher_agent.__main__").main
    while True:
        match orders.recv():
            case ("start", holder, log, flags):
                pid = os.fork()
                if pid == 0:
                    _be_agent(main, holder, log, flags)
                orders.send(pid)
            case ("ended", pid):
                orders.send(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _be_agent(main: Callable[[], int], holder: int, log: str, flags: Sequence[str]) -> NoReturn:
    enter(holder)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    sys.argv = ["wesher", *flags]
    os._exit(main())


class _Member:
    """One host of a mesh, and the agent on it."""

    def __init__(self, name: str, host: Host, folder: Path, flags: Sequence[str]) -> None:
        self.name = name
        self.host = host
        self.folder = folder
        self.overlay_address = ""
        """Empty until it was asked for."""
        self._flags = flags
        self._running: tuple[_Release, int] | None = None

    @property
    def said(self) -> str:
        """What its agents said so far."""
        log = self.folder / "log"
        # A line may be read while it is written, in the middle of a character.
        return log.read_text(errors="replace") if log.exists() else "nothing"

    @property
    def repairs(self) -> int:
        """How often its agents said that they mended the device."""
        return self.said.count("device repaired ")

    def start(self, release: _Release) -> None:
        """Start an agent of a release."""
        self._running = release, release.start(self.host, self.folder / "log", self._flags)

    def stop(self, number: signal.Signals) -> None:
        """End the agent, and check that it ended as the signal has it."""
        if self._running is None:
            raise RuntimeError(f"{self.name} has no agent")
        release, pid = self._running
        os.kill(pid, number)
        expected = 0 if number == signal.SIGTERM else -number
        equal(
            release.ended(pid), expected, f"exit code of {self.name}'s agent, which said {self.said[-1500:]}"
        )

    def ask(self, command: str) -> Any:
        """Return the agent's answer; nothing while nobody answers."""
        try:
            return ask(socket_path(self.folder, _INTERFACE), command)
        except AgentUnreachable:
            return None

    def learn_address(self) -> bool:
        """Ask it for its overlay address; tell whether it answered."""
        self.overlay_address = (self.ask("status") or {}).get("overlayIP", "")
        return bool(self.overlay_address)

    def wait_ready(self, version: str) -> None:
        """Wait until the agent of a version has its device, and its tunnels answer."""

        def is_ready() -> bool:
            status = self.ask("status")
            return (
                status is not None
                and status["version"] == version
                and all(condition["status"] == "True" for condition in status["conditions"])
            )

        _until(is_ready, f"{self.name} is ready with version {version}", self)

    def sees(self, names: set[str]) -> bool:
        """Tell whether exactly these are alive, ourselves included."""
        members = self.ask("members") or []
        return {entry["name"] for entry in members if entry["state"] == "alive"} == names

    def reaches(self, other: _Member) -> bool:
        """Tell whether a ping through the tunnel is answered."""
        return "1 received" in self.host.run("ping", "-c1", "-W2", "-n", other.overlay_address, check=False)


def _common_flags(name: str, folder: Path) -> list[str]:
    places = [f"--state-dir={folder}", f"--run-dir={folder}"]
    return [f"--node-name={name}", *places, "--log-level=info"]


def _flags_of_a_machine(name: str, folder: Path, seed: Host) -> list[str]:
    """Return the flags of an agent outside Kubernetes that joins a host, unless it is that one."""
    (folder / "cluster-key").write_bytes(_KEY)
    (folder / "cluster-key").chmod(0o600)
    return [
        *_common_flags(name, folder),
        f"--cluster-key-file={folder / 'cluster-key'}",
        f"--overlay-net={_OVERLAY}",
        f"--interface={_INTERFACE}",
        *("--bind-iface=eth0", "--no-etc-hosts"),
        # As in Kubernetes.
        "--leave-on-exit=false",
        *([f"--join={seed.address}"] if name != _FIRST else []),
    ]


def _flags_of_a_certified_member(name: str, folder: Path, seed: Host) -> list[str]:
    """Return the flags of an agent in Kubernetes whose API server is away, with the files that it has."""
    os.environ.update({api.HOST_VARIABLE: "127.0.0.1", api.PORT_VARIABLE: "1"})
    api.ACCOUNT.mkdir(parents=True, exist_ok=True)
    (api.ACCOUNT / "token").write_text("none")
    identity = IdentitySettings(mode="Verified", bound=True, form="Compact", authorities=(_AUTHORITY.key,))
    mesh = MeshDocument(
        name="m",
        uid="u",
        overlay=IPv4Network(_OVERLAY),
        allocation=IPv4Network(_OVERLAY),
        wireguard=WireGuardSettings(interface=_INTERFACE),
        gossip=GossipSettings(profile="LAN"),
        etc_hosts="Off",
        cluster_seeds=(SeedAddress(str(seed.address)),),
        identity=identity,
    )
    key = WireGuardPrivateKey.from_random(name.encode() * 32)
    address = IPv4Network(_OVERLAY)[ord(name)]
    subject = Subject(name=name, public_key=key.public, address=address)
    state = SavedState(
        key_ring=KeyRing(ClusterKey(base64.b64decode(_KEY))),
        private_key=key,
        name=name,
        overlay_address=address,
        certificate=_AUTHORITY.issue(subject, serial=round(time.time() * 1000)),
        mesh=mesh,
    )
    (folder / f"{_INTERFACE}.json").write_text(render_state(state))
    mounted = folder / "mesh"
    mounted.mkdir()
    for file, content in {"mesh.json": mesh.to_json(), "cluster-key": _KEY.decode()}.items():
        (mounted / file).write_text(content)
    return [*_common_flags(name, folder), f"--kubernetes={mounted}"]


class _Mesh:
    """Three hosts with an agent each, started, and whole.

    Args:
        flags: returns an agent's flags, by name, folder and first host; it may write files there.

    """

    def __init__(self, flags: Callable[[str, Path, Host], list[str]] = _flags_of_a_machine) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="mesh-"))
        hosts = hosts_on_a_switch(3)
        self.members: list[_Member] = []
        for name, host in zip("abc", hosts, strict=True):
            folder = self.directory / name
            folder.mkdir()
            self.members.append(_Member(name, host, folder, flags(name, folder, hosts[0])))
        # After the flags, which may need variables that the agents get from it.
        self.release = _Release()
        for member in self.members:
            member.start(self.release)
        self.wait_whole()
        for member in self.members:
            _until(member.learn_address, f"{member.name} tells its address", member)
        self.wait_reachable()

    def wait_reachable(self) -> None:
        """Wait until everybody reaches everybody through the tunnels."""
        for one, other in itertools.permutations(self.members, 2):
            _until(partial(one.reaches, other), f"{one.name} reaches {other.name}", one)

    def wait_whole(self) -> None:
        """Wait until everybody sees everybody."""
        names = {member.name for member in self.members}
        for member in self.members:
            _until(partial(member.sees, names), f"{member.name} sees {names}", member)


class _Pings:
    """Pings from each host to each other one, ten a second, while the context lasts."""

    def __init__(self, mesh: _Mesh) -> None:
        self.lost: dict[str, list[int]] = {}
        """Once stopped, by ``from-to``: the numbers of pings without an answer; empty when there are none."""
        self._mesh = mesh
        self._running: dict[str, tuple[Host, int, Path]] = {}

    def __enter__(self) -> Self:
        for one, other in itertools.permutations(self._mesh.members, 2):
            pair = f"{one.name}-{other.name}"
            says = self._mesh.directory / pair
            argv = ("ping", "-n", "-i", "0.1", other.overlay_address)
            self._running[pair] = (one.host, one.host.launch(*argv, says=says, environment={}), says)
        self.wait_for_more()
        return self

    def wait_for_more(self) -> None:
        """Wait until each pair has had some further answers."""
        wanted = {pair: len(_answered(says)) + _ANSWERS_AFTER for pair, (_, _, says) in self._running.items()}
        for pair, (_, _, says) in self._running.items():
            _until(partial(_has_answers, says, wanted[pair]), f"{pair} has {wanted[pair]} answers")

    def __exit__(self, *exception: object) -> None:
        for running in self._running.values():
            # So that it prints its summary.
            os.kill(running[1], signal.SIGINT)
        for pair, (host, pid, says) in self._running.items():
            host.ended(pid)
            if lost := _unanswered(says):
                self.lost[pair] = lost


def _uncertified(mesh: _Mesh) -> dict[str, str]:
    """Return why members do not count as certified, by ``from-to``."""
    return {
        f"{member.name}-{entry['name']}": entry["uncertified"]
        for member in mesh.members
        for entry in member.ask("members") or []
        if entry["uncertified"]
    }


def _has_answers(says: Path, count: int) -> bool:
    return len(_answered(says)) >= count


def _answered(says: Path) -> set[int]:
    return {int(number) for number in _ANSWERED.findall(says.read_text())}


def _unanswered(says: Path) -> list[int]:
    sent = _SENT.search(says.read_text())
    if sent is None:
        raise AssertionError(f"not the words of a ping that ended: {says.read_text()[-500:]}")
    # The last ones may still have been on their way.
    return sorted(set(range(1, int(sent[1]) - _ON_THE_WAY)) - _answered(says))


def _another_code(folder: Path) -> Path:
    """Return where the code of another release lies: ours elsewhere, with another version."""
    code = folder / "next"
    for package in _PACKAGES:
        source = Path(str(package.__file__)).parent
        shutil.copytree(source, code / source.name)
    version = code / "wesher_common/version.py"
    version.write_text(version.read_text().replace(VERSION, _NEXT_VERSION))
    return code


def _identity(member: _Member) -> tuple[int, str]:
    """Return what tells a device from one made anew: its number, and its public key."""
    return int(link(member.host, _INTERFACE)["ifindex"]), wg(member.host, "public-key", _INTERFACE)


def _handshakes(member: _Member) -> dict[str, int]:
    return {peer: int(when) for peer, when in wg_peers(member.host, "latest-handshakes", _INTERFACE).items()}


def _looks(member: _Member) -> tuple[object, ...]:
    host = member.host
    return (
        wg_peers(host, "allowed-ips", _INTERFACE),
        addresses(host, _INTERFACE),
        routes(host, _INTERFACE),
        link(host, _INTERFACE)["mtu"],
    )


def _until(
    reached: Callable[[], bool], what: str, member: _Member | None = None, *, patience: float = _PATIENCE
) -> float:
    """Wait for something; return how many seconds it took."""
    begun = time.monotonic()
    while not reached():
        if time.monotonic() > begun + patience:
            raise AssertionError(
                f"not within {patience:.0f} s: {what}" + (f"; said: {member.said[-3000:]}" if member else "")
            )
        time.sleep(_LOOK_EVERY)
    return time.monotonic() - begun
