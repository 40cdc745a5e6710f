"""Datagrams on their way out: what they carry, and the news that fills them up.

Every packet leaves with as much of the broadcast queue as still fits
(`net.go`, sendMsg). That is decided when the packet is picked up, not when it is
written: news learned from one part of a compound rides on the answer to another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from wesher_agent.swim.address import Address
from wesher_agent.swim.broadcasts import Broadcasts
from wesher_agent.swim.members import MemberTable
from wesher_agent.wire.messages import Message, encode
from wesher_agent.wire.packet import (
    COMPOUND_ENTRY,
    COMPOUND_HEADER,
    UDP_PAYLOAD,
    PacketFormat,
    overhead,
    seal,
)


class _Packet(NamedTuple):
    address: Address
    parts: tuple[bytes, ...]
    checksum: bool
    fill: bool


class Outbox:
    """Datagrams not yet picked up.

    Args:
        table: to know how many members there are.
        broadcasts: the news to fill packets with.
        packet_format: how packets are sealed.
        nonce: fresh bytes for encryption.
        limit: packets kept at most; more are dropped, as the network might do.

    """

    def __init__(
        self,
        table: MemberTable,
        broadcasts: Broadcasts,
        packet_format: PacketFormat,
        nonce: Callable[[int], bytes],
        limit: int,
    ) -> None:
        self._table = table
        self._broadcasts = broadcasts
        self.packet_format = packet_format
        self._nonce = nonce
        self._limit = limit
        self._packets: list[_Packet] = []

    def send(self, address: Address, *messages: Message, checksum: bool, fill: bool = True) -> None:
        """Send messages in one datagram, together with what news fits beside them.

        Args:
            address: where to.
            messages: what must go; none means news only, and nothing when there is none.
            checksum: whether the receiver reads checksums (`Member.reads_checksums`).
            fill: whether to add news.

        """
        if len(self._packets) < self._limit:
            parts = tuple(encode(message) for message in messages)
            self._packets.append(_Packet(address, parts, checksum, fill))

    def send_to_named(self, name: str, address: Address, *messages: Message) -> None:
        """Send messages to an address of which all we know is the name it gave."""
        member = self._table.get(name)
        self.send(address, *messages, checksum=member is not None and member.reads_checksums)

    def drain(self) -> list[tuple[bytes, Address]]:
        """Take every datagram, sealed."""
        if not self._packets:
            return []
        packets, self._packets = self._packets, []
        sealed = []
        for packet in packets:
            parts = (*packet.parts, *self._news_for(packet)) if packet.fill else packet.parts
            if parts:
                data = seal(parts, self.packet_format, checksum=packet.checksum, nonce=self._nonce)
                sealed.append((data, packet.address))
        return sealed

    @property
    def room(self) -> int:
        """Bytes of the longest message that fits into a datagram, whoever gets it."""
        return UDP_PAYLOAD - overhead(self.packet_format, checksum=True)

    def _news_for(self, packet: _Packet) -> list[bytes]:
        used = COMPOUND_HEADER + sum(COMPOUND_ENTRY + len(part) for part in packet.parts)
        return self._broadcasts.take(
            overhead=COMPOUND_ENTRY,
            limit=UDP_PAYLOAD - overhead(self.packet_format, checksum=packet.checksum) - used,
            n=len(self._table),
        )
