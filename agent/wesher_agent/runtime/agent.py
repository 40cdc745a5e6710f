"""One member of one mesh on this host, running: the engine, the roster, the tunnel and the files joined.

Each part is told what another found out, and none waits for another: gossip
goes on while the device is being changed, and the device stays as it is while
the API server is away. Beginning is `beginning`'s, ending `ending`'s.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from ipaddress import ip_address
from random import Random
from typing import Any

from wesher_agent.control import ControlServer, socket_path
from wesher_agent.files.atomic import CannotWrite
from wesher_agent.files.hosts import HostsFile
from wesher_agent.files.state_format import State
from wesher_agent.kube.node_spec import NodeSpec
from wesher_agent.kube.node_status import NodeStatus
from wesher_agent.mesh.desired import OwnNode, Wish, desired
from wesher_agent.mesh.nodemeta import META_VERSION, Flag, NodeMeta
from wesher_agent.mesh.roster import MemberState, Roster
from wesher_agent.net.addresses import ALL_ADDRESSES, resolve
from wesher_agent.net.driver import Driver
from wesher_agent.runtime.beginning import Beginning, choose
from wesher_agent.runtime.health import Health, conditions
from wesher_agent.runtime.host import look_at_host
from wesher_agent.runtime.prober import Prober
from wesher_agent.runtime.sources import POLL_SECONDS, Mounted, MountedDirectory
from wesher_agent.runtime.tunnel import REPAIR_SECONDS, Tunnel
from wesher_agent.runtime.views import Snapshot, members_answer, node_status, status_answer, tunnel_peers
from wesher_agent.runtime.worker import Worker
from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.events import Event, LeaveDone, NameConflict, PushPullDone
from wesher_agent.swim.members import LocalNode
from wesher_agent.swim.profile import LAN, WAN
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.packet import PacketFormat
from wesher_common.errors import InvalidSpec
from wesher_common.keys import KeyRing
from wesher_common.mesh_document import MeshDocument
from wesher_common.overlay import IPAddress
from wesher_common.seeds import SeedAddress

log = logging.getLogger("wesher.agent")

SAVE_PAUSE, APPLY_PAUSE = 1.0, 0.1
SHORTEST_REST = 0.05
CONFLICT_SECONDS = 90.0
"""How long ago somebody else may have used our name for it to be a standing fault."""
LEAVE_SECONDS = 10.0


class Agent:
    """See the module.

    Args:
        beginning: everything decided before.

    """

    def __init__(self, beginning: Beginning) -> None:
        self.stopped = asyncio.Event()
        """Set when the agent is to end, by whoever wants it."""
        self.leave_wanted = False
        """Whether it is to leave the mesh for good then."""
        self.ended = asyncio.Event()
        """Set by `end`, for the command that asked for it."""
        self.name = beginning.name
        self.settings = beginning.settings
        self.document = beginning.document
        self.link = beginning.link
        self._begun = beginning
        self._ring = beginning.ring
        self._key = beginning.private_key
        self._address = beginning.overlay_address
        self._host = beginning.host
        self._listening = beginning.listening
        self._begun_at = asyncio.get_running_loop().time()
        self._source_problem = ""
        self._conflict: tuple[float, str] | None = None
        self._wish: Wish | None = None
        self._save_failed = False
        self._left = asyncio.Event()
        self._roster_woken = asyncio.Event()
        self._resolving: set[asyncio.Task[None]] = set()

        interface = self.document.wireguard.interface
        rng = Random(os.urandom(8))
        self._rng = rng
        self.tunnel = Tunnel(
            self.settings,
            None if self.document.etc_hosts == "Off" else HostsFile(self.settings.hosts_file, interface),
            on_change=self._report_soon,
            on_sessions_lost=self._ask_everyone,
        )
        self._prober = Prober(self.tunnel, rng, on_change=self._report_soon)
        self._roster = self._make_roster(beginning)
        self._engine = Engine(
            LocalNode(
                name=self.name,
                address=Address(str(self._listening.advertise), self.document.gossip.port),
                meta=self._meta(),
            ),
            LAN if self.document.gossip.profile == "LAN" else WAN,
            packet_format=_packet_format(self._ring, self.document),
            incarnation=beginning.incarnation,
            rng=rng,
            nonce=os.urandom,
        )
        self._driver = Driver(self._engine, self._on_event)
        self._apply = Worker(self._apply_wish, pause=APPLY_PAUSE)
        self._save = Worker(self._save_state, pause=SAVE_PAUSE)
        self.control = ControlServer(
            socket_path(self.settings.run_dir, interface),
            {"status": self._answer_status, "members": self._answer_members, "leave": self._answer_leave},
        )

    def _make_roster(self, beginning: Beginning) -> Roster:
        document, now = self.document, asyncio.get_running_loop().time()
        underlay = beginning.host.underlay(document.wireguard.interface)
        roster = Roster(
            self.name,
            gossip_port=document.gossip.port,
            overlay=document.overlay,
            overlay_is_apart=self.link is not None or not any(a in document.overlay for a in underlay),
            forget_after=self.settings.forget_after,
            rng=self._rng,
        )
        roster.set_own_addresses(self._own_addresses(), overlay_address=self._address, now=now)
        roster.set_removed(document.removed, now=now)
        roster.set_seeds(_seeds(document), now=now)
        roster.restore(beginning.saved.nodes, now=now)
        return roster

    async def start(self) -> None:
        """Listen, and be a member.

        Raises:
            InvalidSpec: the gossip port is taken, or its address is not this host's.

        """
        # The key is kept before anybody is told of it.
        await self._save_state()
        await self._driver.open(self._listening.bind, self.document.gossip.port)
        try:
            await self.control.start()
        except OSError as error:
            log.warning("no control socket, commands cannot ask this agent error=%s", error)
        self._apply.wake()
        log.info(
            "agent started node=%s gossip=%s overlay=%s key=%s",
            self.name,
            self._engine.me.address,
            self._address or "-",
            self._ring.primary.id,
        )

    async def run(self) -> None:
        """Do everything there is to do until `stopped` is set."""
        jobs = [
            self._apply.run(),
            self._save.run(),
            self._keep_roster(),
            self._watch_host(),
            self.tunnel.keep(),
            self._prober.run(),
        ]
        if self._begun.mounted is not None:
            jobs.append(self._watch_mounted(self._begun.mounted))
        if self.link is not None:
            jobs.append(self.link.run(self._node_status, self._take_node, rng=self._rng))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in jobs]
            await self.stopped.wait()
            for task in tasks:
                task.cancel()

    def stop(self, *, leave: bool = False) -> None:
        """Have `run` return."""
        self.leave_wanted = self.leave_wanted or leave
        self.stopped.set()

    async def end(self, *, leave: bool) -> None:
        """Go: for good, taking everything away, or so that a restart finds all as it was."""
        for task in self._resolving:
            task.cancel()
        await self._save_state()
        if leave:
            self._driver.tell(partial(self._engine.leave, timeout=LEAVE_SECONDS))
            try:
                async with asyncio.timeout(LEAVE_SECONDS + 1):
                    await self._left.wait()
            except TimeoutError:
                log.warning("left without all others having heard of it")
            await self.tunnel.remove()
        else:
            self.tunnel.close()
        await self._driver.close()
        if self.link is not None:
            await self.link.close()
        self.ended.set()
        await self.control.close()
        self._begun.state_file.unlock()
        log.info("agent ended left=%s", str(leave).lower())

    # What the engine and the roster say.

    def _on_event(self, event: Event) -> None:
        now = self._driver.now
        match event:
            case NameConflict(member=member, claimed=claimed) if member.name == self.name:
                self._conflict = (now, str(claimed))
                self._report_soon()
            case PushPullDone(join=True):
                self._report_soon()
            case LeaveDone():
                self._left.set()
        if self._roster.observe(event, now=now):
            self._members_changed()
        self._roster_woken.set()

    def _members_changed(self) -> None:
        self._apply.wake()
        self._save.wake()
        self._report_soon()

    def _report_soon(self) -> None:
        if self.link is not None:
            self.link.wake()

    def _ask_everyone(self) -> None:
        self._prober.ask_everyone()

    async def _keep_roster(self) -> None:
        skipped: tuple[str, ...] = ()
        while True:
            self._roster_woken.clear()
            now = self._driver.now
            for name in self._roster.forget(now=now):
                log.warning("member forgotten, it was away too long node=%s", name)
                self._members_changed()
            for target in self._roster.due(now=now):
                if isinstance(target, SeedAddress):
                    task = asyncio.create_task(self._resolve(target))
                    self._resolving.add(task)
                    task.add_done_callback(self._resolving.discard)
                else:
                    self._driver.tell(partial(self._engine.push_pull_with, target))
            for line in set(self._roster.skipped) - set(skipped):
                log.warning("seed address skipped: %s", line)
            skipped = self._roster.skipped
            timer = self._roster.next_timer()
            wait = None if timer is None else max(SHORTEST_REST, timer - self._driver.now)
            try:
                async with asyncio.timeout(wait):
                    await self._roster_woken.wait()
            except TimeoutError:
                continue
            # A burst of events is looked at once.
            await asyncio.sleep(SHORTEST_REST)

    async def _resolve(self, seed: SeedAddress) -> None:
        try:
            answers = await resolve(seed.host)
        except (OSError, TimeoutError, UnicodeError) as error:
            log.warning("seed not resolved seed=%s error=%s", seed, error or "timed out")
            return
        self._roster.resolved(seed, answers, now=self._driver.now)
        self._roster_woken.set()

    # What follows for this machine.

    async def _apply_wish(self) -> None:
        endpoints = {entry.address for entry in self._roster.members.values()}
        mtu = await self.tunnel.decide_mtu(
            self.document.wireguard.mtu, [ip_address(address.ip) for address in endpoints]
        )
        own = self._own(mtu)
        if own is None:
            self.tunnel.waits_for_address()
            return
        members = self._roster.members.values()
        wish = desired(own, members)
        if wish.device.address != own.address:
            log.warning(
                "overlay address given up, another has it from=%s to=%s", own.address, wish.device.address
            )
            self._move_to(wish.device.address)
            wish = desired(replace(own, address=wish.device.address), members)
        known = self._wish.problems if self._wish is not None else ()
        for problem in sorted(set(wish.problems) - set(known)):
            log.warning("member %s: %s reason=%s", problem.member, problem.message, problem.reason)
        self._wish = wish
        self._prober.set_peers(tunnel_peers(wish.device, members))
        await self.tunnel.apply(wish, self.document.wireguard)
        self._report_soon()

    def _own(self, mtu: int) -> OwnNode | None:
        if self._address is None:
            return None
        document, inside = self.document, self.link is not None
        return OwnNode(
            name=self.name,
            mesh=document.name if inside else "",
            interface=document.wireguard.interface,
            private_key=self._key,
            listen_port=document.wireguard.port,
            address=self._address,
            movable=not inside,
            overlay=document.overlay,
            mtu=mtu,
            location=self._location,
            behind_nat=self._listening.internal is not None,
            persistent_keepalive=document.wireguard.persistent_keepalive,
            etc_hosts=document.etc_hosts,
            in_kubernetes=inside,
            unreachable_route=self.settings.unreachable_route,
            underlay=self._host.underlay(document.wireguard.interface)
            | {seed.address for seed in document.seed_nodes if seed.address is not None},
        )

    @property
    def _location(self) -> str:
        node = self.link.node if self.link is not None else None
        return node.location if node is not None and node.location else self.document.cluster_name

    def _meta(self) -> bytes:
        inside = self.link is not None
        node = self.link.node if self.link is not None else None
        flags = Flag.IN_KUBERNETES if inside else Flag.MOVABLE
        if self._listening.internal is not None:
            flags |= Flag.BEHIND_NAT
        meta = NodeMeta(
            overlay_address=self._address,
            public_key=self._key.public,
            version=META_VERSION,
            internal_address=self._listening.internal,
            location=self._location,
            networks=node.routes if node is not None else (),
            flags=flags,
        )
        try:
            return meta.encode()
        except InvalidSpec as error:
            log.warning("routes not announced error=%s", error)
            return replace(meta, networks=()).encode()

    def _move_to(self, address: IPAddress) -> None:
        self._address = address
        self._announce()
        self._apply.wake()
        self._save.wake()

    def _announce(self) -> None:
        meta = self._meta()
        if meta != self._engine.me.meta:
            self._driver.tell(partial(self._engine.update_meta, meta))
        self._roster.set_own_addresses(
            self._own_addresses(), overlay_address=self._address, now=self._driver.now
        )

    def _own_addresses(self) -> set[IPAddress]:
        return {entry.address for entry in self._host.addresses} | {self._listening.advertise}

    async def _save_state(self) -> None:
        state = State(
            key_ring=self._ring,
            nodes=self._roster.saved(now=self._driver.now),
            private_key=self._key,
            name=self.name,
            overlay_address=self._address,
            incarnation=max(self._begun.incarnation, self._engine.me.incarnation),
            mesh=self.document if self.link is not None else None,
            unknown=self._begun.saved.unknown,
        )
        try:
            await asyncio.to_thread(self._begun.state_file.save, state)
        except CannotWrite as error:
            if not self._save_failed:
                log.warning("state not saved, running on from memory error=%s", error)
            self._save_failed = True
        else:
            self._save_failed = False

    # What others hand us while we run.

    async def _watch_host(self) -> None:
        while True:
            await asyncio.sleep(REPAIR_SECONDS)
            host = await asyncio.to_thread(look_at_host)
            if host != self._host:
                self._host = host
                self._look_at_own_address()
                self._apply.wake()

    def _look_at_own_address(self) -> None:
        if self._listening.bind != ALL_ADDRESSES:
            return
        try:
            listening = choose(self.settings, self.document, self.link, self._host)
        except InvalidSpec as error:
            log.warning("no address to announce, the former one stays error=%s", error)
            return
        if listening == self._listening:
            return
        moved = listening.advertise != self._listening.advertise
        self._listening = listening
        self._announce()
        if moved:
            address = Address(str(listening.advertise), self.document.gossip.port)
            self._driver.tell(partial(self._engine.change_address, address))

    async def _watch_mounted(self, mounted: MountedDirectory) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if not mounted.has_changed():
                continue
            try:
                content = mounted.read()
            except InvalidSpec as error:
                if self._source_problem != str(error):
                    log.error("mounted files not used, the former ones stay error=%s", error)  # noqa: TRY400
                self._source_problem = str(error)
            else:
                self._source_problem = ""
                self._take_mounted(content)
            self._report_soon()

    def _take_mounted(self, content: Mounted) -> None:
        if content.ring != self._ring:
            self._ring = content.ring
            self._engine.set_packet_format(_packet_format(content.ring, self.document))
            log.warning(
                "key ring changed primary=%s keys=%d", content.ring.primary.id, len(list(content.ring))
            )
            self._save.wake()
        if content.document == self.document:
            return
        if _needs_restart(self.document, content.document):
            log.warning("mesh.json changed what only a restart can apply, restarting")
            self.stop()
            return
        now, self.document = self._driver.now, content.document
        self._roster.set_seeds(_seeds(self.document), now=now)
        self._roster.set_removed(self.document.removed, now=now)
        self._roster_woken.set()
        self._members_changed()

    def _take_node(self, node: NodeSpec) -> None:
        if node.overlay_address is not None and node.overlay_address != self._address:
            log.info("overlay address given address=%s", node.overlay_address)
            self._move_to(node.overlay_address)
        self._look_at_own_address()
        self._announce()

    # What we answer.

    def snapshot(self) -> Snapshot:
        """Return this moment."""
        members = self._roster.members
        alive = sum(member.state.is_alive for member in members.values())
        plan = self._prober.plan
        health = Health(
            device_ready=self.tunnel.ready,
            device_reason=self.tunnel.reason,
            device_problem=self.tunnel.problem,
            others_alive=alive,
            asks_for_others=self._looks_for_others(),
            name_conflict=self._standing_conflict(),
            source_problem=self._source_problem,
            unreachable=plan.unreachable,
            mostly_unreachable=plan.mostly_failing,
        )
        return Snapshot(
            document=self.document,
            ring=self._ring,
            own=self._own(self.tunnel.mtu),
            name=self.name,
            public_key=self._key.public,
            address=str(self._engine.me.address),
            members=dict(members),
            device=self._wish.device if self._wish is not None else None,
            problems=self._wish.problems if self._wish is not None else (),
            observed=self._prober.observed,
            reachable=plan.reachable,
            unreachable=plan.unreachable,
            conditions=conditions(health),
            mode=self.tunnel.mode,
            mtu=self.tunnel.mtu,
            hosts=self.tunnel.hosts_state,
            rejected=self._driver.rejected,
            joined=alive > 0,
            uptime=self._driver.now - self._begun_at,
            version=version("wesher"),
            wall_clock=time.time(),
        )

    def _looks_for_others(self) -> bool:
        own = self._own_addresses()
        seeds = [seed for seed in _seeds(self.document) if seed.address not in own]
        return bool(seeds) or any(member.state is MemberState.FAILED for member in self._roster.members.values())

    def _standing_conflict(self) -> str:
        if self._conflict is None or self._driver.now - self._conflict[0] > CONFLICT_SECONDS:
            return ""
        return self._conflict[1]

    def _node_status(self) -> NodeStatus:
        node = self.link.node if self.link is not None else None
        return node_status(self.snapshot(), generation=node.generation if node is not None else 0)

    async def _answer_status(self) -> dict[str, Any]:
        await self._prober.look()
        return status_answer(self.snapshot())

    async def _answer_members(self) -> list[dict[str, Any]]:
        await self._prober.look()
        return members_answer(self.snapshot())

    async def _answer_leave(self) -> dict[str, Any]:
        self.stop(leave=True)
        await self.ended.wait()
        return {"node": self.name, "interface": self.document.wireguard.interface}


def _seeds(document: MeshDocument) -> tuple[SeedAddress, ...]:
    return (*document.seed_nodes, *document.cluster_seeds)


def _packet_format(ring: KeyRing, document: MeshDocument) -> PacketFormat:
    return PacketFormat(
        Keyring(ring.primary.secret, [key.secret for key in ring.accepted]),
        label=document.gossip.label.encode(),
        # Peers read it either way, and in pure Python it costs more time than it saves bytes.
        compress=False,
    )


def _needs_restart(old: MeshDocument, new: MeshDocument) -> bool:
    def settled(document: MeshDocument) -> object:
        device = document.wireguard
        return (
            (document.name, document.uid, document.overlay, document.cluster_name, document.gossip),
            (device.interface, device.mode),
            document.etc_hosts == "Off",
        )

    return settled(old) != settled(new)
