"""Real gossip engines on an imagined network, in imagined time.

Nothing here waits: a minute of a cluster's life takes as long as its packets take
to compute. One seed decides delays, losses and every die the engines throw, so a
run that failed can be run again. It is printed with every failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import TypeVar

from wesher_agent.mesh.dialling import MAX_OPEN
from wesher_agent.mesh.events import Event
from wesher_agent.net.core import Core
from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.members import DEFAULT_VERSIONS, LocalNode, Member
from wesher_agent.swim.profile import DEFAULT_LIMITS, LAN, Limits, Profile
from wesher_agent.swim.streams import CloseStream, OpenStream, StreamAction, StreamId, WriteStream
from wesher_agent.wire.messages import Message, State, Versions
from wesher_agent.wire.packet import UDP_PAYLOAD, PacketFormat, open_packet
from wesher_testing.virtual.event_trace import Trace
from wesher_testing.virtual.invariants import Invariants

E = TypeVar("E", bound=Event)

PLAIN = PacketFormat(keyring=None, compress=False)
PORT = 7946
LATE = 3.0
"""Seconds after which the copy of a datagram may still arrive."""
_GRAIN = 0.01
"""Seconds between two looks at what a test waits for."""


class Node:
    """One core and the machine it imagines to run on.

    Made by `VirtualNetwork.start`. ``events`` holds all that the core reported.
    """

    def __init__(
        self, network: VirtualNetwork, name: str, core: Core, engine: Engine, address: Address
    ) -> None:
        self.name = name
        self.core = core
        """What is driven: an engine or a whole member."""
        self.engine = engine
        """The engine in it, for a test to look into."""
        self.address = address
        """Where its sockets are, which is not what it says after `VirtualNetwork.move`."""
        self.appears_as: Address | None = None
        """Where its datagrams seem to come from, behind a NAT."""
        self.events: list[Event] = []
        self.sent: list[tuple[float, Address, bytes]] = []
        """Every datagram, when `VirtualNetwork.record` is set."""
        self.asked: list[tuple[float, Address, bytes]] = []
        """What it wrote first on each stream that it opened, under the same condition."""
        self.listens = True
        """Whether its sockets are open."""
        self.awake_from = 0.0
        self.heard_from = 0.0
        """Until then what it sends and gets is held back, see `VirtualNetwork.choke`."""
        self.incarnations: dict[str, int] = {}
        """The highest seen of each member: `Invariants` compares with it."""
        self._network = network
        self._wake_at: float | None = None
        self.connections: dict[StreamId, _Connection] = {}

    def __repr__(self) -> str:
        return f"Node({self.name})"

    @property
    def alive(self) -> set[str]:
        """The names it holds for members, suspected ones included, itself too."""
        return {name for name, member in self.engine.members.items() if not member.is_gone}

    def sees(self, other: Node) -> State | None:
        """Return the state in which it holds another, None when it knows no such name."""
        member = self.engine.members.get(other.name)
        return member.state if member is not None else None

    def knows(self, other: Node) -> Member:
        """Return what it holds of another."""
        return self.engine.members[other.name]

    def happened(self, kind: type[E]) -> list[E]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def act(self, call: Callable[[Engine, float], None]) -> None:
        """Call an input of the engine now, then do all that is wanted."""
        call(self.engine, self._network.now)
        self.pump()

    def tell(self, call: Callable[[Core, float], None]) -> None:
        """Call an input of the core now, then do all that it wants done."""
        call(self.core, self._network.now)
        self.pump()

    def later(self, delay: float, call: Callable[[], None]) -> None:
        """Do something after a while, as soon as this node is awake; never once it has crashed."""
        network = self._network

        def do() -> None:
            if not network.runs(self):
                return
            if self.awake_from > network.now:
                network.at(self.awake_from, do)
            else:
                call()

        network.at(network.now + delay, do)

    def heard(self, event: Event) -> None:
        """Take what the engine reports."""
        self.events.append(event)

    def misses(self) -> Iterator[tuple[Node, str]]:
        """Yield each node that it should see and does not, or not as it is, and what is wrong.

        Nothing here: gossip alone may lose members for good, as memberlist's does.
        """
        yield from ()

    def keeps(self) -> Iterator[tuple[str, int, int]]:
        """Yield what is kept besides the engine's: what it is, how many there are, how many there may be."""
        yield "connections", len(self.connections), MAX_OPEN

    def pump(self) -> None:
        """Carry out what the core wants: what a driver does, without sockets."""
        network, core = self._network, self.core
        for data, address in core.datagrams_to_send():
            network.transmit(self, data, address)
        for action in core.stream_actions():
            network.stream_action(self, action)
        while (event := core.next_event()) is not None:
            network.trace.heard(self.name, event)
            network.invariants.heard(self, event)
            self.heard(event)
        network.invariants.acted(self)
        at = core.next_timer()
        if at is not None and (self._wake_at is None or at < self._wake_at):
            self._wake_at = max(at, network.now)
            network.at(self._wake_at, self._wake)

    def _wake(self) -> None:
        if self._wake_at is None or self._wake_at > self._network.now or not self._network.runs(self):
            return
        if self.awake_from > self._network.now:
            self._network.at(self.awake_from, self._wake)
            return
        self._wake_at = None
        at = self.core.next_timer()
        if at is not None and at <= self._network.now:
            self.core.handle_timer(now=self._network.now)
        self.pump()


@dataclass(slots=True)
class _Connection:
    """A TCP connection between two nodes; what is in flight keeps its order."""

    client: Node
    server: Node
    delay: float
    ids: dict[Node, StreamId] = field(default_factory=dict)

    def other(self, node: Node) -> Node:
        return self.server if node is self.client else self.client


class VirtualNetwork:
    """Hosts, the paths between them, and the clock.

    Args:
        seed: decides everything that chance decides.
        profile: of the nodes that are started without their own.
        packet_format: likewise.
        loss: the share of datagrams that get lost; TCP loses nothing.
        delay: seconds one way, at least and at most; unequal ones change the order of datagrams.
        duplication: the share of datagrams that arrive once more, up to `LATE` seconds later.

    """

    def __init__(
        self,
        seed: int = 1,
        *,
        profile: Profile = LAN,
        packet_format: PacketFormat = PLAIN,
        loss: float = 0.0,
        delay: tuple[float, float] = (0.0005, 0.003),
        duplication: float = 0.0,
    ) -> None:
        self.seed = seed
        self.now = 0.0
        self.profile = profile
        self.packet_format = packet_format
        self.loss = loss
        self.delay = delay
        self.duplication = duplication
        self.record = False
        self.datagrams = 0
        self.nodes: dict[str, Node] = {}
        self.trace = Trace(lambda: self.now)
        self.figures: list[str] = []
        """What a test measured, shown when all have ended."""
        self.invariants = Invariants(self)
        self._rng = Random(seed)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = count()
        self._addresses = count(1)
        self._at: dict[Address, Node] = {}
        self._blocked: set[tuple[str, str]] = set()
        self._no_udp: set[str] = set()

    def __repr__(self) -> str:
        return f"VirtualNetwork(seed={self.seed}, now={self.now:.3f}, nodes={len(self.nodes)})"

    # Building

    def start(self, *names: str, join: bool = True) -> list[Node]:
        """Start nodes, let them join the first node of all, and run until they all see each other."""
        nodes = [self.add(name) for name in names]
        if join:
            seed = next(iter(self.nodes.values()))
            for node in nodes:
                if node is not seed:
                    self.join(node, seed)
            everyone = set(self.nodes)
            self.run_until(lambda: all(n.alive >= everyone for n in self.nodes.values()), deadline=60.0)
        return nodes

    def add(
        self,
        name: str,
        *,
        address: Address | None = None,
        meta: bytes = b"",
        versions: Versions = DEFAULT_VERSIONS,
        incarnation: int = 1,
        profile: Profile | None = None,
        packet_format: PacketFormat | None = None,
        limits: Limits = DEFAULT_LIMITS,
        label: str | None = None,
    ) -> Node:
        """Start one node that knows nobody yet.

        Args:
            name: what it calls itself.
            address: where it is; by default an address of its own.
            meta: its metadata.
            versions: what it speaks.
            incarnation: its first.
            profile: instead of the network's.
            packet_format: instead of the network's.
            limits: what others can make it keep.
            label: what tests call it, where two use one name.

        """
        address = address or self.new_address()
        rng = self.new_dice()
        engine = Engine(
            LocalNode(name, address, meta, versions),
            profile or self.profile,
            packet_format=packet_format or self.packet_format,
            incarnation=incarnation,
            rng=rng,
            nonce=rng.randbytes,
            limits=limits,
        )
        node = Node(self, label or name, engine, engine, address)
        self.place(node)
        node.act(lambda engine, now: engine.start(now=now))
        return node

    def new_address(self) -> Address:
        """Return an address that no node has had."""
        number = next(self._addresses)
        return Address(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", PORT)

    def new_dice(self) -> Random:
        """Return dice of their own for one node."""
        return Random(self._rng.getrandbits(64))

    def place(self, node: Node) -> None:
        """Put a node where its sockets are."""
        self.trace.say(f"{node.name} starts at {node.address}")
        self.nodes[node.name] = node
        self._at[node.address] = node
        self.invariants.watch(node)

    def join(self, node: Node, *seeds: Node) -> None:
        """Let a node exchange state with others as a joiner."""
        node.act(lambda engine, now: engine.join([seed.address for seed in seeds], now=now))

    # Faults

    def crash(self, node: Node) -> None:
        """End a node without a word; its host goes on refusing connections."""
        self.trace.say(f"{node.name} crashes")
        del self.nodes[node.name]
        del self._at[node.address]

    def cut(self, node: Node) -> None:
        """Lose everything to and from a node."""
        self.partition([node], [other for other in self.nodes.values() if other is not node])

    def block(self, source: Node, target: Node) -> None:
        """Lose everything one way; without it no TCP connection works either."""
        self.trace.say(f"nothing gets from {source.name} to {target.name}")
        self._blocked.add((source.name, target.name))
        self.invariants.separated()

    def partition(self, *sides: Iterable[Node]) -> None:
        """Lose everything between nodes of different sides."""
        groups = [list(side) for side in sides]
        self.trace.say("cut: " + " | ".join(" ".join(node.name for node in group) for group in groups))
        for group in groups:
            for other in groups:
                if other is not group:
                    self._blocked |= {(a.name, b.name) for a in group for b in other}
        self.invariants.separated()

    def block_udp(self, node: Node) -> None:
        """Lose every datagram to and from a node; TCP works."""
        self.trace.say(f"no datagram gets from or to {node.name}")
        self._no_udp.add(node.name)
        self.invariants.separated()

    def heal(self) -> None:
        """Lift every cut, block and partition."""
        self.trace.say("every cut is healed")
        self._blocked.clear()
        self._no_udp.clear()

    def pause(self, node: Node, seconds: float) -> None:
        """Stop a node as a busy machine does: what arrives meanwhile it reads afterwards."""
        self.trace.say(f"{node.name} pauses for {seconds:g} s")
        node.awake_from = self.now + seconds
        self.invariants.separated()

    def choke(self, node: Node, seconds: float) -> None:
        """Hold back all that a node sends and gets while its timers go on: Lifeguard's slow member."""
        self.trace.say(f"{node.name} chokes for {seconds:.1f} s")
        node.heard_from = self.now + seconds
        self.invariants.separated()

    def move(self, node: Node, address: Address) -> None:
        """Give a node's host another address; the engine does not know."""
        self.trace.say(f"{node.name} moves to {address}")
        del self._at[node.address]
        node.address = address
        self._at[address] = node

    # Time

    def run(self, seconds: float) -> None:
        """Let time pass, and look at everything once in a while."""
        end = self.now + seconds
        while self.now < end:
            self._run_to(min(end, self.invariants.next_look))

    def run_until(self, reached: Callable[[], object], *, deadline: float) -> float:
        """Let time pass until something holds, and return how long that took.

        Args:
            reached: looked at every hundredth of a second.
            deadline: seconds; when they are over without it, the test has failed.

        """
        start = self.now
        while not reached():
            assert self.now < start + deadline, f"not reached within {deadline} s; {self!r}\n{self.picture()}"
            self._run_to(self.now + _GRAIN)
        return self.now - start

    def figure(self, text: str) -> None:
        """Note what was measured."""
        self.trace.say(text)
        self.figures.append(text)

    def picture(self) -> str:
        """Return who holds whom for what, for a failure's report."""
        lines = []
        for node in list(self.nodes.values())[:12]:
            seen: dict[str, list[str]] = {}
            for member in node.engine.members.values():
                seen.setdefault(member.state.name.lower(), []).append(member.name)
            lines.append(f"  {node.name}: " + "; ".join(f"{k} {' '.join(v[:12])}" for k, v in seen.items()))
        return "\n".join(lines)

    def at(self, time: float, call: Callable[[], None]) -> None:
        """Do something at a time to come."""
        heappush(self._queue, (time, next(self._count), call))

    def _run_to(self, time: float) -> None:
        queue = self._queue
        while queue and queue[0][0] <= time:
            at, _, call = heappop(queue)
            self.now = max(self.now, at)
            call()
        self.now = time
        self.invariants.look()

    # What nodes do

    def runs(self, node: Node) -> bool:
        """Whether a node was not crashed."""
        return self.nodes.get(node.name) is node

    def inject(self, target: Node, data: bytes, sender: Address) -> None:
        """Let a datagram arrive at a node at once, wherever it claims to come from."""
        target.tell(lambda core, now: core.receive_datagram(data, sender, now=now))

    def transmit(self, source: Node, data: bytes, address: Address) -> None:
        """Carry a datagram, or lose it."""
        assert len(data) <= UDP_PAYLOAD, f"a datagram of {len(data)} bytes; {self!r}"
        if source.heard_from > self.now:
            self.at(source.heard_from, lambda: self.transmit(source, data, address))
            return
        self.datagrams += 1
        if self.record:
            source.sent.append((self.now, address, data))
        target = self._at.get(address)
        if target is None or not target.listens or source.name in self._no_udp or target.name in self._no_udp:
            return
        if not self._is_open(source, target) or (self.loss and self._rng.random() < self.loss):
            return
        sender = source.appears_as or source.address
        self._arrive(target, self._delay(), lambda e, now: e.receive_datagram(data, sender, now=now))
        if self.duplication and self._rng.random() < self.duplication:
            late = self._rng.uniform(0.0, LATE)
            self._arrive(target, late, lambda e, now: e.receive_datagram(data, sender, now=now))

    def stream_action(self, node: Node, action: StreamAction) -> None:
        """Do with TCP what an engine wants done."""
        match action:
            case OpenStream():
                self._dial(node, action)
            case WriteStream(stream, data):
                if (connection := node.connections.get(stream)) is not None:
                    self._write(connection, node, data)
            case CloseStream(stream):
                if (connection := node.connections.pop(stream, None)) is not None:
                    self._arrive_closed(connection, connection.other(node), None)

    def _dial(self, node: Node, request: OpenStream) -> None:
        if self.record:
            node.asked.append((self.now, request.address, request.data))
        if len(node.connections) >= MAX_OPEN:
            self._refuse(node, request.id, 0.0, "too many connections at once")
            return
        target = self._at.get(request.address)
        self.at(self.now + request.timeout, lambda: self._time_out(node, request.id))
        if target is None or not target.listens:
            self._refuse(node, request.id, 2 * self._delay(), "connection refused")
            return
        connection = _Connection(node, target, self._delay(), {node: request.id})
        node.connections[request.id] = connection
        if self._is_open(node, target) and self._is_open(target, node):
            self.at(self.now + 3 * connection.delay, lambda: self._accept(connection, request.data))

    def _refuse(self, node: Node, stream: StreamId, delay: float, error: str) -> None:
        self._arrive(node, delay, lambda core, now: core.stream_closed(stream, now=now, error=error))

    def _accept(self, connection: _Connection, data: bytes) -> None:
        server, client = connection.server, connection.client
        if not self.runs(server):
            return
        remote = Address(client.address.ip, self._rng.randrange(32768, 60000))
        stream = server.core.stream_accepted(remote, now=self.now)
        connection.ids[server] = stream
        server.connections[stream] = connection
        self.at(
            self.now + DEFAULT_LIMITS.accepted_stream_timeout,
            lambda: self._time_out(server, stream),
        )
        self._arrive(server, 0.0, lambda core, now: core.stream_received(stream, data, now=now))

    def _write(self, connection: _Connection, node: Node, data: bytes) -> None:
        other = connection.other(node)
        if self._is_open(node, other) and self._is_open(other, node):
            stream = connection.ids[other]
            self._arrive(
                other,
                connection.delay,
                lambda core, now: core.stream_received(stream, data, now=now),
            )

    def _arrive_closed(self, connection: _Connection, node: Node, error: str | None) -> None:
        stream = connection.ids.get(node)
        other = connection.other(node)
        if stream is not None and self._is_open(node, other) and self._is_open(other, node):

            def close(core: Core, now: float) -> None:
                if node.connections.pop(stream, None) is not None:
                    core.stream_closed(stream, now=now, error=error)

            self._arrive(node, connection.delay, close)

    def _time_out(self, node: Node, stream: StreamId) -> None:
        connection = node.connections.pop(stream, None)
        if connection is not None and self.runs(node):
            node.tell(lambda core, now: core.stream_closed(stream, now=now, error="timed out"))
            self._arrive_closed(connection, connection.other(node), None)

    def _arrive(self, node: Node, delay: float, call: Callable[[Core, float], None]) -> None:
        def arrive() -> None:
            if not self.runs(node):
                return
            ready = max(node.awake_from, node.heard_from)
            if ready > self.now:
                self.at(ready, arrive)
                return
            node.tell(call)

        self.at(self.now + delay, arrive)

    def connects(self, one: Node, other: Node) -> bool:
        """Whether two nodes run, awake, and everything gets through between them both ways."""
        return (
            self.runs(one)
            and self.runs(other)
            and max(one.awake_from, one.heard_from, other.awake_from, other.heard_from) <= self.now
            and self._no_udp.isdisjoint({one.name, other.name})
            and self._is_open(one, other)
            and self._is_open(other, one)
        )

    def _is_open(self, source: Node, target: Node) -> bool:
        return (source.name, target.name) not in self._blocked

    def _delay(self) -> float:
        return self._rng.uniform(*self.delay)


def messages_in(data: bytes, packet_format: PacketFormat = PLAIN) -> tuple[Message, ...]:
    """Return the messages of a recorded datagram."""
    return open_packet(data, packet_format).messages
