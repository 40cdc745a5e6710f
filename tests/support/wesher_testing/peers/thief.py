"""A machine that has the cluster key and nothing else, and says what it likes about the members.

A program, since it runs in a host of a lab: it reads what to do as JSON from its standard input,
says that it has begun, and ends after its time. It answers pings at its address, under whatever name.
`lying` starts it.
"""

from __future__ import annotations

import base64
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, Any

from wesher_agent.mesh.device import Endpoint
from wesher_agent.mesh.nodemeta import META_VERSION, Flag, NodeMeta
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.messages import (
    AckResp,
    Alive,
    Dead,
    Message,
    Ping,
    PushNodeState,
    PushPull,
    Versions,
    encode,
)
from wesher_agent.wire.packet import PacketFormat, open_packet, seal
from wesher_agent.wire.stream import StreamReader, seal_stream
from wesher_common.errors import PeerMisbehaved
from wesher_common.keys import WireGuardPrivateKey

if TYPE_CHECKING:
    from wesher_testing.lab.namespaces import Host

PORT = 7946
NAME = "0thief"
"""Smaller than any member's: of two claims without a certificate the smaller name wins."""
FLOOD_NAMES, FLOOD_SECONDS = 12_000, 2.0
_STEP = 1000
"""By how much the incarnations of its claims rise: faster than a member refutes them."""
_PATIENCE = 30.0
_NOWHERE = Endpoint(IPv4Address("198.18.0.1"), 51820)
_BYTES_A_DATAGRAM = 1300

Said = Iterator[tuple[PushNodeState | None, list[Message]]]
"""Claims, each with the member that must not hear them: it would refute them at once."""


@contextmanager
def lying(
    host: Host, attack: str, *victims: str, secret: bytes, member: Host, seconds: float
) -> Iterator[subprocess.Popen[str]]:
    """Begin an attack; what still runs of it at the end of the context is ended.

    Args:
        host: of the thief.
        attack: one of ``ATTACKS``.
        victims: members, the subjects of its claims.
        secret: the cluster key.
        member: one that it asks for the list of members.
        seconds: for how long.

    """
    process = host.popen(
        [sys.executable, "-I", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    orders = {
        "attack": attack,
        "victims": victims,
        "secret": base64.b64encode(secret).decode(),
        "self": str(host.ipv4),
        "member": str(member.ipv4),
        "seconds": seconds,
    }
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(orders))
    process.stdin.close()
    try:
        assert process.stdout.readline() == "begun\n", "the thief failed, see its traceback"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@dataclass
class _Thief:
    """The program's state.

    Attributes:
        address: its own.
        format: of packets under the cluster key.
        members: the list that it received from a member.

    """

    address: str
    format: PacketFormat
    members: dict[str, PushNodeState]

    @property
    def key(self) -> WireGuardPrivateKey:
        return WireGuardPrivateKey.from_random(b"t" * 32)

    def alive(self, incarnation: int, name: str, meta: bytes, address: bytes | None = None) -> Alive:
        """Claim that a name is alive, at the thief's own address unless another is given."""
        where = ip_address(self.address).packed if address is None else address
        return Alive(incarnation, name, where, PORT, meta, Versions())

    # The attacks. Each yields what to say in one round.

    def take_name(self, incarnation: int, victims: Sequence[str]) -> Said:
        """Say that the victim has left and is back here, with the thief's WireGuard key."""
        for victim in map(self.members.__getitem__, victims):
            known = NodeMeta.decode(victim.meta)
            mine = replace(known, public_key=self.key.public, certificate=None)
            yield (
                victim,
                [
                    Dead(incarnation, victim.name, victim.name),
                    self.alive(incarnation + 1, victim.name, mine.encode()),
                ],
            )

    def take_key(self, incarnation: int, victims: Sequence[str]) -> Said:
        """Announce the victim's public key under a smaller name."""
        for victim in map(self.members.__getitem__, victims):
            known = NodeMeta.decode(victim.meta)
            assert known.overlay_address is not None
            mine = replace(known, overlay_address=known.overlay_address + 99, certificate=None)
            yield None, [self.alive(incarnation, NAME, mine.encode())]

    def leave(self, incarnation: int, victims: Sequence[str]) -> Said:
        """Say in the victim's name that it leaves."""
        for victim in map(self.members.__getitem__, victims):
            yield victim, [Dead(incarnation, victim.name, victim.name)]

    def move(self, incarnation: int, victims: Sequence[str]) -> Said:
        """Announce another endpoint for the victim, and repeat its own words from here."""
        for victim in map(self.members.__getitem__, victims):
            moved = replace(NodeMeta.decode(victim.meta), wireguard_endpoint=_NOWHERE).encode()
            yield victim, [self.alive(incarnation, victim.name, moved, victim.addr)]
            left = Dead(incarnation + 1, victim.name, victim.name)
            yield victim, [left, self.alive(incarnation + 2, victim.name, victim.meta)]

    def flood(self, incarnation: int, victims: Sequence[str]) -> Said:
        """Announce invented members, each with a key and an overlay address."""
        known = NodeMeta.decode(self.members[victims[0]].meta)
        claims: list[Message] = []
        size = 0
        for number in range(FLOOD_NAMES):
            meta = NodeMeta(
                overlay_address=ip_address(int(known.overlay_address or 0) // 2**16 * 2**16 + 512 + number),
                public_key=WireGuardPrivateKey.from_random(number.to_bytes(32)).public,
                version=META_VERSION,
                flags=Flag.IN_KUBERNETES,
            )
            where = (int(ip_address("198.18.0.0")) + 2 + number).to_bytes(4)
            claims.append(self.alive(incarnation, f"invented-{number}", meta.encode(), where))
            size += len(encode(claims[-1]))
            if size > _BYTES_A_DATAGRAM - 300:
                yield None, claims
                claims, size = [], 0
        if claims:
            yield None, claims

    # How it speaks.

    def run(self, rounds: Callable[[int], Said], *, pause: float, seconds: float) -> None:
        """Say a round after each pause, and answer pings."""
        incarnation = int(time.time())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((self.address, PORT))
            sock.setblocking(False)  # noqa: FBT003 - the library's signature
            print("begun", flush=True)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                incarnation += _STEP
                for without, messages in rounds(incarnation):
                    self._say(sock, messages, without)
                self._answer(sock, until=min(end, time.monotonic() + pause))

    def pour(self, said: Said) -> None:
        """Say all of it within `FLOOD_SECONDS`, sealed before."""
        datagrams = [self._sealed(messages) for _, messages in said]
        print("begun", flush=True)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            began = time.monotonic()
            for number, datagram in enumerate(datagrams):
                for member in self.members.values():
                    sock.sendto(datagram, (str(ip_address(member.addr)), PORT))
                time.sleep(max(0.0, began + FLOOD_SECONDS * number / len(datagrams) - time.monotonic()))

    def _sealed(self, messages: Sequence[Message]) -> bytes:
        return seal([encode(message) for message in messages], self.format, checksum=True, nonce=os.urandom)

    def _say(self, sock: socket.socket, messages: Sequence[Message], without: PushNodeState | None) -> None:
        data = self._sealed(messages)
        for member in self.members.values():
            if without is None or member.name != without.name:
                sock.sendto(data, (str(ip_address(member.addr)), member.port))

    def _answer(self, sock: socket.socket, *, until: float) -> None:
        """Answer pings, so that the members take every name at this address for alive."""
        while (left := until - time.monotonic()) > 0:
            if not select.select([sock], [], [], left)[0]:
                continue
            data, sender = sock.recvfrom(65536)
            try:
                opened = open_packet(data, self.format)
            except PeerMisbehaved:
                continue
            for message in opened.messages:
                if isinstance(message, Ping):
                    sock.sendto(self._sealed([AckResp(message.seq_no)]), sender)


def _learn(member: str, fmt: PacketFormat) -> dict[str, PushNodeState]:
    """Ask a member who is in the mesh, without becoming one."""
    with socket.create_connection((member, PORT), timeout=_PATIENCE) as stream:
        stream.sendall(seal_stream(PushPull((), join=False), fmt, nonce=os.urandom))
        reader = StreamReader(fmt, answer=True)
        while (answer := reader.message()) is None:
            data = stream.recv(65536)
            if not data:
                raise ConnectionError("the member hung up")
            reader.feed(data)
    assert isinstance(answer, PushPull), answer
    return {node.name: node for node in answer.nodes}


ATTACKS = {
    "take-name": (_Thief.take_name, 1.0),
    "take-key": (_Thief.take_key, 1.0),
    "leave": (_Thief.leave, 0.2),
    "move": (_Thief.move, 0.05),
}
"""Each with the seconds between two rounds; ``flood`` is one round."""


def main(orders: dict[str, Any]) -> None:
    """Do what was ordered."""
    fmt = PacketFormat(Keyring(base64.b64decode(orders["secret"])), compress=False)
    thief = _Thief(orders["self"], fmt, _learn(orders["member"], fmt))
    if orders["attack"] == "flood":
        thief.pour(thief.flood(int(time.time()), orders["victims"]))
        return
    attack, pause = ATTACKS[orders["attack"]]
    thief.run(
        lambda incarnation: attack(thief, incarnation, orders["victims"]),
        pause=pause,
        seconds=orders["seconds"],
    )


if __name__ == "__main__":
    main(json.load(sys.stdin))
