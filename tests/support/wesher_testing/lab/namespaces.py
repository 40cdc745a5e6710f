"""A lab: several hosts on one machine, on one or more networks, gone when its context ends.

A host is a set of network, mount and UTS namespaces held by one process, so it has its own
devices, routes, firewall and name, its own ``/etc``, and empty ``/run`` and ``/var/lib``.
Networks are bridges in a namespace of their own: no device ever appears on the machine
itself, and labs side by side cannot meet. Needs root.

``wesher_testing.lab.keeper`` ends everything, on failure, Ctrl-C and SIGKILL alike.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wesher_testing.lab import keeper
from wesher_testing.run.cache import cache_dir
from wesher_testing.run.toolbox import REPOSITORY, system_program

_PRIVATE = ("/run", "/var/lib")
"""Directories that each host has for itself, empty at first."""
_PATIENCE = 30.0
"""Seconds for the kernel to do what it was told."""
_RUN_PATIENCE = 60.0
"""Seconds for a program that ends by itself."""


class CommandFailed(RuntimeError):  # noqa: N818 - reads as the fact it states
    """A command inside a host failed; its text says which, how, and what it said."""


@dataclass(frozen=True, slots=True)
class Network:
    """One layer-2 segment: a bridge that hosts are plugged into."""

    name: str
    ipv4: IPv4Network
    ipv6: IPv6Network


class Lab:
    """A set of hosts and networks; use it as a context.

    The first network, ``lan``, is 192.0.2.0/24 and 2001:db8::/64. Hosts get the
    addresses in the order they are made: .1, .2 and so on, in both families.
    """

    def __init__(self) -> None:
        self._hosts: dict[str, Host] = {}
        self._networks = itertools.count()
        self._started: list[subprocess.Popen[Any]] = []
        self._making = threading.Lock()

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="wesher-lab-"))
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", keeper.__file__, self.directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # A Ctrl-C at the terminal is for the lab, which then ends its keeper's input.
            start_new_session=True,
        )
        try:
            self._switch = self._hold()
            self.lan = self.network("lan")
        except BaseException:
            # The first failure says more.
            with suppress(CommandFailed):
                self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process in every host and take all of the lab away."""
        self._keeper.communicate()
        if self._keeper.returncode != 0:
            raise CommandFailed(f"a lab was not left clean: its keeper exited with {self._keeper.returncode}")
        for process in self._started:
            process.wait(_PATIENCE)

    def note(self, process: subprocess.Popen[Any]) -> None:
        """Take over a program that runs in a host: it ends with the lab, and is then waited for."""
        self._started.append(process)

    def network(self, name: str, ipv4: str = "") -> Network:
        """Add a network: unless told otherwise, the n-th one is 192.0.(2+n).0/24 and 2001:db8:0:n::/64."""
        index = next(self._networks)
        made = Network(
            name,
            ipaddress.IPv4Network(ipv4 or f"192.0.{2 + index}.0/24"),
            ipaddress.IPv6Network(f"2001:db8:0:{index:x}::/64"),
        )
        # No snooping: without a querier it would forget multicast groups, and so IPv6 neighbours.
        self.in_switch("ip", "link", "add", name, "type", "bridge", "mcast_snooping", "0")
        self.in_switch("ip", "link", "set", name, "up")
        return made

    def far_side(self, network: Network, name: str) -> Network:
        """Add a second switch to a network, joined to the first by one cable: see `cut_between`."""
        made = replace(network, name=name)
        near, far = f"{name}.near", f"{name}.far"
        self.in_switch("ip", "link", "add", name, "type", "bridge", "mcast_snooping", "0")
        self.in_switch("ip", "link", "set", name, "up")
        self.in_switch("ip", "link", "add", near, "type", "veth", "peer", "name", far)
        self.in_switch("ip", "link", "set", near, "master", network.name, "up")
        self.in_switch("ip", "link", "set", far, "master", name, "up")
        self.wait_carrying(near, far)
        return made

    def cut_between(self, far: Network) -> None:
        """Pull out the cable to a far side: packets across vanish, and no host sees a link go down."""
        self.in_switch("ip", "link", "set", f"{far.name}.near", "down")

    def join_again(self, far: Network) -> None:
        """Put that cable back; when this returns it carries."""
        near = f"{far.name}.near"
        self.in_switch("ip", "link", "set", near, "up")
        self.wait_carrying(near, f"{far.name}.far")

    def host(self, name: str, *networks: Network) -> Host:
        """Add a host, plugged into ``lan`` or the given networks as eth0, eth1 and so on."""
        # Clusters side by side are started at the same time.
        with self._making:
            if name in self._hosts:
                raise ValueError(f"there is a host {name} already")
            made = Host(self, name, self._hold(), networks or (self.lan,), len(self._hosts) + 1)
            self._hosts[name] = made
            return made

    @property
    def hosts(self) -> Mapping[str, Host]:
        """The hosts by name, in the order they were made."""
        return self._hosts

    def in_switch(self, *argv: str) -> str:
        """Run a command where the bridges are, and return what it said."""
        return _run([*_enter(self._switch, "--net"), *argv]).stdout

    def wait_carrying(self, *ports: str) -> None:
        """Wait until the bridges pass on what comes from these ports, which they do a moment after `up`."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            told = json.loads(self.in_switch("ip", "-json", "-details", "link", "show"))
            states = {
                link["ifname"]: link.get("linkinfo", {}).get("info_slave_data", {}).get("state")
                for link in told
            }
            if all(states[port] == "forwarding" for port in ports):
                return
            time.sleep(0.02)
        raise CommandFailed(f"{', '.join(ports)} did not begin to carry in {_PATIENCE:.0f} s")

    def _hold(self) -> int:
        requests, answers = self._keeper.stdin, self._keeper.stdout
        if requests is None or answers is None:
            raise RuntimeError("the keeper was started without pipes")
        requests.write("\n")
        requests.flush()
        answer = answers.readline()
        if not answer:
            raise CommandFailed("cannot make namespaces: run as root, in a container with --privileged")
        return int(answer)


class Host:
    """One host of a lab.

    Attributes:
        name: its hostname.
        networks: what eth0, eth1 and so on are plugged into.
        root: its file system as seen from outside, such as ``root / "etc/hosts"``; absolute
            symbolic links in it (``/var/run``) lead outside, so name the real place (``run``).

    """

    def __init__(self, lab: Lab, name: str, holder: int, networks: Sequence[Network], number: int) -> None:
        self.name = name
        self.networks = tuple(networks)
        self.root = Path(f"/proc/{holder}/root")
        self._lab = lab
        self._holder = holder
        self._number = number
        self._make_private()
        for index, network in enumerate(self.networks):
            self._plug(index, network)

    def __repr__(self) -> str:
        return f"Host({self.name!r}, {self.ipv4})"

    @property
    def ipv4(self) -> IPv4Address:
        """Its IPv4 address on its first network."""
        return self.address_on(self.networks[0])

    @property
    def ipv6(self) -> IPv6Address:
        """Its IPv6 address on its first network."""
        return self.networks[0].ipv6[self._number]

    def address_on(self, network: Network) -> IPv4Address:
        """Return its IPv4 address on one of its networks."""
        return network.ipv4[self._number]

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """Return the command line that runs ``argv`` inside this host, in its ``/``."""
        return [*_enter(self._holder, "--net", "--mount", "--uts"), *map(str, argv)]

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        check: bool = True,
        timeout: float = _RUN_PATIENCE,
        text_in: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end inside this host.

        Args:
            argv: the program and its arguments; it starts in ``/``.
            check: whether a status other than 0 raises `CommandFailed`.
            timeout: seconds until it is killed and ``subprocess.TimeoutExpired`` raised.
            text_in: what it reads on its standard input.
            env: its whole environment, when not ours.

        """
        return _run(self.command(argv), check=check, timeout=timeout, text_in=text_in, env=env)

    def popen(self, argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start a program inside this host; its pid and signals are the program's own."""
        process = subprocess.Popen(self.command(argv), **options)
        self._lab.note(process)
        return process

    def log_of(self, argv: Sequence[str | Path], log: Path, **options: Any) -> subprocess.Popen[Any]:
        """Start a program inside this host with everything it says in a file."""
        with log.open("ab") as words:
            return self.popen(argv, stdin=subprocess.DEVNULL, stdout=words, stderr=words, **options)

    def cut(self) -> None:
        """Pull the cable out of every network: no carrier, nothing passes."""
        self._set_cables("down")

    def restore(self) -> None:
        """Plug the cables in again; when this returns they carry."""
        self._set_cables("up")

    def drop(self, protocol: str, port: int) -> None:
        """Drop all packets of a protocol (``udp``, ``tcp``) from or to a port, both ways."""
        self._filter(
            f"meta l4proto {protocol} th sport {port} drop", f"meta l4proto {protocol} th dport {port} drop"
        )

    def drop_peer(self, other: Host) -> None:
        """Drop all packets from and to another host, in both families."""
        self._filter(
            *(
                f"{family} {side} {address} drop"
                for family, address in (("ip", other.ipv4), ("ip6", other.ipv6))
                for side in ("saddr", "daddr")
            )
        )

    def drop_sent(self, protocol: str, port: int) -> None:
        """Drop what this host sends to a port of a protocol, and nothing that it receives."""
        self._filter(f"meta l4proto {protocol} th dport {port} drop", hooks=("output",))

    def lose(self, percent: int) -> None:
        """Lose that share of all packets that come in over the networks, at random."""
        self._filter(f'iifname "eth*" numgen random mod 100 < {percent} counter drop', hooks=("input",))

    def lost(self) -> int:
        """Return how many packets `lose` has lost so far."""
        # nft's JSON has no counts.
        rules = self.run(["nft", "list", "table", "inet", "lab"]).stdout
        return sum(int(count) for count in re.findall(r"counter packets (\d+)", rules))

    def allow_all(self) -> None:
        """Take back every drop."""
        self.run(["nft", "-f", "-"], text_in="table inet lab\ndelete table inet lab\n")

    def _filter(self, *rules: str, hooks: Sequence[str] = ("input", "output", "forward")) -> None:
        chains = "".join(
            f"chain {hook} {{ type filter hook {hook} priority 0; {'; '.join(rules)}; }}\n" for hook in hooks
        )
        self.run(["nft", "-f", "-"], text_in=f"table inet lab {{\n{chains}}}\n")

    def _set_cables(self, state: str) -> None:
        devices = [f"eth{index}" for index in range(len(self.networks))]
        for index in range(len(devices)):
            self._lab.in_switch("ip", "link", "set", self._port(index), state)
        # The kernel tells the other end of a cable a little later.
        deadline = time.monotonic() + _PATIENCE
        while True:
            told = json.loads(self.run(["ip", "-json", "link", "show"]).stdout)
            states = {link["ifname"]: link["operstate"].lower() for link in told}
            if all(states[device] in (state, "lowerlayer" + state) for device in devices):
                break
            if time.monotonic() > deadline:
                raise CommandFailed(f"the cables of {self.name} did not go {state} in {_PATIENCE:.0f} s")
            time.sleep(0.02)
        if state == "up":
            self._lab.wait_carrying(*(self._port(index) for index in range(len(devices))))

    def _port(self, index: int) -> str:
        return f"port{self._number}.{index}"

    def _plug(self, index: int, network: Network) -> None:
        port, device = self._port(index), f"eth{index}"
        peer = ("type", "veth", "peer", "name", device, "netns", str(self._holder))
        self._lab.in_switch("ip", "link", "add", port, *peer)
        self._lab.in_switch("ip", "link", "set", port, "master", network.name, "up")
        lines = [
            f"address add {self.address_on(network)}/{network.ipv4.prefixlen} dev {device}",
            f"address add {network.ipv6[self._number]}/{network.ipv6.prefixlen} dev {device} nodad",
            f"link set {device} up",
            "link set lo up",
        ]
        self.run(["ip", "-batch", "-"], text_in="\n".join(lines) + "\n")
        self._lab.wait_carrying(port)

    def _make_private(self) -> None:
        own = self._lab.directory / self.name
        own.mkdir(mode=0o700)
        lines = [
            f"hostname {self.name}",
            # In memory, so that making and dropping many small files costs nothing.
            f"mount -t tmpfs -o mode=755 wesher-lab {own}",
            f"cp -a /etc {own}/etc",
            # Either can be a link or a mount of its own on the machine.
            f"rm -f {own}/etc/hosts {own}/etc/resolv.conf",
            f"echo {self.name} > {own}/etc/hostname",
            f"printf '127.0.0.1 localhost {self.name}\\n::1 localhost ip6-localhost\\n' > {own}/etc/hosts",
            # Names come from the hosts file or not at all: no query leaves a lab.
            f": > {own}/etc/resolv.conf",
            f"mount --bind {own}/etc /etc",
        ]
        for place in _PRIVATE:
            lines.append(f"mkdir -p {own}{place}")
            for needed in _needed_below(place):
                lines += [f"mkdir -p {own}{needed}", f"mount --rbind {needed} {own}{needed}"]
            lines.append(f"mount --rbind {own}{place} {place}")
        self.run(["sh", "-ec", "\n".join(lines)])


def _needed_below(place: str) -> list[Path]:
    """Return what hosts must still see there: a checkout or cache can lie under ``/var/lib``."""
    needed = (REPOSITORY, cache_dir(), Path(sys.prefix), Path(sys.base_prefix))
    return [path for path in needed if path.is_relative_to(place)]


def _enter(holder: int, *namespaces: str) -> list[str]:
    # Not `ip netns exec`: it mounts another /sys, and has no word for the other namespaces.
    return [str(system_program("nsenter")), "--target", str(holder), *namespaces, "--"]


def _run(
    command: Sequence[str],
    *,
    check: bool = True,
    timeout: float = _RUN_PATIENCE,
    text_in: str | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, check=False, timeout=timeout, input=text_in or "", env=env, capture_output=True, text=True
    )
    if check and done.returncode != 0:
        said = (done.stderr + done.stdout).strip()
        raise CommandFailed(
            f"{' '.join(command[command.index('--') + 1 :])}: status {done.returncode}: {said}"
        )
    return done
