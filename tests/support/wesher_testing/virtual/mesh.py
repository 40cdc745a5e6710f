"""Agents on the virtual network: each is the real `MeshMember` in a shell without I/O.

No WireGuard and no files are touched: what the device should be is kept, and a state
file is its text. Names are looked up in the agent's hosts entries, then in `VirtualMesh.dns`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any

from wesher_agent.files.state_format import parse_state, render_state
from wesher_agent.mesh.desired import Desired, HostEntry
from wesher_agent.mesh.device import DeviceConfig, Endpoint
from wesher_agent.mesh.gossip_profile import gossip_profile
from wesher_agent.mesh.host import HostAddress, HostNetwork
from wesher_agent.mesh.local import Local, Options
from wesher_agent.mesh.member import MeshMember
from wesher_agent.mesh.outputs import Apply, Left, Listen, Output, Resolve, Restart, Save
from wesher_agent.mesh.place import Place
from wesher_agent.mesh.roster import MOST_FAILED, MemberState
from wesher_agent.mesh.saved_state import SavedState
from wesher_agent.swim.address import Address
from wesher_agent.swim.members import Member
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.packet import PacketFormat
from wesher_common.certificate import Authority, Subject, name_hash
from wesher_common.keys import KEY_BYTES, ClusterKey, KeyRing, WireGuardPublicKey
from wesher_common.mesh_document import GossipProfile, GossipSettings, IdentitySettings, MeshDocument
from wesher_common.news import Statement, revocation_second, sign_statement
from wesher_common.overlay import IPAddress, IPNetwork, candidate_address
from wesher_common.seeds import parse_seed
from wesher_common.traffic import NO_TRAFFIC, TrafficSettings
from wesher_testing.virtual.carried import LINK, lost_flows
from wesher_testing.virtual.members import private_key
from wesher_testing.virtual.network import PORT, Node, VirtualNetwork

WORK_SECONDS = 0.5
"""How long a host takes at most to change its device, write its state or resolve a name."""
REPAIR_SECONDS = 25.0
"""Seconds between two looks at the tunnels, as `tunnel` has it."""
AUTHORITY = Authority(bytes(range(32)))
"""Certifies the members of each virtual mesh that has certificates."""
IN_OPEN_MESH = IdentitySettings(mode="Open", authorities=(AUTHORITY.key,))
IN_BOUND_MESH = IdentitySettings(mode="Verified", bound=True, form="Compact", authorities=(AUTHORITY.key,))
EPOCH = 1_800_000_000.0
"""Wall-clock seconds at virtual time 0."""
KEYS = KeyRing(ClusterKey(bytes(KEY_BYTES)))
SEALED = PacketFormat(Keyring(KEYS.primary.secret), compress=False)
"""How all agents seal their packets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualCluster:
    """A cluster of a mesh that several of them share."""

    name: str
    authority: Authority
    """Certifies its members."""
    allocation: IPNetwork
    """Where its members have their overlay addresses."""
    identity: IdentitySettings
    """What its mesh.json says."""


class VirtualAgent(Node):
    """One agent. Made by `VirtualMesh.boot`."""

    def __init__(self, mesh: VirtualMesh, member: MeshMember, address: Address, saved: SavedState) -> None:
        local = member.view(now=mesh.now).local
        super().__init__(mesh, local.name, member, member._engine, address)
        self._mesh = mesh
        self.member = member
        self.wanted: Desired | None = None
        """The desired state as last applied."""
        self.hosts: tuple[HostEntry, ...] = ()
        """Its entries in the hosts file as last written."""
        self.lost_tunnels: list[str] = []
        """Members that ran when the way to their overlay address was taken from them, once for each time."""
        self.has_left = False
        """Whether it has said that it goes, and means it."""
        self.has_ended = False
        """Whether it waits for a restart."""
        self.disk_problem = ""
        """Why its state cannot be written; empty when it can."""
        self.device_problem = ""
        """Why its device cannot be changed; empty when it can."""
        self.port_problem = ""
        """Why it cannot listen; empty when it can."""
        self.listens = False
        self.devices: list[DeviceConfig] = []
        """Each device that it was to have, one entry for each change."""
        self._sessions: dict[WireGuardPublicKey, Address] = {}
        """Where WireGuard last heard each peer."""
        self._saved = saved
        self._dice = mesh.new_dice()

    @property
    def local(self) -> Local:
        """What it is now."""
        return self.member._local

    @property
    def expects(self) -> set[str]:
        """The members it would have a tunnel to."""
        members = self.member._roster.members
        return {n for n, member in members.items() if member.state is not MemberState.LEFT}

    @property
    def is_content(self) -> bool:
        """Whether roster and gossip agree on who is alive, and nobody is suspected or failed."""
        members = self.member._roster.members
        return all(member.state is MemberState.ALIVE for member in members.values()) and (
            {*members, self.name} == self.alive
        )

    def misses(self) -> Iterator[tuple[Node, str]]:
        """Yield each member that runs, is connected, once was met, and is not seen as it is now."""
        if self.has_left:
            return
        alive, expects = self.alive, self.expects
        removed = self.local.document.removed
        for other in self._mesh.agents:
            if other is self or other.has_left or other.name in removed:
                continue
            if not self._mesh.connects(self, other):
                continue
            if other.name in alive:
                known, is_now = self.knows(other), other.engine.me
                is_other = (known.address, known.meta) != (is_now.address, is_now.meta)
                if is_other and self._proof(is_now) >= self._proof(known):
                    yield other, f"holds {other.name} for {known}, which is {is_now}"
            elif other.name in expects or self.name in other.expects:
                yield other, f"has lost {other.name}, which is there"

    def _proof(self, member: Member) -> int:
        """How well what a member says is proven here; what is proven worse changes nothing that is known."""
        return self.member._identity.standing(member.name, member.meta, member.address, self._mesh.now)

    def keeps(self) -> Iterator[tuple[str, int, int]]:
        """Yield what the roster keeps too."""
        yield from super().keeps()
        roster = self.member._roster
        members, failed = len(roster._known), len(roster._away)
        yield "members that have not failed", members - failed, max(0, len(self.engine.members) - 1)
        yield "failed members", failed, MOST_FAILED
        yield "outputs", len(self.member._outputs), 0
        if roster._changed_at is None:
            # Else what was wanted before is still planned, for a moment.
            answers = sum(map(len, roster._answers.values()))
            yield "dial plans", len(roster._schedule._plans), failed + len(roster._seeds) + answers

    @property
    def state_file(self) -> SavedState:
        """What a restart would find."""
        return self._saved

    @property
    def owners(self) -> dict[IPAddress, WireGuardPublicKey]:
        """Whose tunnel each overlay address goes to, its own too."""
        assert self.wanted is not None
        device = self.wanted.device
        routed = {net.network_address: peer.public_key for peer in device.peers for net in peer.allowed_ips}
        return {device.address: device.private_key.public, **routed}

    @property
    def tunnels(self) -> set[str]:
        """The members that run and are reached at their overlay addresses."""
        owners = self.owners
        return {
            other.name
            for other in self._mesh.agents
            if other is not self and owners.get(other.overlay_address) == other.local.private_key.public
        }

    @property
    def overlay_address(self) -> IPAddress:
        """Where the others should reach it."""
        address = self.local.overlay_address
        assert address is not None
        return address

    @property
    def rival(self) -> str:
        """Where it says that another machine uses its name."""
        return self.member.view(now=self._mesh.now).rival

    def act(self, call: Callable[[Any, float], None]) -> None:
        """Call the engine behind the member's back, and let the member see to what it reports."""
        call(self.engine, self._mesh.now)
        self.member.handle_timer(now=self._mesh.now)
        self.pump()

    def watch_tunnels(self) -> None:
        """Tell the member where its peers are proven to be, and the time, as `runtime.agent` does."""
        self._sessions = {
            key: other.address
            for key in self.endpoints
            if (other := self._mesh.with_key(key)) is not None and self._can_shake_hands(other)
        }
        port = self.local.document.wireguard.port
        proven = {key: Endpoint(ip_address(address.ip), port) for key, address in self._sessions.items()}
        self.change(lambda member, now: member.tunnels_seen(proven, now=now))
        self.change(lambda member, now: member.clock_read(self._mesh.wall_clock, now=now))
        self.later(REPAIR_SECONDS, self.watch_tunnels)

    def renew(self, cluster: VirtualCluster | None = None) -> None:
        """Get a newer certificate, as from the operator."""
        place = self._mesh.issue(self.name, self.local.private_key.public, cluster)
        self.change(lambda member, now: member.node_given(place, now=now))

    @property
    def endpoints(self) -> dict[WireGuardPublicKey, frozenset[str]]:
        """Where its device sends what is for each peer, in turn, unless it has heard the peer elsewhere."""
        peers = self.wanted.device.peers if self.wanted else ()
        return {
            peer.public_key: frozenset(
                str(at.address) for at in (peer.endpoint, peer.proven) if at is not None
            )
            for peer in peers
        }

    def _can_shake_hands(self, other: VirtualAgent) -> bool:
        """Whether both have each other as a peer, and one of them sends to where the other is."""
        mine, theirs = self.local.private_key.public, other.local.private_key.public
        if mine not in other.endpoints or not self._mesh.connects(self, other):
            return False
        return (
            self._sessions.get(theirs) == other.address
            or other.address.ip in self.endpoints[theirs]
            or self.address.ip in other.endpoints[mine]
        )

    def pump(self) -> None:
        """Do what the member wants of the network, then what it wants of its host."""
        while True:
            while (output := self.member.next_output()) is not None:
                self._do(output)
            super().pump()
            if not self.member._outputs:
                return

    def change(self, call: Callable[[MeshMember, float], None]) -> None:
        """Tell the member something, as its host would."""
        call(self.member, self._mesh.now)
        self.pump()

    def set_seeds(self, seeds: Iterable[str]) -> None:
        """Have other seeds from now on, as a changed mesh.json brings."""
        parsed = tuple(parse_seed(seed, field="seed") for seed in seeds)
        self._set_document(replace(self.local.document, seed_nodes=parsed))

    def set_gossip_port(self, port: int) -> None:
        """Gossip on another port from now on, as a changed mesh.json brings."""
        document = self.local.document
        self._set_document(replace(document, gossip=replace(document.gossip, port=port)))

    def set_traffic(self, traffic: TrafficSettings) -> None:
        """Have other settings of carried traffic from now on, as a changed mesh.json brings."""
        self._set_document(replace(self.local.document, traffic=traffic))

    def set_removed(self, names: Iterable[str]) -> None:
        """Have other names removed from now on, as a changed mesh.json brings."""
        self._set_document(replace(self.local.document, removed=tuple(names)))

    def _set_document(self, document: MeshDocument) -> None:
        self.change(lambda member, now: member.mesh_changed(document, KEYS, now=now))

    def moved(self) -> None:
        """See that the host's address is another."""
        self.change(lambda member, now: member.host_changed(host_at(self.address), now=now))

    def leave(self) -> None:
        """Leave the mesh for good, as the command has it."""
        self.change(lambda member, now: member.leave(now=now))

    def _do(self, output: Output) -> None:
        match output:
            case Listen(port=port):
                self._later(partial(self._listen, port), most=0.05)
            case Apply(desired=wanted):
                self._apply(wanted)
                self._later(lambda member, now: member.applied(self.device_problem, now=now))
            case Save(state=state):
                if not self.disk_problem:
                    self._saved = state
                self._later(lambda member, now: member.saved(self.disk_problem, now=now))
            case Resolve(seed=seed):
                answers = self._look_up(seed.host)
                self._later(lambda member, now: member.resolved(seed, answers, "no answer", now=now))
            case Left():
                self.has_left = True
            case Restart():
                self.has_ended = True
            case _:
                pass

    def _look_up(self, name: str) -> list[IPAddress]:
        """Return what a resolver with ``hosts: files dns`` answers."""
        written = [entry.address for entry in self.hosts if entry.name.lower() == name.lower()]
        return written or [ip_address(answer) for answer in self._mesh.dns.get(name, ())]

    def _listen(self, port: int, member: MeshMember, now: float) -> None:
        self.listens = not self.port_problem
        if self.listens and port != self.address.port:
            self._mesh.move(self, Address(self.address.ip, port))
        member.listening(self.port_problem, now=now)

    def _later(self, call: Callable[[MeshMember, float], None], *, most: float = WORK_SECONDS) -> None:
        """Answer after a while: what else happens meanwhile is what a member must cope with."""
        self.later(self._dice.uniform(0.0, most), lambda: self.change(call))

    def _apply(self, wanted: Desired) -> None:
        self.hosts = wanted.hosts
        if self.device_problem:
            return
        networks = [net for peer in wanted.device.peers for net in peer.allowed_ips]
        assert len({*networks, ip_network(wanted.device.address)}) == len(networks) + 1, (
            f"{self.name} programs two owners of one address: {networks}; {self._mesh!r}"
        )
        is_other = not self.devices or self.devices[-1] != wanted.device
        if is_other:
            self.devices.append(wanted.device)
        if self.wanted is None or self.wanted.device == wanted.device:
            self.wanted = wanted
        else:
            before, self.wanted = self.tunnels, wanted
            self.lost_tunnels += sorted(before - self.tunnels)
        if is_other and self.name not in self._mesh.cast_out:
            for lost in lost_flows(self, [a for a in self._mesh.agents if a.name not in self._mesh.cast_out]):
                raise AssertionError(f"{lost}; {self._mesh!r}")


class VirtualMesh(VirtualNetwork):
    """Agents of one mesh.

    Args:
        seed: as of `VirtualNetwork`.
        gossip: the mesh's profile.
        overlay: its network.
        forget_after: seconds a failed member is expected back.
        identity: its members are certified by `AUTHORITY`; None for a mesh without certificates.
        settings: further ones of `VirtualNetwork`.

    """

    def __init__(
        self,
        seed: int = 1,
        *,
        gossip: GossipProfile = "LAN",
        overlay: str = "192.168.0.0/16",
        forget_after: float = 24 * 3600.0,
        identity: IdentitySettings | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(seed, profile=gossip_profile(gossip), packet_format=SEALED, **settings)
        self.overlay: IPNetwork = ip_network(overlay)
        self.dns: dict[str, tuple[str, ...]] = {}
        """What names resolve to, for every agent alike."""
        self.networks: dict[str, tuple[IPNetwork, ...]] = {}
        """What the certificates of members list beside their overlay address, by name."""
        self.cast_out: set[str] = set()
        """Members whose packets need not arrive, such as revoked ones."""
        self.wall_clock_error = 0.0
        """Seconds by which every host's clock is wrong."""
        self._gossip: GossipProfile = gossip
        self._forget_after = forget_after
        self._identity = identity
        self._by_key: dict[WireGuardPublicKey, VirtualAgent] = {}

    @property
    def wall_clock(self) -> float:
        """What every host's clock shows, in Unix seconds."""
        return EPOCH + self.now + self.wall_clock_error

    def with_key(self, key: WireGuardPublicKey) -> VirtualAgent | None:
        """Return the agent that holds a WireGuard key, if it runs."""
        agent = self._by_key.get(key)
        return agent if agent is not None and self.runs(agent) else None

    @property
    def agents(self) -> list[VirtualAgent]:
        """All that run."""
        return [node for node in self.nodes.values() if isinstance(node, VirtualAgent)]

    def form(self, count: int, *, seeds: int = 3) -> list[VirtualAgent]:
        """Boot agents that know of the first few, and run until all have met and programmed each other."""
        where = [f"10.0.0.{i + 1}" for i in range(min(seeds, count))]
        agents = [self.boot(f"n{i:02}", seeds=where) for i in range(count)]
        self.run_until(self.is_whole, deadline=60.0)
        return agents

    def boot(
        self,
        name: str,
        *,
        seeds: Iterable[str] = (),
        address: Address | None = None,
        state: SavedState | None = None,
        certified: bool = True,
        traffic: TrafficSettings = NO_TRAFFIC,
        cluster: VirtualCluster | None = None,
    ) -> VirtualAgent:
        """Start an agent.

        Args:
            name: the member's.
            seeds: as users write them.
            address: where; by default an address of its own.
            state: what an earlier run left, read from its file's text; None when nothing.
            certified: whether it is a node with a certificate, where the mesh has an authority.
            traffic: as of mesh.json.
            cluster: to which it belongs; None where the mesh has one.

        """
        identity = self._identity if cluster is None else cluster.identity
        saved = SavedState()
        if state is not None:
            saved, problems = parse_state(render_state(state).encode(), gossip_port=PORT)
            assert not problems
        address = address or self.new_address()
        rng = self.new_dice()
        document = MeshDocument(
            name="wgoverlay",
            uid="",
            overlay=self.overlay,
            allocation=self.overlay if cluster is None else cluster.allocation,
            cluster_name="" if cluster is None else cluster.name,
            gossip=GossipSettings(port=PORT, profile=self._gossip),
            etc_hosts="Names",
            seed_nodes=tuple(parse_seed(seed, field="seed") for seed in seeds),
            identity=identity,
            traffic=traffic,
        )
        key = saved.private_key or private_key(f"{name} {rng.random()}")
        place = self.issue(name, key.public, cluster) if certified and identity is not None else None
        options = Options(forget_after=self._forget_after, in_kubernetes=place is not None)
        host = host_at(address)
        local = Local(
            name=name,
            private_key=key,
            ring=KEYS,
            document=document,
            options=options,
            host=host,
            listening=options.listening(document, None, host),
            place=place,
        )
        member = MeshMember(local, saved, now=self.now, wall=self.wall_clock, rng=rng, nonce=rng.randbytes)
        agent = VirtualAgent(self, member, address, saved)
        self._by_key[key.public] = agent
        self.place(agent)
        agent.change(lambda member, now: member.start(now=now))
        if identity is not None:
            agent.later(rng.uniform(0.0, REPAIR_SECONDS), agent.watch_tunnels)
        return agent

    def issue(self, name: str, key: WireGuardPublicKey, cluster: VirtualCluster | None = None) -> Place:
        """Give a node its address and its certificate, as the operator does."""
        address = candidate_address(name, self.overlay if cluster is None else cluster.allocation)
        location = "" if cluster is None else cluster.name
        networks = self.networks.get(name, ())
        subject = Subject(name=name, public_key=key, address=address, location=location, networks=networks)
        authority = AUTHORITY if cluster is None else cluster.authority
        certificate = authority.issue(subject, serial=int(self.wall_clock * 1000))
        return Place(overlay_address=address, location=location, routes=networks, certificate=certificate)

    def revocation(self, names: Iterable[str]) -> Statement:
        """Sign now that the certificates which these names have are void."""
        now = int(self.wall_clock * 1000)
        revoked = {name_hash(name): revocation_second(now) for name in names}
        return sign_statement(AUTHORITY, number=now, revoked=revoked)

    def is_whole(self, agents: Iterable[VirtualAgent] | None = None) -> bool:
        """Whether agents, all by default, see just each other, alive, and agree on every tunnel."""
        agents = self.agents if agents is None else list(agents)
        names = {agent.name for agent in agents}
        if not all(agent.is_content and agent.alive == names for agent in agents):
            return False
        if any(agent.knows(other).address != other.address for agent in agents for other in agents):
            return False
        owners = {agent.engine.me.meta: agent.owners for agent in agents}
        first = next(iter(owners.values()))
        return len(first) == len(agents) and all(known == first for known in owners.values())


def host_at(address: Address) -> HostNetwork:
    """Return a host with one address on one link."""
    entry = HostAddress(ip_address(address.ip), 24, LINK, link_up=True, has_default_route=True)
    return HostNetwork((entry,), frozenset(), frozenset())
