"""Agents on the virtual network: engine, roster and state file, joined as the real agent joins them.

No WireGuard and no files are touched: what the device should be is computed, and
a state file is its text. Names are looked up in `VirtualMesh.dns`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from wesher_agent.files.state_format import State, parse_state, render_state
from wesher_agent.mesh.desired import OwnNode, Wish, desired, starting_address
from wesher_agent.mesh.dialling import Target
from wesher_agent.mesh.gossip_profile import gossip_profile
from wesher_agent.mesh.nodemeta import META_VERSION, Flag, NodeMeta
from wesher_agent.mesh.roster import MOST_FAILED, MemberState, Roster
from wesher_agent.runtime.agent import APPLY_PAUSE, SAVE_PAUSE
from wesher_agent.runtime.claims import Claim, NameClaims
from wesher_agent.runtime.identity import first_incarnation
from wesher_agent.runtime.seeking import SHORTEST_REST
from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.events import Event, LeaveDone, NameConflict, PacketRejected, SelfRefuted
from wesher_agent.swim.members import LocalNode
from wesher_common.keys import WireGuardPublicKey
from wesher_common.mesh_document import GossipProfile
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_common.seeds import SeedAddress, parse_seed
from wesher_testing.members import private_key
from wesher_testing.virtual_network import PORT, Node, VirtualNetwork

EPOCH = 1_800_000_000.0
"""Wall-clock seconds at virtual time 0."""


class VirtualAgent(Node):
    """One agent. Made by `VirtualMesh.boot`."""

    def __init__(self, mesh: VirtualMesh, own: OwnNode, engine: Engine, roster: Roster, saved: State) -> None:
        super().__init__(mesh, own.name, engine, engine.me.address)
        self._mesh = mesh
        self.roster = roster
        self.wish: Wish | None = None
        """As last applied."""
        self.lost_tunnels: list[str] = []
        """Members that ran when the way to their overlay address was taken from them, once for each time."""
        self.has_left = False
        """Whether it has said that it goes, and means it."""
        self._own = own
        self._saved = saved
        former = saved.gossip_address if saved.name == own.name else None
        self.claims = NameClaims([former] if former is not None else [])
        self._removed: frozenset[str] = frozenset()
        self._look_at: float | None = None
        self._applying = _Work(self, self._apply, pause=APPLY_PAUSE)
        self._saving = _Work(self, self._save, pause=SAVE_PAUSE)

    @property
    def expects(self) -> set[str]:
        """The members it would have a tunnel to."""
        return {n for n, member in self.roster.members.items() if member.state is not MemberState.LEFT}

    @property
    def is_content(self) -> bool:
        """Whether roster and gossip agree on who is alive, and nobody is suspected or failed."""
        members = self.roster.members
        return all(member.state is MemberState.ALIVE for member in members.values()) and (
            {*members, self.name} == self.alive
        )

    def misses(self) -> Iterator[tuple[Node, str]]:
        """Yield each member that runs, is connected, once was met, and is not seen as it is now."""
        if self.has_left:
            return
        alive, expects = self.alive, self.expects
        for other in self._mesh.agents:
            if other is self or other.has_left or other.name in self._removed:
                continue
            if not self._mesh.connects(self, other):
                continue
            if other.name in alive:
                known, is_now = self.knows(other), other.engine.me
                if (known.address, known.meta) != (is_now.address, is_now.meta):
                    yield other, f"holds {other.name} for {known}, which is {is_now}"
            elif other.name in expects or self.name in other.expects:
                yield other, f"has lost {other.name}, which is there"

    def keeps(self) -> Iterator[tuple[str, int, int]]:
        """Yield what the roster keeps too."""
        yield from super().keeps()
        roster = self.roster
        members, failed = len(roster._known), len(roster._failed)
        yield "members that have not failed", members - failed, len(self.engine.members) - 1
        yield "failed members", failed, MOST_FAILED
        if roster._changed_at is None:
            # Else what was wanted before is still planned, for a moment.
            answers = sum(map(len, roster._answers.values()))
            yield "dial plans", len(roster._schedule._plans), failed + len(roster._seeds) + answers

    @property
    def state_file(self) -> State:
        """What a restart would find."""
        return self._saved

    @property
    def owners(self) -> dict[IPAddress, WireGuardPublicKey]:
        """Whose tunnel each overlay address goes to, its own too."""
        assert self.wish is not None
        device = self.wish.device
        routed = {net.network_address: peer.public_key for peer in device.peers for net in peer.allowed_ips}
        return {device.address: device.private_key.public, **routed}

    @property
    def tunnels(self) -> set[str]:
        """The members that run and are reached at their overlay addresses."""
        owners = self.owners
        others = (other._own for other in self._mesh.agents if other is not self)
        return {other.name for other in others if owners.get(other.address) == other.private_key.public}

    def heard(self, event: Event) -> None:
        """Tell the roster, as the agent does."""
        super().heard(event)
        match event:
            case NameConflict(member=member) if member.name == self.name:
                self._settle_claim(event)
            case SelfRefuted():
                self._saving.wake()
            case LeaveDone():
                self.has_left = True
            case PacketRejected():
                return
            case _:
                pass
        if self.roster.observe(event, now=self._mesh.now):
            self._members_changed()
        self._arm()

    def pump(self) -> None:
        """Do what the engine wants, then see what the roster wants."""
        super().pump()
        self._arm()

    def begin(self) -> None:
        """Show the device as it is before anybody was met, and keep what we are."""
        self._apply()
        self._save()
        self._arm()

    def set_seeds(self, seeds: Iterable[str]) -> None:
        """Have other seeds from now on, as a changed mesh.json brings."""
        self.roster.set_seeds([parse_seed(seed, field="seed") for seed in seeds], now=self._mesh.now)
        self._arm()

    def set_removed(self, names: Iterable[str]) -> None:
        """Have other names removed from now on, as a changed mesh.json brings."""
        self._removed = frozenset(names)
        if self.roster.set_removed(self._removed, now=self._mesh.now):
            self._members_changed()
        self._arm()

    def moved(self) -> None:
        """See that the host's address is another."""
        self.claims.move(self.engine.me.address, self.address)
        self._set_own_addresses()
        self._saving.wake()
        self._say_where()

    def _settle_claim(self, conflict: NameConflict) -> None:
        # Later, since the engine is still handing out its events.
        match self.claims.judge(conflict.claimed, asked_for=conflict.asked_for, now=self._mesh.now):
            case Claim.FORMER:
                self.later(0.0, self._say_where)
            case Claim.DOUBTFUL:
                self.later(0.0, lambda: self._try(conflict.claimed))
            case _:
                pass

    def _say_where(self) -> None:
        self.act(lambda engine, now: engine.change_address(self.address, now=now))

    def _members_changed(self) -> None:
        self._applying.wake()
        self._saving.wake()

    def _arm(self) -> None:
        """See to it that the roster is looked at when it wants to be."""
        at = max(self.roster.next_timer(), self._mesh.now + SHORTEST_REST)
        if at != float("inf") and (self._look_at is None or at < self._look_at):
            self._look_at = at
            self.later(at - self._mesh.now, lambda: self._look(at))

    def _look(self, at: float) -> None:
        if self._look_at != at:
            return
        self._look_at = None
        now = self._mesh.now
        if self.roster.forget(now=now):
            self._members_changed()
        for target in self.roster.due(now=now, most=self.free_dials):
            self._try(target)
        self._arm()

    def _try(self, target: Target) -> None:
        if isinstance(target, SeedAddress):
            answers = [ip_address(answer) for answer in self._mesh.dns.get(target.host, ())]
            if answers:
                self.roster.resolved(target, answers, now=self._mesh.now)
        else:
            self.act(lambda engine, now: engine.push_pull_with(target, now=now))

    def _apply(self) -> None:
        members = self.roster.members.values()
        wish = desired(self._own, members)
        if wish.device.address != self._own.address:
            self._own = replace(self._own, address=wish.device.address)
            meta = own_meta(self._own)
            self.act(lambda engine, now: engine.update_meta(meta, now=now))
            self._set_own_addresses()
            self._saving.wake()
            wish = desired(self._own, members)
        networks = [net for peer in wish.device.peers for net in peer.allowed_ips]
        assert len({*networks, ip_network(wish.device.address)}) == len(networks) + 1, (
            f"{self.name} programs two owners of one address: {networks}; {self._mesh!r}"
        )
        if self.wish is None or self.wish.device == wish.device:
            self.wish = wish
        else:
            before, self.wish = self.tunnels, wish
            self.lost_tunnels += sorted(before - self.tunnels)

    def _set_own_addresses(self) -> None:
        self.roster.set_own_addresses(
            [ip_address(self.address.ip)], overlay_address=self._own.address, now=self._mesh.now
        )

    def _save(self) -> None:
        self._saved = State(
            nodes=self.roster.saved(now=self._mesh.now),
            private_key=self._own.private_key,
            name=self.name,
            gossip_address=self.engine.me.address,
            overlay_address=self._own.address,
            incarnation=self.engine.me.incarnation,
            tombstones=self.engine.tombstones(now=self._mesh.now),
        )


class VirtualMesh(VirtualNetwork):
    """Agents of one mesh.

    Args:
        seed: as of `VirtualNetwork`.
        gossip: the mesh's profile.
        overlay: its network.
        forget_after: seconds a failed member is expected back.
        settings: further ones of `VirtualNetwork`.

    """

    def __init__(
        self,
        seed: int = 1,
        *,
        gossip: GossipProfile = "LAN",
        overlay: str = "192.168.0.0/16",
        forget_after: float = 24 * 3600.0,
        **settings: Any,
    ) -> None:
        super().__init__(seed, profile=gossip_profile(gossip), **settings)
        self.overlay: IPNetwork = ip_network(overlay)
        self.dns: dict[str, tuple[str, ...]] = {}
        """What names resolve to, for every agent alike."""
        self.wall_clock_error = 0.0
        """Seconds by which every host's clock is wrong."""
        self._forget_after = forget_after

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
        state: State | None = None,
    ) -> VirtualAgent:
        """Start an agent.

        Args:
            name: the member's.
            seeds: as users write them.
            address: where; by default an address of its own.
            state: what an earlier run left, read from its file's text; None when nothing.

        """
        saved = State()
        if state is not None:
            saved, problems = parse_state(render_state(state).encode(), gossip_port=PORT)
            assert not problems
        address = address or self.new_address()
        rng = self.new_dice()
        metas = [NodeMeta.decode(node.raw_meta) for node in saved.nodes]
        taken = {meta.overlay_address for meta in metas if meta.overlay_address is not None}
        overlay_address = starting_address(name, self.overlay, saved=saved.overlay_address, taken=taken)
        key = saved.private_key or private_key(f"{name} {rng.random()}")
        own = OwnNode(
            name=name,
            interface="wgoverlay",
            private_key=key,
            listen_port=51820,
            address=overlay_address,
            movable=True,
            overlay=self.overlay,
            mtu=1420,
        )
        roster = Roster(
            name,
            gossip_port=PORT,
            overlay=self.overlay,
            overlay_is_apart=True,
            forget_after=self._forget_after,
            rng=rng,
        )
        roster.set_own_addresses([ip_address(address.ip)], overlay_address=overlay_address, now=self.now)
        roster.set_seeds([parse_seed(seed, field="seed") for seed in seeds], now=self.now)
        roster.restore(saved.nodes, now=self.now)
        engine = Engine(
            LocalNode(name, address, own_meta(own)),
            self.profile,
            packet_format=self.packet_format,
            incarnation=first_incarnation(
                wall_clock=EPOCH + self.now + self.wall_clock_error, saved=saved.incarnation
            ),
            rng=rng,
            nonce=rng.randbytes,
        )
        engine.bury(saved.tombstones, now=self.now)
        agent = VirtualAgent(self, own, engine, roster, saved)
        self.place(agent)
        agent.begin()
        return agent

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


def own_meta(own: OwnNode) -> bytes:
    """Return what an agent outside Kubernetes announces."""
    return NodeMeta(
        overlay_address=own.address,
        public_key=own.private_key.public,
        version=META_VERSION,
        flags=Flag.MOVABLE,
    ).encode()


class _Work:
    """What `runtime.worker.Worker` is, on the virtual clock.

    Args:
        agent: whose work it is.
        action: done after `wake`.
        pause: seconds at least between two times.

    """

    def __init__(self, agent: VirtualAgent, action: Callable[[], None], *, pause: float) -> None:
        self._agent = agent
        self._action = action
        self._pause = pause
        self._free_at = 0.0
        self._is_woken = False

    def wake(self) -> None:
        """Have the action done once more, from now on."""
        if not self._is_woken:
            self._is_woken = True
            now = self._agent._mesh.now
            self._agent.later(max(0.0, self._free_at - now), self._do)

    def _do(self) -> None:
        self._is_woken = False
        self._free_at = self._agent._mesh.now + self._pause
        self._action()
