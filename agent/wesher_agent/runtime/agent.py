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
from functools import partial
from random import Random
from typing import Any

from wesher_agent.control import ControlServer, socket_path
from wesher_agent.files.hosts import HostsFile
from wesher_agent.kube.node_spec import NodeSpec
from wesher_agent.mesh.gossip_profile import gossip_profile
from wesher_agent.mesh.roster import MemberState, Roster
from wesher_agent.net.driver import Driver
from wesher_agent.runtime.answers import Answers
from wesher_agent.runtime.applying import WishApplier
from wesher_agent.runtime.beginning import Beginning
from wesher_agent.runtime.counts import Counts
from wesher_agent.runtime.gossip_port import GossipPort
from wesher_agent.runtime.host import look_at_host
from wesher_agent.runtime.presence import Presence
from wesher_agent.runtime.prober import Prober
from wesher_agent.runtime.saving import StateSaver
from wesher_agent.runtime.seeking import Seeker
from wesher_agent.runtime.sources import Mounted, needs_restart, outlives_restart
from wesher_agent.runtime.tunnel import REPAIR_SECONDS, Tunnel
from wesher_agent.runtime.worker import Worker
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.events import (
    Event,
    LeaveDone,
    LeaveLearned,
    MemberJoined,
    NameConflict,
    PacketRejected,
    SelfRefuted,
)
from wesher_agent.swim.members import LocalNode
from wesher_common.errors import WesherError
from wesher_common.overlay import IPAddress

log = logging.getLogger("wesher.agent")

SAVE_PAUSE, APPLY_PAUSE = 1.0, 0.1
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
        self._me = me = begun.myself
        self._stopped, self._left, self._ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._device_goes = False
        self._counts = Counts()
        self._rng = Random(os.urandom(8))

        settings, interface = begun.settings, me.document.wireguard.interface
        self._tunnel = Tunnel(
            interface,
            settings,
            None if settings.no_etc_hosts else HostsFile(settings.hosts_file, interface),
            on_change=self._report_soon,
            on_retry=self._apply_again,
            on_sessions_lost=self._ask_everyone,
            counts=self._counts,
        )
        self._prober = Prober(self._tunnel, me.key.public, self._rng, on_change=self._report_soon)
        self._roster = self._make_roster()
        self._engine = Engine(
            LocalNode(name=me.name, address=me.gossip_address, meta=me.meta()),
            gossip_profile(me.document.gossip.profile),
            packet_format=me.packet_format,
            incarnation=begun.incarnation,
            rng=self._rng,
            nonce=os.urandom,
        )
        self._driver = Driver(
            self._engine,
            self._on_event,
            self._roster.way_to,
            on_fault=lambda: self._counts.add("engineFaults"),
        )
        self._engine.bury(begun.saved.tombstones, now=self._driver.now)
        self._port = GossipPort(self._driver, me, on_change=self._report_soon)
        self._seeker = Seeker(
            self._roster, self._engine, self._driver, on_change=self._members_changed, counts=self._counts
        )
        self._saver = StateSaver(
            begun, roster=self._roster, engine=self._engine, driver=self._driver, counts=self._counts
        )
        self._save = Worker(self._saver.save, pause=SAVE_PAUSE)
        self._presence = Presence(
            me,
            begun.saved.gossip_address if begun.saved.name == me.name else None,
            engine=self._engine,
            driver=self._driver,
            roster=self._roster,
            on_move=self._save.wake,
            on_rival=self._report_soon,
        )
        self._applier = WishApplier(
            me,
            roster=self._roster,
            tunnel=self._tunnel,
            prober=self._prober,
            counts=self._counts,
            move_to=self._move_to,
            on_change=self._report_soon,
        )
        self._apply = Worker(self._applier.apply, pause=APPLY_PAUSE)
        self._answers = Answers(
            me,
            roster=self._roster,
            driver=self._driver,
            port=self._port,
            presence=self._presence,
            tunnel=self._tunnel,
            prober=self._prober,
            applier=self._applier,
            counts=self._counts,
            mounted=begun.mounted,
            link=begun.link,
        )
        self._control = ControlServer(
            socket_path(settings.run_dir, interface),
            {"status": self._answers.status, "members": self._answers.members, "leave": self._answer_leave},
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

        Raises:
            InvalidSpec: the gossip port is taken and not to be waited for, or its address is not this host's.

        """
        await self._port.open()
        await self._saver.save()
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
            self._me.ring.primary.id,
        )

    def _show_key(self) -> None:
        if sys.stdout.isatty():
            text = self._me.ring.primary.reveal_base64()
            print(f"new cluster key generated: {text}", flush=True)  # noqa: T201 - for a terminal's eyes only
            return
        if self._saver.failed:
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
            jobs.append(
                self._begun.mounted.watch(
                    self._take_mounted, on_change=self._report_soon, on_nudge=self._doubt_our_place
                )
            )
        if self.link is not None:
            jobs.append(self.link.run(self._answers.node_status, self._take_node, rng=self._rng))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in jobs]
            await self._stopped.wait()
            for task in tasks:
                task.cancel()

    async def _gossip(self) -> None:
        await self._port.wait()
        await self._seeker.run()

    def stop(self, *, leave: bool = False) -> None:
        """Have `run` return."""
        self.leave_wanted = self.leave_wanted or leave
        self._stopped.set()

    async def end(self, *, leave: bool) -> None:
        """Go: for good, taking everything away, or so that a restart finds all as it was."""
        await self._saver.save()
        if leave:
            self._driver.tell(partial(self._engine.leave, timeout=LEAVE_SECONDS))
            # Not one after the other: on a Node that was deleted there is a second for both.
            await asyncio.gather(self._left.wait(), self._tunnel.remove())
            if self._me.in_kubernetes:
                # Outside, as with the Go program, the next start finds the key of the mesh where it was.
                self._saver.forget()
        elif self._device_goes:
            await self._tunnel.remove()
        else:
            self._tunnel.close()
        await self._driver.close()
        self._ended.set()
        await self._control.close()
        log.info("agent ended left=%s", "yes" if leave else "no")

    async def _answer_leave(self) -> dict[str, Any]:
        self.stop(leave=True)
        await self._ended.wait()
        return {"node": self._me.name, "interface": self._me.document.wireguard.interface}

    # What the engine says.

    def _on_event(self, event: Event) -> None:
        match event:
            case NameConflict(member=member) if member.name == self._me.name:
                self._presence.settle_claim(event)
            case LeaveDone():
                self._left.set()
            case SelfRefuted():
                # A restart must begin above the incarnation that others hold now.
                self._save.wake()
            case PacketRejected():
                return
        self._count(event)
        if self._roster.observe(event, now=self._driver.now):
            if isinstance(event, LeaveLearned):
                log.info("failed member had left, it is expected no longer node=%s", event.node)
            self._members_changed()
        self._seeker.wake()

    def _count(self, event: Event) -> None:
        was_failed = False
        if isinstance(event, MemberJoined):
            known = self._roster.members.get(event.member.name)
            was_failed = known is not None and known.state is MemberState.FAILED
        self._counts.observe(event, was_failed=was_failed)

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

    # What changes about ourselves while we run.

    def _move_to(self, address: IPAddress) -> None:
        self._me.overlay_address = address
        self._presence.announce()
        self._apply.wake()
        self._save.wake()

    async def _watch_host(self) -> None:
        while True:
            await asyncio.sleep(REPAIR_SECONDS)
            try:
                host = await asyncio.to_thread(look_at_host)
            except (WesherError, OSError) as error:
                log.warning("host's addresses not read error=%s", error)
                continue
            changed = host != self._me.host
            if changed:
                self._me.look_at_host(host)
            # Before the others are told: they answer to where we say we are.
            await self._port.follow()
            if changed:
                self._presence.follow()
                self._apply.wake()
                self._report_soon()

    def _take_mounted(self, content: Mounted) -> None:
        me, now = self._me, self._driver.now
        if content.ring != me.ring:
            me.ring = content.ring
            self._engine.set_packet_format(me.packet_format)
            log.warning("key ring changed primary=%s keys=%d", content.ring.primary.id, len([*content.ring]))
            self._save.wake()
        if content.document == me.document:
            return
        if needs_restart(me.document, content.document):
            log.warning("mesh.json changed what only a restart can apply, restarting")
            self._device_goes = not outlives_restart(
                me.document.wireguard, content.document.wireguard, self._tunnel.mode
            )
            self.stop()
            return
        me.document = content.document
        if me.name in me.document.removed:
            # While our token lives: it ends with our pod.
            self._doubt_our_place()
        self._roster.set_seeds(me.seeds, now=now)
        self._roster.set_removed(me.document.removed, now=now)
        self._seeker.wake()
        self._members_changed()

    def _doubt_our_place(self) -> None:
        if self.link is not None:
            self.link.doubt()

    def _take_node(self, node: NodeSpec) -> None:
        if node == self._me.node:
            return
        self._me.node = node
        self._save.wake()
        if node.overlay_address is not None and node.overlay_address != self._me.overlay_address:
            log.info("overlay address given address=%s", node.overlay_address)
            self._move_to(node.overlay_address)
        self._me.look_at_addresses()
        self._presence.follow()
        # Its location decides by which of their addresses others are reached.
        self._apply.wake()
