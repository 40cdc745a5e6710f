"""Gossip that was captured, to be sent again as it was by a host that knows no key."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from wesher_testing.lab.capture import Packet
from wesher_testing.lab.namespaces import Host
from wesher_testing.peers.gossip_mesh import GOSSIP_PORT

_TCP, _UDP = 6, 17
_SEND = """
import json, socket, sys
said = json.load(sys.stdin)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    for datagram in said["datagrams"]:
        for address in said["to"]:
            sock.sendto(bytes.fromhex(datagram), (address, said["port"]))
for request in said["requests"]:
    for address in said["to"]:
        with socket.create_connection((address, said["port"]), timeout=30) as stream:
            try:
                stream.sendall(bytes.fromhex(request))
                stream.shutdown(socket.SHUT_WR)
                while stream.recv(65536):
                    pass
            except (ConnectionResetError, BrokenPipeError):
                pass
"""


@dataclass(frozen=True)
class Said:
    """What members said to each other."""

    datagrams: tuple[bytes, ...]
    """In the order in which they were sent."""
    requests: tuple[bytes, ...]
    """What clients wrote on each stream."""

    @classmethod
    def captured(cls, packets: Iterable[Packet]) -> Said:
        """Take what went to the gossip port; captures of several hosts may hold it more than once."""
        datagrams: dict[bytes, None] = {}
        streams: dict[tuple[object, int, object], dict[int, bytes]] = {}
        for packet in packets:
            if len(packet.payload) < 8 or packet.protocol not in {_TCP, _UDP}:
                continue
            source, target = struct.unpack_from(">HH", packet.payload)
            if target != GOSSIP_PORT:
                continue
            if packet.protocol == _UDP:
                datagrams[packet.payload[8:]] = None
            elif body := packet.payload[4 * (packet.payload[12] >> 4) :]:
                (number,) = struct.unpack_from(">I", packet.payload, 4)
                streams.setdefault((packet.source, source, packet.destination), {})[number] = body
        requests = (b"".join(parts[number] for number in sorted(parts)) for parts in streams.values())
        return cls(tuple(datagrams), tuple(requests))

    def again(self, sender: Host, *listeners: Host | IPv4Address) -> None:
        """Send all of it to each of these, whomever it was for, and wait for the streams' ends."""
        said = {
            "datagrams": [datagram.hex() for datagram in self.datagrams],
            "requests": [request.hex() for request in self.requests],
            "to": [str(to.ipv4 if isinstance(to, Host) else to) for to in listeners],
            "port": GOSSIP_PORT,
        }
        sender.run([sys.executable, "-I", "-c", _SEND], text_in=json.dumps(said), timeout=180.0)
