"""Proof by capture that no overlay packet stood readable on the underlay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Network
from pathlib import Path

from wesher_testing.lab.capture import Capture, addressed_in, wireguard_pairs
from wesher_testing.lab.namespaces import Host


class Seen:
    """What the captures held, once they have ended."""

    def __init__(self) -> None:
        self.encrypted = 0
        """WireGuard's data messages."""
        self.in_clear = 0
        """Packets from or to an overlay address, ARP's questions for one included."""

    def __str__(self) -> str:
        """Return both counts in words."""
        return f"{self.in_clear} overlay packets in clear among {self.encrypted} WireGuard packets"


@contextmanager
def watched(hosts: Iterable[Host], overlay: IPv4Network, directory: Path) -> Iterator[Seen]:
    """Capture on every host's ``eth0`` and require that nothing of the overlay was readable there.

    Each host gets a default route first: without one a packet that is not kept from
    leaving would have nowhere to go, and the captures would prove nothing.
    """
    seen, captures = Seen(), []
    with ExitStack() as running:
        for host in hosts:
            host.run(["ip", "route", "replace", "default", "dev", "eth0"])
            captures.append(running.enter_context(Capture(host, "eth0", directory / f"{host.name}.pcap")))
        yield seen
    for capture in captures:
        packets = capture.packets()
        seen.encrypted += sum(wireguard_pairs(packets).values())
        seen.in_clear += len(addressed_in(packets, overlay))
    assert seen.encrypted, "nothing was sent at all"
    assert not seen.in_clear, f"{seen}"
