"""One member of one mesh on this host, running: the engine, the roster, the tunnel and the files joined.

Each part is told what another found out, and none waits for another: gossip
goes on while the device is being changed, and the device stays as it is while
the API server is away. How it begins is `beginning`'s, when it ends `app`'s.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from random import Random
from typing import Any

from wesher_agent.control import ControlServer, socket_path
from wesher_agent.files.atomic import CannotWrite
from wesher_agent.files.hosts import HostsFile
from wesher_agent.files.state_format import State
from wesher_agent.kube.node_spec import NodeSpec
from wesher_agent.kube.node_status import NodeStatus
from wesher_agent.mesh.desired import Wish, desired
from wesher_agent.mesh.gossip_profile import gossip_profile
from wesher_agent.mesh.roster import MemberState, Roster
from wesher_agent.net.driver import Driver
from wesher_agent.net.sockets import GossipPortTaken
from wesher_agent.runtime.beginning import Beginning
from wesher_agent.runtime.claims import Claim, NameClaims
from wesher_agent.runtime.counts import Counts
from wesher_agent.runtime.health import Health, conditions
from wesher_agent.runtime.host import look_at_host
from wesher_agent.runtime.prober import Prober
from wesher_agent.runtime.seeking import Seeker
from wesher_agent.runtime.sources import POLL_SECONDS, Mounted, MountedDirectory
from wesher_agent.runtime.tunnel import REPAIR_SECONDS, Tunnel
from wesher_agent.runtime.views import Snapshot, members_answer, node_status, status_answer, tunnel_peers
from wesher_agent.runtime.worker import Worker
from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.events import Event, LeaveDone, MemberJoined, NameConflict, PacketRejected, SelfRefuted
from wesher_agent.swim.members import LocalNode
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.packet import PacketFormat
from wesher_common.errors import InvalidSpec, WesherError
from wesher_common.keys import KeyRing
from wesher_common.mesh_document import MeshDocument
from wesher_common.overlay import IPAddress
from wesher_common.version import VERSION

log = logging.getLogger("wesher.agent")

SAVE_PAUSE, APPLY_PAUSE = 1.0, 0.1
JOIN_SECONDS = 10.0
"""After a start, in which nobody need have answered: the nodes of a new mesh start one after another."""
PORT_SECONDS = 3.0
"""Between two tries to get a gossip port that another program has."""
LEAVE_SECONDS = 10.0


class Agent:
    """See the module.

    Args:
        begun: everything decided before.

    """

    def __init__(self, begun: Beginning) -> None:
        self.leave_wanted = False
        """Whether it is to leave the mesh for good when it ends."""
        self.link = begun.link
        self._begun = begun
        self._me = begun.myself
        self._ring = begun.ring
        self._stopped, self._left, self._ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._started_at = asyncio.get_running_loop().time()
        self._rng = Random(os.urandom(8))
        self._port_problem, self._source_problem = "", ""
        self._wish: Wish | None = None
        self._save_failed = False
        self._device_goes = False
        self._counts = Counts()

        settings, document = begun.settings, self._me.document
        former = begun.saved.gossip_address if begun.saved.name == self._me.name else None
        self._claims = NameClaims([former] if former is not None else [])
        interface = document.wireguard.interface
        self._tunnel = Tunnel(
            interface,
            settings,
            None if settings.no_etc_hosts else HostsFile(settings.hosts_file, interface),
            on_change=self._report_soon,
            on_retry=self._apply_again,
            on_sessions_lost=self._ask_everyone,
            counts=self._counts,
        )
        self._prober = Prober(self._tunnel, self._me.key.public, self._rng, on_change=self._report_soon)
        self._roster = self._make_roster()
        self._engine = Engine(
            LocalNode(name=self._me.name, address=self._me.gossip_address, meta=self._me.meta()),
            gossip_profile(document.gossip.profile),
            packet_format=_packet_format(self._ring, document),
            incarnation=begun.incarnation,
            rng=self._rng,
            nonce=os.urandom,
        )
        self._engine.bury(begun.saved.tombstones, now=self._started_at)
        self._driver = Driver(self._engine, self._on_event, self._roster.way_to)
        self._seeker = Seeker(self._roster, self._engine, self._driver, on_change=self._members_changed)
        self._apply = Worker(self._apply_wish, pause=APPLY_PAUSE)
        self._save = Worker(self._save_state, pause=SAVE_PAUSE)
        self._control = ControlServer(
            socket_path(settings.run_dir, interface),
            {"status": self._answer_status, "members": self._answer_members, "leave": self._answer_leave},
        )

    def _make_roster(self) -> Roster:
        me, document = self._me, self._me.document
        now = asyncio.get_running_loop().time()
        roster = Roster(
            me.name,
            gossip_port=document.gossip.port,
            overlay=document.overlay,
            overlay_is_apart=me.in_kubernetes or not any(a in document.overlay for a in me.underlay),
            forget_after=self._begun.settings.forget_after,
            rng=self._rng,
        )
        roster.set_own_addresses(
            me.addresses, overlay_address=me.overlay_address, location=me.location, now=now
        )
        roster.set_removed(document.removed, now=now)
        roster.set_seeds(me.seeds, now=now)
        roster.restore(self._begun.saved.nodes, now=now)
        return roster

    async def start(self) -> None:
        """Listen, and be a member.

        In Kubernetes a gossip port that is taken is waited for: the status tells of it, and a changed
        mesh.json takes effect at once, as it does not on a container that Kubernetes holds back.

        Raises:
            InvalidSpec: the gossip port is taken, or its address is not this host's.

        """
        try:
            await self._listen()
        except GossipPortTaken as error:
            if not self._me.in_kubernetes:
                raise
            log.error("gossip waits for its port error=%s", error)  # noqa: TRY400 - it is the user's
            self._port_problem = error.rule
        await self._save_state()
        if self._begun.key_is_new:
            self._show_key()
        try:
            await self._control.start()
        except OSError as error:
            log.warning("no control socket, commands cannot ask this agent error=%s", error)
        self._apply.wake()
        log.info(
            "agent started node=%s gossip=%s overlay=%s key=%s",
            self._me.name,
            self._me.gossip_address,
            self._me.overlay_address or "-",
            self._ring.primary.id,
        )

    def _show_key(self) -> None:
        if sys.stdout.isatty():
            text = self._ring.primary.reveal_base64()
            print(f"new cluster key generated: {text}", flush=True)  # noqa: T201 - for a terminal's eyes only
            return
        if self._save_failed:
            log.warning("new cluster key generated but not saved, nobody can join: give --cluster-key-file")
            return
        path = self._begun.settings.state_dir / f"{self._me.document.wireguard.interface}.json"
        log.warning("new cluster key generated, read it as root with: jq -r .ClusterKey %s", path)

    async def run(self) -> None:
        """Do everything there is to do until `stop`."""
        jobs = [
            self._apply.run(),
            self._save.run(),
            self._gossip(),
            self._watch_host(),
            self._tunnel.keep(),
            self._prober.run(),
        ]
        if self._begun.mounted is not None:
            jobs.append(self._watch_mounted(self._begun.mounted))
        if self.link is not None:
            jobs.append(self.link.run(self._node_status, self._take_node, rng=self._rng))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in jobs]
            await self._stopped.wait()
            for task in tasks:
                task.cancel()

    async def _listen(self) -> None:
        await self._driver.open(self._me.listening.bind, self._me.document.gossip.port)

    async def _gossip(self) -> None:
        """Look for the others, once the gossip port is ours."""
        while self._port_problem:
            await asyncio.sleep(PORT_SECONDS)
            try:
                await self._listen()
            except InvalidSpec as error:
                self._port_problem = error.rule
            else:
                log.warning("gossip port free at last, listening port=%d", self._me.document.gossip.port)
                self._port_problem = ""
            self._report_soon()
        await self._seeker.run()

    def stop(self, *, leave: bool = False) -> None:
        """Have `run` return."""
        self.leave_wanted = self.leave_wanted or leave
        self._stopped.set()

    async def end(self, *, leave: bool) -> None:
        """Go: for good, taking everything away, or so that a restart finds all as it was."""
        await self._save_state()
        if leave:
            self._driver.tell(partial(self._engine.leave, timeout=LEAVE_SECONDS))
            # Not one after the other: on a Node that was deleted there is a second for both.
            await asyncio.gather(self._left.wait(), self._tunnel.remove())
        elif self._device_goes:
            await self._tunnel.remove()
        else:
            self._tunnel.close()
        await self._driver.close()
        self._ended.set()
        await self._control.close()
        log.info("agent ended left=%s", "yes" if leave else "no")

    # What the engine says.

    def _on_event(self, event: Event) -> None:
        now = self._driver.now
        match event:
            case NameConflict(member=member, claimed=claimed) if member.name == self._me.name:
                self._settle_claim(claimed, now)
            case LeaveDone():
                self._left.set()
            case SelfRefuted():
                # A restart must begin above the incarnation that others hold now.
                self._save.wake()
            case PacketRejected():
                return
        self._count(event)
        if self._roster.observe(event, now=now):
            self._members_changed()
        self._seeker.wake()

    def _count(self, event: Event) -> None:
        was_failed = False
        if isinstance(event, MemberJoined):
            known = self._roster.members.get(event.member.name)
            was_failed = known is not None and known.state is MemberState.FAILED
        self._counts.observe(event, was_failed=was_failed)

    def _settle_claim(self, claimed: Address, now: float) -> None:
        match self._claims.judge(claimed, now=now):
            case Claim.RIVAL:
                self._report_soon()
            case Claim.FORMER:
                log.info("others look for this node at its former address, telling them former=%s", claimed)
                self._driver.tell(partial(self._engine.change_address, self._me.gossip_address))
            case Claim.TOLD:
                pass

    def _members_changed(self) -> None:
        self._apply.wake()
        self._save.wake()
        self._report_soon()

    def _report_soon(self) -> None:
        if self.link is not None:
            self.link.wake()

    def _apply_again(self) -> None:
        self._apply.wake()

    def _ask_everyone(self) -> None:
        self._prober.ask_everyone()

    # What follows for this machine.

    async def _apply_wish(self) -> None:
        me, members = self._me, self._roster.members.values()
        endpoints = [ip_address(member.address.ip) for member in members]
        own = me.own_node(await self._tunnel.decide_mtu(me.document.wireguard.mtu, endpoints))
        if own is None:
            self._tunnel.waits_for_address()
            return
        wish = desired(own, members)
        if wish.device.address != own.address:
            moved_to = wish.device.address
            log.warning("overlay address given up, another has it from=%s to=%s", own.address, moved_to)
            self._counts.add("overlayAddressesGivenUp")
            self._move_to(moved_to)
            wish = desired(replace(own, address=moved_to), members)
        known = self._wish.problems if self._wish is not None else ()
        for problem in sorted(set(wish.problems) - set(known)):
            log.warning("member %s %s reason=%s", problem.member, problem.message, problem.reason)
        self._wish = wish
        await self._tunnel.apply(wish, me.document.wireguard.mode, me.document.etc_hosts)
        # After their routes: a probe that finds no way out is lost, and with it the first handshake.
        self._prober.set_peers(tunnel_peers(wish.device, members))
        self._report_soon()

    def _move_to(self, address: IPAddress) -> None:
        self._me.overlay_address = address
        self._announce()
        self._apply.wake()
        self._save.wake()

    def _announce(self) -> None:
        meta = self._me.meta()
        if meta != self._engine.me.meta:
            self._driver.tell(partial(self._engine.update_meta, meta))
        self._roster.set_own_addresses(
            self._me.addresses,
            overlay_address=self._me.overlay_address,
            location=self._me.location,
            now=self._driver.now,
        )

    async def _save_state(self) -> None:
        node = self._me.node
        state = State(
            key_ring=self._ring,
            nodes=self._roster.saved(now=self._driver.now),
            private_key=self._me.key,
            name=self._me.name,
            gossip_address=self._engine.me.address,
            overlay_address=self._me.overlay_address,
            advertise_address=node.advertise_address if node is not None else None,
            location=node.location if node is not None else "",
            routes=node.routes if node is not None else (),
            incarnation=max(self._begun.incarnation, self._engine.me.incarnation),
            tombstones=self._engine.tombstones(now=self._driver.now),
            mesh=self._me.document if self._me.in_kubernetes else None,
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

    # What we are told while we run.

    async def _watch_host(self) -> None:
        while True:
            await asyncio.sleep(REPAIR_SECONDS)
            try:
                host = await asyncio.to_thread(look_at_host)
            except (WesherError, OSError) as error:
                log.warning("host's addresses not read error=%s", error)
                continue
            if host != self._me.host:
                self._me.host = host
                self._look_at_addresses()
                self._apply.wake()

    def _look_at_addresses(self) -> None:
        former = self._engine.me.address
        moved = self._me.look_at_addresses()
        self._announce()
        if moved:
            self._claims.move(former, self._me.gossip_address)
            self._save.wake()
            self._driver.tell(partial(self._engine.change_address, self._me.gossip_address))

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
        me, now = self._me, self._driver.now
        if content.ring != self._ring:
            self._ring = content.ring
            self._engine.set_packet_format(_packet_format(content.ring, me.document))
            log.warning("key ring changed primary=%s keys=%d", content.ring.primary.id, len([*content.ring]))
            self._save.wake()
        if content.document == me.document:
            return
        if _needs_restart(me.document, content.document):
            log.warning("mesh.json changed what only a restart can apply, restarting")
            # The next start knows of the new interface only, and has no use for a device of another kind.
            wished = content.document.wireguard
            self._device_goes = wished.interface != me.document.wireguard.interface or wished.mode not in {
                "Auto",
                self._tunnel.mode,
            }
            self.stop()
            return
        me.document = content.document
        if self.link is not None and me.name in me.document.removed:
            self.link.doubt()
        self._roster.set_seeds(me.seeds, now=now)
        self._roster.set_removed(me.document.removed, now=now)
        self._seeker.wake()
        self._members_changed()

    def _take_node(self, node: NodeSpec) -> None:
        if node == self._me.node:
            return
        self._me.node = node
        self._save.wake()
        if node.overlay_address is not None and node.overlay_address != self._me.overlay_address:
            log.info("overlay address given address=%s", node.overlay_address)
            self._move_to(node.overlay_address)
        self._look_at_addresses()
        # Its location decides by which of their addresses others are reached.
        self._apply.wake()

    # What we answer.

    def snapshot(self) -> Snapshot:
        """Return this moment."""
        members, plan, tunnel = self._roster.members, self._prober.plan, self._tunnel
        alive = sum(member.state.is_alive for member in members.values())
        expected = any(member.state is MemberState.FAILED for member in members.values())
        health = Health(
            device_ready=tunnel.ready,
            device_reason=tunnel.reason,
            device_problem=tunnel.problem,
            others_alive=alive,
            asks_for_others=expected or self._me.has_seeds_elsewhere,
            joining=self._driver.now - self._started_at < JOIN_SECONDS,
            name_conflict=self._claims.rival(now=self._driver.now),
            port_problem=self._port_problem,
            source_problem=self._source_problem,
            removed=self.link is not None and self.link.removed,
            tunnels_asked=plan.is_settled or self._nobody_can_be_asked(),
            unreachable=plan.unreachable,
            mostly_unreachable=plan.mostly_failing,
        )
        return Snapshot(
            document=self._me.document,
            ring=self._ring,
            own=self._me.own_node(tunnel.mtu),
            name=self._me.name,
            public_key=self._me.key.public,
            address=str(self._me.gossip_address),
            members=dict(members),
            problems=self._wish.problems if self._wish is not None else (),
            observed=self._prober.observed,
            reachable=plan.reachable,
            unreachable=frozenset(plan.unreachable),
            conditions=conditions(health),
            mode=tunnel.mode,
            mtu=tunnel.mtu,
            hosts=tunnel.hosts_state,
            rejected=self._driver.rejected,
            joined=alive > 0,
            uptime=self._driver.now - self._started_at,
            version=VERSION,
            wall_clock=time.time(),
            counts=self._counts.numbers,
        )

    def _nobody_can_be_asked(self) -> bool:
        """Tell whether no living member can have a tunnel, so that an answer would be awaited for ever."""
        if self._wish is None or self._wish.device.peers:
            return False
        without = {problem.member for problem in self._wish.problems}
        return all(name in without for name, member in self._roster.members.items() if member.state.is_alive)

    def _node_status(self) -> NodeStatus:
        node = self._me.node
        return node_status(self.snapshot(), generation=node.generation if node is not None else 0)

    async def _answer_status(self) -> dict[str, Any]:
        await self._prober.look()
        return status_answer(self.snapshot())

    async def _answer_members(self) -> list[dict[str, Any]]:
        await self._prober.look()
        return members_answer(self.snapshot())

    async def _answer_leave(self) -> dict[str, Any]:
        self.stop(leave=True)
        await self._ended.wait()
        return {"node": self._me.name, "interface": self._me.document.wireguard.interface}


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
        )

    return settled(old) != settled(new)
