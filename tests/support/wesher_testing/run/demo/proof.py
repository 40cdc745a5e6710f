"""Whether the overlay carries traffic, and whether the wires show anything of it.

Every ping carries 16 random bytes of its own. In the captures of the underlay there
must be WireGuard data between every pair that pinged, and none of those bytes.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from wesher_testing.lab.capture import Packet, addressed_in, holding, wireguard_pairs
from wesher_testing.lab.namespaces import Host
from wesher_testing.run.demo.narrator import Narrator


@dataclass(slots=True)
class Markers:
    """The bytes that pings carried, by what they were sent as."""

    over_the_overlay: list[bytes] = field(default_factory=list)
    in_clear: list[bytes] = field(default_factory=list)
    pairs: set[tuple[Host, Host]] = field(default_factory=set)
    """Who pinged whom over the overlay and got an answer."""

    def ping(self, source: Host, target: Host, count: int = 3) -> bool:
        """Ping a member by its name; tell whether it answered."""
        marker = os.urandom(16)
        self.over_the_overlay.append(marker)
        if not _ping(source, target.name, marker, count):
            return False
        self.pairs.add((source, target))
        return True

    def ping_in_clear(self, source: Host, target: Host) -> bool:
        """Ping a host by its underlay address: what a leak would look like."""
        marker = os.urandom(16)
        self.in_clear.append(marker)
        return _ping(source, str(target.ipv4), marker, count=3)


def show_pair(
    say: Narrator, source: Host, target: Host, address: str, interface: str, *, within: float
) -> None:
    """Show that a member's name leads to its overlay address and that into the tunnel."""
    text = f"{source.name}: {target.name} is {address}, and the route to it is dev {interface}"
    say.eventually(text, lambda: leads_to(source, target.name, address, interface), within=within)


def leads_to(source: Host, name: str, address: str, interface: str) -> bool:
    """Return whether a name is an address on a host, and the route to that an interface."""
    resolved = source.run(["getent", "hosts", name], check=False).stdout.split()
    route = source.run(["ip", "route", "get", address], check=False).stdout
    return resolved[:1] == [address] and re.search(rf"\bdev {re.escape(interface)}\b", route) is not None


def show_wires(
    say: Narrator, markers: Markers, captures: Mapping[str, list[Packet]], overlay: IPv4Network | IPv6Network
) -> None:
    """Show what the captures prove, by host name."""
    everything = list(itertools.chain.from_iterable(captures.values()))
    say.note(f"{len(everything)} packets captured on {len(captures)} hosts' underlay, from before to after")
    seen = wireguard_pairs(everything)
    without = [f"{a.name}→{b.name}" for a, b in markers.pairs if not seen[a.ipv4, b.ipv4]]
    say.claim(f"WireGuard data passed for each of {len(markers.pairs)} pairs", markers.pairs and not without)
    leaked = _found(everything, markers.over_the_overlay)
    say.claim(f"none of the {len(markers.over_the_overlay)} markers sent over the overlay shows", not leaked)
    say.claim(f"no packet shows an address of {overlay}", not addressed_in(everything, overlay))
    caught = _found(everything, markers.in_clear)
    say.claim(
        "the marker sent in clear on purpose was caught", markers.in_clear and caught == len(markers.in_clear)
    )


def _found(packets: Iterable[Packet], markers: Iterable[bytes]) -> int:
    packets = list(packets)
    return sum(1 for marker in markers if holding(packets, marker))


def _ping(source: Host, target: str, marker: bytes, count: int) -> bool:
    ping = ["ping", "-n", "-q", "-c", str(count), "-i", "0.2", "-W", "2", "-p", marker.hex(), target]
    return source.run(ping, check=False).returncode == 0
