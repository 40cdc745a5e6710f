"""A mesh of real agents in a lab, and what tests of its reliability do to it and ask of it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import Any, Self

from wesher_agent.files.state_format import parse_state
from wesher_agent.wireguard import uapi
from wesher_agent.wireguard.plan import ObservedDevice
from wesher_common.certificate import Authority
from wesher_testing.agents.mounted_files import document, mount, mounted_flags, remember, remember_certified
from wesher_testing.agents.process import KEY, AgentProcess, wait_until
from wesher_testing.lab.cleartext import Seen, watched
from wesher_testing.lab.namespaces import Host
from wesher_testing.lab.pings import Pinging

INTERFACE, PORT = "wgoverlay", 7946
AGENT, CARRIER = "wesher", "wireguard"
"""The names of processes: ours, and wireguard-go's."""
STATE = "var/lib/wesher/wgoverlay.json"
_PATIENCE = 150.0
_END_PATIENCE = 60.0
_OUR_ROOMS = ("run/wesher", "run/wireguard", "var/lib/wesher")


@dataclass(frozen=True, slots=True)
class Traces:
    """What of an agent is on a host."""

    processes: tuple[str, ...]
    links: tuple[str, ...]
    routes: tuple[str, ...]
    files: tuple[str, ...]


class RealMesh:
    """Agents by their hosts' names.

    Args:
        hosts: where they run.
        launch: starts the agent of a host.
        overlay: the mesh's network.

    """

    def __init__(
        self, hosts: Iterable[Host], launch: Callable[[Host], AgentProcess], overlay: IPv4Network
    ) -> None:
        self.hosts = {host.name: host for host in hosts}
        self.overlay = overlay
        self._launch = launch
        self.agents = {name: launch(host) for name, host in self.hosts.items()}

    @classmethod
    def plain(cls, *hosts: Host) -> Self:
        """Start agents outside Kubernetes that join the first, unless their state file names others."""

        def launch(host: Host) -> AgentProcess:
            state = host.root / STATE
            knows = state.exists() and parse_state(state.read_bytes(), gossip_port=PORT)[0].nodes
            return AgentProcess(host, "--cluster-key", KEY, *([] if knows else [f"--join={hosts[0].ipv4}"]))

        return cls(hosts, launch, IPv4Network("10.0.0.0/8"))

    @classmethod
    def mounted(cls, *hosts: Host, key: str) -> Self:
        """Start agents as in Kubernetes, restarted while the API server is away: from their files alone."""
        for number, host in enumerate(hosts):
            mount(host, document(hosts[0]), key=key)
            remember(host, ip_address(f"10.99.0.{number + 10}"))

        def launch(host: Host) -> AgentProcess:
            return AgentProcess(host, *mounted_flags(host), bare=True)

        return cls(hosts, launch, IPv4Network("10.99.0.0/16"))

    @classmethod
    def certified(cls, *hosts: Host, **identity: Any) -> Self:
        """Start agents as in Kubernetes, from their files alone, with certificates of one authority.

        Args:
            hosts: the first is the seed.
            identity: of mesh.json, besides the authority.

        """
        authority = Authority(bytes(range(32)))
        settings = {"authorities": [str(authority.key)], **identity}
        mesh = document(hosts[0], identity=settings)

        def launch(host: Host) -> AgentProcess:
            if not (host.root / STATE).exists():
                mount(host, mesh, key=KEY)
                remember_certified(host, mesh, authority, IPv4Network("10.99.0.0/24")[int(host.ipv4) % 256])
            return AgentProcess(host, *mounted_flags(host), bare=True)

        return cls(hosts, launch, IPv4Network("10.99.0.0/16"))

    @property
    def addresses(self) -> dict[str, str]:
        """Each member's overlay address, as it says itself."""
        return {name: agent.status()["overlayIP"] for name, agent in self.agents.items()}

    def wait_whole(self, *names: str) -> float:
        """Wait until all, or the named ones, see just each other and all pings go through.

        Returns:
            the seconds it took.

        """
        chosen = names or tuple(self.agents)
        try:
            return wait_until(
                lambda: self._is_whole(chosen), deadline=_PATIENCE, what=f"{', '.join(chosen)} are one mesh"
            )
        except AssertionError as error:
            error.add_note(self.last_words())
            raise

    def wait_running(self) -> float:
        """Wait until every agent answers; return the seconds it took, most of them the machine's."""
        running = self.agents.values()
        return wait_until(
            lambda: all(agent.ask("status") for agent in running),
            deadline=_PATIENCE,
            what="all agents answer",
        )

    def _is_whole(self, names: Iterable[str]) -> bool:
        chosen = {name: self.agents[name] for name in names}
        if not all(agent.sees(*chosen) for agent in chosen.values()):
            return False
        # Before its device is there, with the route that keeps packets in, a ping leaves in clear.
        if any(agent.conditions()["WireGuardReady"] != "DeviceReady" for agent in chosen.values()):
            return False
        addresses = [agent.status()["overlayIP"] for agent in chosen.values()]
        return all(reaches(agent.host, addresses) for agent in chosen.values())

    def last_words(self) -> str:
        """Return the end of each agent's log."""
        return "\n".join(f"── {name}\n{agent.log_text[-3000:]}" for name, agent in self.agents.items())

    # What can befall it.

    def add(self, host: Host) -> AgentProcess:
        """Start the agent of a further host."""
        self.hosts[host.name] = host
        return self.start(host.name)

    def start(self, name: str) -> AgentProcess:
        """Start the agent of a host again."""
        self.agents[name] = self._launch(self.hosts[name])
        return self.agents[name]

    def kill(self, name: str) -> None:
        """Kill an agent; its wireguard-go lives on."""
        self.agents[name].end(signal.SIGKILL)

    def kill_carrier(self, name: str) -> None:
        """Kill a host's wireguard-go."""
        for pid in processes(self.hosts[name], CARRIER):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def power_off(self, name: str) -> None:
        """Take from a host all that a reboot takes: processes, device, routes and what is under /run."""
        host = self.hosts[name]
        self.kill(name)
        self.kill_carrier(name)
        wait_until(
            lambda: not processes(host, CARRIER), deadline=_END_PATIENCE, what=f"{name}'s programs are gone"
        )
        host.run(["ip", "link", "delete", INTERFACE])
        host.run(["ip", "route", "flush", "type", "unreachable"])
        host.run(["rm", "-rf", "/run/wesher", "/run/wireguard"])

    # What is asked of it.

    def pinging(self, *names: str) -> Pinging:
        """Return pings, ten a second, between all pairs of all members or of the named ones."""
        chosen = names or tuple(self.agents)
        return Pinging({name: self.agents[name] for name in chosen}, self.addresses)

    def pinging_round(self) -> Pinging:
        """Return pings, ten a second, from each member to the next, and from the last to the first."""
        names = list(self.agents)
        return Pinging(self.agents, self.addresses, zip(names, [*names[1:], names[0]], strict=True))

    def watched(self, directory: Path) -> AbstractContextManager[Seen]:
        """Return a context in which nothing of the overlay may stand readable on the underlay."""
        return watched(self.hosts.values(), self.overlay, directory)


def processes(host: Host, *names: str) -> dict[int, str]:
    """Return the running processes of a host by pid, those with one of these names."""
    space = os.readlink(host.root.parent / "ns/net")  # noqa: PTH115 - the link names an inode, not a path
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if os.readlink(entry / "ns/net") == space:  # noqa: PTH115 - as above
                name = (entry / "comm").read_text().strip()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if name in names and state != "Z":
                    found[int(entry.name)] = name
        except OSError:
            continue
    return found


def traces(host: Host) -> Traces:
    """Return what of an agent is on a host, in words that can be compared."""
    links = host.run(["ip", "-o", "link", "show"]).stdout.splitlines()
    routes = host.run(["ip", "route", "show", "table", "all"]).stdout
    routes += host.run(["ip", "-6", "route", "show", "table", "all"]).stdout
    files = [
        str(path.relative_to(host.root)) for room in _OUR_ROOMS for path in (host.root / room).rglob("*")
    ]
    # Beside the hosts file, where temporary ones are made.
    files += [path.name for path in (host.root / "etc").glob(".*")]
    return Traces(
        processes=tuple(sorted(processes(host, AGENT, CARRIER).values())),
        links=tuple(sorted(line.split(": ")[1].split("@")[0] for line in links)),
        routes=tuple(sorted(line.strip() for line in routes.splitlines() if not _is_common(line))),
        files=tuple(sorted(files)),
    )


def _is_common(route: str) -> bool:
    """Tell whether the kernel made a route by itself, or a capture needed it."""
    return "proto kernel" in route or route.startswith("default")


def device(host: Host) -> ObservedDevice:
    """Return what a host's wireguard-go holds."""
    return uapi.parse_get(ask_device(host, uapi.GET))


def device_socket(root: Path) -> Path:
    """Return where a host's wireguard-go listens."""
    return root / f"run/wireguard/{INTERFACE}.sock"


def ask_device(host: Host, request: bytes) -> bytes:
    """Ask a host's wireguard-go something, as ``wg`` does."""
    return ask_socket(device_socket(host.root), request)


def ask_socket(path: Path, request: bytes) -> bytes:
    """Ask the wireguard-go that listens on a socket something, as ``wg`` does."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(_END_PATIENCE)
        asking.connect(str(path))
        asking.sendall(request)
        answer = b""
        while not answer.endswith(uapi.END):
            more = asking.recv(65536)
            if not more:
                raise ConnectionError(f"wireguard-go at {path} hung up: {answer!r}")
            answer += more
    return answer


def reaches(host: Host, targets: Iterable[str]) -> bool:
    """Tell whether all these addresses answer a ping of a host."""
    pings = " ".join(f'ping -c1 -W2 {target} & jobs="$jobs $!";' for target in targets)
    return (
        host.run(
            ["sh", "-c", f"{pings} for job in $jobs; do wait $job || exit 1; done"], check=False
        ).returncode
        == 0
    )
