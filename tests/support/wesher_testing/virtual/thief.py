"""A machine on the virtual network that has the cluster key and no certificate.

It answers to every name, says whatever it likes in datagrams and on streams, and reads all
that the members say of each other. What it says is left to its attacks and to tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_address
from random import Random
from typing import Any

from wesher_agent.mesh.device import Endpoint
from wesher_agent.mesh.events import Event
from wesher_agent.mesh.nodemeta import Flag, NodeMeta
from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.members import DEFAULT_VERSIONS, MAX_INCARNATION, LocalNode, Member
from wesher_agent.swim.profile import LAN
from wesher_agent.swim.streams import CloseStream, StreamAction, StreamId, WriteStream
from wesher_agent.wire.messages import (
    AckResp,
    Alive,
    Dead,
    Message,
    Ping,
    PushNodeState,
    PushPull,
    State,
    Suspect,
    encode,
)
from wesher_agent.wire.packet import open_packet, seal
from wesher_agent.wire.stream import StreamReader, seal_stream
from wesher_common.certificate import Authority
from wesher_common.overlay import IPAddress, candidate_address
from wesher_testing.virtual.members import go_meta, meta, private_key
from wesher_testing.virtual.mesh import SEALED, VirtualAgent, VirtualMesh
from wesher_testing.virtual.network import PORT, Node

UNKNOWN_AUTHORITY = Authority(b"thief" + bytes(27))
FIRST_STREAM = 1_000_000
"""Its accepted streams have numbers of their own."""


class Impostor:
    """The core of the thief's machine: it acknowledges pings to any name, and answers with lies."""

    def __init__(self) -> None:
        self.lies: tuple[PushNodeState, ...] = ()
        """What it answers to a state exchange."""
        self._packets: list[tuple[bytes, Address]] = []
        self._actions: list[StreamAction] = []
        self._readers: dict[StreamId, StreamReader] = {}
        self._next = FIRST_STREAM

    def receive_datagram(self, data: bytes, sender: Address, *, now: float) -> None:
        """Acknowledge a ping."""
        for message in open_packet(data, SEALED).messages:
            if isinstance(message, Ping):
                self._packets.append((sealed(AckResp(message.seq_no)), sender))

    def message_types(self, data: bytes) -> list[str]:
        """Have nothing for the log."""
        return []

    def stream_accepted(self, remote: Address, *, now: float) -> StreamId:
        """Accept every stream."""
        self._next += 1
        self._readers[self._next] = StreamReader(SEALED)
        return self._next

    def stream_received(self, stream: StreamId, data: bytes, *, now: float) -> None:
        """Answer a state exchange with lies, and a ping with an acknowledgement."""
        reader = self._readers.get(stream)
        if reader is None:
            return
        reader.feed(data)
        request = reader.message()
        if isinstance(request, PushPull):
            self._answer(stream, PushPull(self.lies, join=False))
        elif isinstance(request, Ping):
            self._answer(stream, AckResp(request.seq_no))

    def stream_closed(self, stream: StreamId, *, now: float, error: str | None = None) -> None:
        """Forget the stream."""
        self._readers.pop(stream, None)

    def handle_timer(self, *, now: float) -> None:
        """Have nothing to do later."""

    def next_timer(self) -> float | None:
        """Have nothing to do later."""
        return None

    def datagrams_to_send(self) -> list[tuple[bytes, Address]]:
        """Take the acknowledgements."""
        packets, self._packets = self._packets, []
        return packets

    def stream_actions(self) -> list[StreamAction]:
        """Take the answers."""
        actions, self._actions = self._actions, []
        return actions

    def next_event(self) -> Event | None:
        """Report nothing."""
        return None

    def _answer(self, stream: StreamId, message: Message) -> None:
        data = seal_stream(message, SEALED, nonce=Random(1).randbytes, answer=True)
        self._actions += [WriteStream(stream, data), CloseStream(stream)]
        del self._readers[stream]


class Thief:
    """The attacker.

    Args:
        mesh: with its victims.
        rng: chooses victims and details of attacks.

    """

    def __init__(self, mesh: VirtualMesh, rng: Random) -> None:
        self.attacks: tuple[Callable[[], None], ...] = (
            self.take_the_overlay_address,
            self.take_the_name,
            self.announce_the_key,
            self.declare_left,
            self.declare_failed,
            self.move_the_endpoint,
            self.replay_from_elsewhere,
            self.forge_certificates,
            self.change_hints,
            self.invent_names,
            self.use_other_letters,
            self.lie_in_state_exchanges,
            self.drive_to_the_last_incarnation,
            self.run_the_stock_program,
        )
        self._mesh = mesh
        self._rng = rng
        self.core = Impostor()
        address = mesh.new_address()
        idle = Engine(
            LocalNode("thief", address),
            LAN,
            packet_format=SEALED,
            incarnation=1,
            rng=rng,
            nonce=rng.randbytes,
        )
        self.node = Node(mesh, "thief", self.core, idle, address)
        mesh.place(self.node)
        self._count = 0

    @property
    def address(self) -> Address:
        """Where it is."""
        return self.node.address

    # What it attacks with.

    def say(
        self, *messages: Message, to: Iterable[Node] | None = None, sender: Address | None = None
    ) -> None:
        """Send a datagram to some members, by default to several of them."""
        for victim in self._some() if to is None else to:
            self._mesh.inject(victim, sealed(*messages), sender or self.address)

    def tell(self, nodes: Sequence[PushNodeState], to: Node) -> None:
        """Exchange state with a member, which gets these lies."""
        data = seal_stream(PushPull(tuple(nodes), join=True), SEALED, nonce=self._rng.randbytes)
        now = self._mesh.now
        stream = to.core.stream_accepted(Address(self.address.ip, 40_000), now=now)
        to.tell(lambda core, now: core.stream_received(stream, data, now=now))
        to.tell(lambda core, now: core.stream_closed(stream, now=now))

    def alive(self, name: str, raw: bytes, *, incarnation: int = 1, address: Address | None = None) -> Alive:
        """Return an alive, of a member at the thief's address by default."""
        where = address or self.address
        return Alive(incarnation, name, where.packed, where.port, raw, DEFAULT_VERSIONS)

    def meta(self, name: str, **changes: Any) -> NodeMeta:
        """Return what a member of that name would announce here."""
        return meta(name, **{"overlay_address": candidate_address(name, self._mesh.overlay), **changes})

    def forgery(self, victim: VirtualAgent, number: int) -> Alive:
        """Return one of many claims of a member's name, with its certificate as of another moment."""
        known = NodeMeta.decode(victim.engine.me.meta)
        assert known.certificate is not None
        serial = known.certificate.serial + 1 + number
        forged = replace(
            known,
            public_key=private_key("thief").public,
            certificate=replace(known.certificate, serial=serial),
        )
        incarnation = victim.engine.me.incarnation + 1
        return self.alive(victim.name, forged.encode(compact=True), incarnation=incarnation)

    def invented(self, count: int) -> list[Alive]:
        """Return members that do not exist, each with a key and an overlay address."""
        names = []
        for _ in range(count):
            self._count += 1
            name = f"invented-{self._count}"
            names.append(self.alive(name, self.meta(name).encode(), address=self._elsewhere()))
        return names

    # The attacks.

    def take_the_overlay_address(self) -> None:
        """Claim it under a smaller and a greater name, as a Go member and as a node of Kubernetes."""
        victim = self._victim()
        for name, flags in (("aaa", Flag.NONE), ("zzz", Flag.IN_KUBERNETES)):
            stolen = self.meta(name, overlay_address=victim.overlay_address, flags=flags)
            self.say(self.alive(name, stolen.encode(), incarnation=self._bump()))
        stolen = go_meta("go", overlay_address=victim.overlay_address)
        self.say(self.alive("aaa-go", stolen.encode(), incarnation=self._bump()))

    def take_the_name(self) -> None:
        """Have a member leave, then return with another key."""
        victim = self._victim()
        held = victim.engine.me
        forged = self.meta("thief", overlay_address=victim.overlay_address)
        self.say(
            Dead(held.incarnation, victim.name, victim.name),
            self.alive(victim.name, forged.encode(), incarnation=held.incarnation + 1),
        )

    def announce_the_key(self) -> None:
        """Announce the public key of a member under a smaller name."""
        victim = self._victim()
        stolen = self.meta("aaaa", public_key=victim.local.private_key.public)
        self.say(self.alive("aaaa", stolen.encode(), incarnation=self._bump()))

    def declare_left(self) -> None:
        """Forge a member's leave five times a second."""
        self._repeat(lambda held: Dead(held.incarnation, held.name, held.name))

    def declare_failed(self) -> None:
        """Accuse a member five times a second, and declare it failed."""
        self._repeat(lambda held: Suspect(held.incarnation, held.name, "thief"))
        self._repeat(lambda held: Dead(held.incarnation, held.name, "thief"))

    def move_the_endpoint(self) -> None:
        """Announce all that a member announces, with the thief's WireGuard endpoint."""
        victim = self._victim()
        self._announce_hints(victim, wireguard_endpoint=Endpoint(ip_address(self.address.ip), 51820))

    def replay_from_elsewhere(self) -> None:
        """Announce a member's own words from the thief's address."""
        victim = self._victim()
        held = victim.engine.me
        for higher in (1, 2):
            self.say(self.alive(victim.name, held.meta, incarnation=held.incarnation + higher))

    def forge_certificates(self) -> None:
        """Announce many certificates with a false signature, and one of an unknown authority."""
        victim = self._victim()
        for number in range(50):
            self.say(self.forgery(victim, number), sender=self._elsewhere())
        known = NodeMeta.decode(victim.engine.me.meta)
        subject = replace(known, public_key=private_key("thief").public).subject(victim.name)
        assert subject is not None
        foreign = UNKNOWN_AUTHORITY.issue(subject, serial=int(self._mesh.wall_clock * 1000))
        forged = replace(known, public_key=private_key("thief").public, certificate=foreign)
        self.say(self.alive(victim.name, forged.encode(), incarnation=victim.engine.me.incarnation + 1))

    def change_hints(self) -> None:
        """Announce all that a member announces, with other flags and endpoints inside the overlay."""
        victim, other = self._victim(), self._victim()
        self._announce_hints(victim, wireguard_endpoint=Endpoint(other.overlay_address, 51820))
        self._announce_hints(victim, flags=Flag.MOVABLE | Flag.BEHIND_NAT, ring=self._rng.randrange(256))
        self._announce_hints(other, internal_address=victim.overlay_address)
        # A gossip address inside the overlay, too.
        self.say(
            self.alive(
                other.name,
                other.engine.me.meta,
                incarnation=other.engine.me.incarnation + 1,
                address=Address(str(victim.overlay_address), PORT),
            )
        )

    def invent_names(self) -> None:
        """Announce members that do not exist."""
        self.say(*self.invented(20))

    def use_other_letters(self) -> None:
        """Announce a member's name in upper case."""
        name = self._victim().name.upper()
        self.say(self.alive(name, self.meta(name).encode(), incarnation=self._bump()))

    def lie_in_state_exchanges(self) -> None:
        """Say of many members, in requests and in answers, that they left, failed or are elsewhere."""
        lies = []
        for victim in self._some():
            held = victim.engine.me
            state = self._rng.choice((State.ALIVE, State.SUSPECT, State.DEAD, State.LEFT))
            raw = self.meta("thief", overlay_address=held_address(held)).encode()
            lies.append(
                PushNodeState(
                    victim.name,
                    self.address.packed,
                    PORT,
                    raw,
                    held.incarnation + self._rng.randrange(3),
                    state,
                    DEFAULT_VERSIONS,
                )
            )
        self.core.lies = tuple(lies)
        for victim in self._some():
            self.tell(lies, victim)
        # Members that hold it for one of them ask it from time to time.
        self.say(self.alive("invented-friend", self.meta("friend").encode(), incarnation=self._bump()))

    def drive_to_the_last_incarnation(self) -> None:
        """Take from a member the room to refute."""
        victim = self._victim()
        held = victim.engine.me
        self.say(
            Suspect(MAX_INCARNATION - 1, victim.name, "thief"),
            self.alive(victim.name, held.meta, incarnation=MAX_INCARNATION - 1, address=held.address),
            Dead(MAX_INCARNATION, victim.name, victim.name),
            to=[victim, *self._some()],
        )

    def run_the_stock_program(self) -> None:
        """Run the agent with a state file that has the overlay address of a member, for a while."""
        victim = self._victim()
        self._count += 1
        name = f"stock-{self._count}"
        state = replace(
            victim.state_file,
            private_key=private_key(name),
            name=name,
            overlay_address=victim.overlay_address,
            nodes=(),
            tombstones=(),
            certificate=None,
            gossip_address=None,
            mesh=None,
        )
        agent = self._mesh.boot(name, seeds=[victim.address.ip], state=state, certified=False)
        self._mesh.at(self._mesh.now + self._rng.uniform(5.0, 30.0), lambda: self._mesh.crash(agent))

    # Helpers.

    def _repeat(self, lie: Callable[[Member], Message], *, seconds: float = 10.0) -> None:
        victim = self._victim()
        end = self._mesh.now + self._rng.uniform(1.0, seconds)

        def again() -> None:
            self.say(lie(victim.engine.me))
            if self._mesh.now < end:
                self._mesh.at(self._mesh.now + 0.2, again)

        again()

    def _announce_hints(self, victim: VirtualAgent, **hints: Any) -> None:
        held = victim.engine.me
        changed = replace(NodeMeta.decode(held.meta), **hints)
        raw = changed.encode(compact=held.meta.startswith(b"\0"))
        self.say(self.alive(victim.name, raw, incarnation=held.incarnation + 1, address=victim.address))

    def _victim(self) -> VirtualAgent:
        return self._rng.choice(self._certified())

    def _some(self) -> list[VirtualAgent]:
        agents = self._certified()
        return self._rng.sample(agents, min(len(agents), self._rng.randint(1, 8)))

    def _certified(self) -> list[VirtualAgent]:
        return [agent for agent in self._mesh.agents if agent.local.options.in_kubernetes]

    def _elsewhere(self) -> Address:
        return Address(f"10.66.{self._rng.randrange(256)}.{self._rng.randrange(1, 255)}", PORT)

    def _bump(self) -> int:
        """Return an incarnation that is higher than those before."""
        self._count += 1
        return self._count


def held_address(member: Member) -> IPAddress | None:
    """Return the overlay address that a member announces."""
    return NodeMeta.decode(member.meta).overlay_address


def sealed(*messages: Message) -> bytes:
    """Return a datagram under the cluster key."""
    return seal([encode(m) for m in messages], SEALED, checksum=False, nonce=bytes)
