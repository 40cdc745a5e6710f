"""The shell round one member: sockets, device, files and API server do what `mesh.member` decides.

Nothing waits for anything else: gossip goes on while the device is being changed, and
the device stays as it is while the API server is away. What comes before is `startup`'s;
the process around it is `app`'s.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from io import TextIOWrapper
from random import Random
from typing import Any

from wesher_agent.control import ControlServer, socket_path
from wesher_agent.files.atomic import CannotWrite
from wesher_agent.files.hosts import HostsFile
from wesher_agent.files.link_memory import LinkMemory
from wesher_agent.flags import find_flag
from wesher_agent.health import HealthServer
from wesher_agent.kube.mounted import Mounted
from wesher_agent.kube.node_spec import NodeSpec
from wesher_agent.mesh.member import MeshMember
from wesher_agent.mesh.outputs import (
    Apply,
    AskForPlace,
    Left,
    Listen,
    Output,
    Rekeyed,
    Report,
    Resolve,
    Restart,
    Save,
)
from wesher_agent.mesh.view import Ending, MemberView
from wesher_agent.net.driver import Driver
from wesher_agent.net.sockets import AddressUnavailable, GossipPortTaken
from wesher_agent.netlink.errors import WireGuardUnavailable
from wesher_agent.netlink.host import look_at_host
from wesher_agent.runtime.claim import claim_interface
from wesher_agent.runtime.startup import Startup
from wesher_agent.status.answers import (
    join_answer,
    key_answer,
    members_answer,
    news_answer,
    refused_news,
    status_answer,
)
from wesher_agent.status.conditions import failing
from wesher_agent.status.counters import Counts
from wesher_agent.status.greeting import greeting
from wesher_agent.status.json_output import LeaveAnswer, MemberAnswer, RekeyAnswer, StatusAnswer
from wesher_agent.status.snapshot import Snapshot
from wesher_agent.status.transitions import Transitions
from wesher_agent.tunnel.endpoint_keeper import EndpointKeeper
from wesher_agent.tunnel.finish import finish
from wesher_agent.tunnel.prober import Prober
from wesher_agent.tunnel.tunnel import REPAIR_SECONDS, Tunnel
from wesher_agent.wireguard.device import check_mode, why_taken
from wesher_agent.wireguard.ownership import Owner
from wesher_common.errors import InvalidSpec, PeerMisbehaved, WesherError
from wesher_common.event_logger import EventLogger
from wesher_common.keys import KEY_BYTES, WireGuardPrivateKey
from wesher_common.mesh_document import WireGuardSettings
from wesher_common.news import statement_in
from wesher_common.overlay import IPAddress
from wesher_common.printable import shell_line
from wesher_common.version import VERSION

log = EventLogger("wesher.agent")

END_SECONDS = 30.0
"""How long the last save and the leave may take; the leave takes ten at most."""
PROOF_SECONDS = 5.0
"""Between two looks at which endpoints are proven: a restart begins at these."""
JUDGE_SECONDS = 1.0
"""Between two looks at the conditions: their transition times are in whole seconds."""


class Agent:
    """See the module.

    Args:
        startup: everything decided before.

    Raises:
        InvalidSpec: the overlay has no free address.

    """

    def __init__(self, startup: Startup) -> None:
        self._startup = startup
        self._link = startup.link
        self._settings = settings = startup.settings
        self._interface = startup.local.document.wireguard.interface
        self._counts = Counts()
        self._transitions = Transitions()
        self._rng = Random(os.urandom(8))
        self._stopped, self._ended, self._has_output = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._last_output: Left | Restart | None = None
        self._removing: asyncio.Task[None] | None = None
        self._rekeyed: asyncio.Future[Rekeyed] | None = None
        self._is_closing = False
        """Whether how it ends cannot change any more."""
        self._node = startup.link.node if startup.link is not None else None
        """The WesherNode as the member was last given it."""
        self._is_started = False
        self._endpoints: frozenset[IPAddress] = frozenset()
        """Where members are reached in the underlay, as last applied."""

        self._member = MeshMember(
            startup.local,
            startup.saved,
            now=asyncio.get_running_loop().time(),
            wall=time.time(),
            rng=self._rng,
            nonce=os.urandom,
        )
        self._driver = Driver(
            self._member,
            self._counts.observe,
            on_turn=self._has_output.set,
            on_fault=lambda: self._counts.add("engineFaults"),
            mark=startup.local.mark,
        )
        self._owner = Owner(startup.local.private_key.public, startup.local.document.overlay)
        self._tunnel = Tunnel(
            self._interface,
            self._owner,
            settings,
            None if settings.no_etc_hosts else HostsFile(settings.hosts_file, self._interface),
            on_change=self._report_soon,
            on_sessions_lost=self._probe_everyone,
            on_port_moved=self._greet_everyone,
            count=self._counts.add,
        )
        self._prober = Prober(
            self._tunnel, startup.local.private_key.public, self._rng, on_change=self._take_answers
        )
        self._endpoint_keeper = EndpointKeeper(self._tunnel, self._prober)
        self._health = HealthServer(
            settings.health_port, lambda: failing(self._snapshot()), on_change=self._report_soon
        )
        self._control = ControlServer(
            socket_path(settings.run_dir, self._interface),
            {
                "status": self._answer_status,
                "members": self._answer_members,
                "join": self._answer_join,
                "key": self._answer_key,
                "rekey": self._answer_rekey,
                "leave": self._answer_leave,
                "leave-and-forget": partial(self._answer_leave, forget=True),
            },
            {"news-add": self._answer_news_add},
        )

    async def start(self) -> None:
        """Listen, save what this member is, and answer commands.

        Raises:
            InvalidSpec: the gossip port is taken and not to be waited for, or its address is not this host's.

        """
        self._driver.tell(self._member.start)
        self._driver.tell(partial(self._member.news_published, self._startup.news))
        # To listen, then to save: a port that cannot be had ends the process before anything is written.
        try:
            for output in (self._member.next_output(), self._member.next_output()):
                if output is not None:
                    await self._do(output)
        except BaseException:
            # The next try of a restart is in this process, and would find its port taken.
            await self._driver.close()
            raise
        if self._startup.key_is_new:
            self._show_key()
        await self._control.start()
        self._is_started = True
        local = self._view().local
        log.info(
            "agent started",
            node=local.name,
            gossip=local.gossip_address,
            overlay=local.overlay_address,
            key=local.ring.primary.id,
        )
        if sys.stdout.isatty() and not local.options.in_kubernetes:
            _show(greeting(self._snapshot(), reach=self._reach))

    def _show_key(self) -> None:
        if sys.stdout.isatty():
            text = self._startup.local.ring.primary.reveal_base64()
            _show(f"new cluster key generated: {text}")
            return
        if self._view().save_problem:
            log.warning("new cluster key not saved, no other member can join: give --cluster-key-file")
            return
        log.warning(
            "new cluster key generated: read it as root", command=shell_line(["wesher", "key", *self._reach])
        )

    @property
    def _reach(self) -> list[str]:
        """The flags with which a command on this host asks this agent."""
        given = {"--interface": self._interface, "--run-dir": str(self._settings.run_dir)}
        return [f"{name}={text}" for name, text in given.items() if text != str(find_flag(name).default)]

    @property
    def has_left(self) -> bool:
        """Whether it has left the mesh for good."""
        return isinstance(self._last_output, Left)

    @property
    def device_is_up(self) -> asyncio.Event:
        """Set once the device exists and has its address, for as long as this agent runs."""
        return self._tunnel.was_ready

    def device_problem(self) -> str:
        """Return why the device is not ready; empty before the first try."""
        return self._tunnel.problem

    async def run(self) -> None:
        """Work until the member ends or `stop` is called."""
        jobs = [
            self._watch_host(),
            self._watch_tunnels(),
            self._watch_clock(),
            self._watch_state(),
            self._tunnel.keep(),
            self._control.keep(),
            self._prober.run(),
            self._endpoint_keeper.run(),
        ]
        if self._settings.health_port:
            jobs.append(self._health.run())
        if self._startup.mounted is not None:
            jobs.append(
                self._startup.mounted.watch(
                    self._take_mounted, on_change=self._report_soon, on_nudge=self._ask_for_place
                )
            )
        if self._link is not None:
            jobs.append(self._link.run(self._snapshot, self._take_node, rng=self._rng))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in jobs]
            tasks += (group.create_task(self._do_outputs()), group.create_task(self._watch_conditions()))
            await self._stopped.wait()
            for task in tasks:
                task.cancel()

    def stop(self) -> None:
        """Have `run` return; `end` follows."""
        self._stopped.set()

    async def decide_ending(self) -> None:
        """After a termination signal: ask whether this node is gone from its mesh, leave or restart."""
        if self._member.ending is Ending.LEAVE:
            return
        leaves = self._startup.local.options.leaves_on_exit
        gone = not leaves and self._link is not None and await self._link.is_gone()
        self._driver.tell(partial(self._member.stop, gone=gone))

    async def end(self) -> None:
        """Go: for good, taking everything away, or so that a restart finds all as it was."""
        if self._member.ending is None:
            # Something failed: the next process goes on.
            self._driver.tell(self._member.restart)
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._do_last_outputs()
        except Exception:
            # A save that raised, or did not return: the next process goes on from what was last saved.
            log.exception("state not saved before exit")
        self._is_closing = True
        match self._last_output:
            case Left(forgets_state=forgets):
                await self._remove_device()
                if forgets:
                    self._forget_state()
            case Restart() as restart if not restart.keeps_device(self._tunnel.mode):
                await self._remove_device()
            case _ if self._removing is not None:
                # A leave that did not come to its end: what has begun to go goes.
                await self._removing
            case _:
                self._tunnel.close()
        await self._driver.close()
        self._ended.set()
        await self._control.close()
        log.info("agent ended", left=self.has_left)

    # What it says about itself.

    async def _answer_status(self) -> StatusAnswer:
        await self._prober.look_for_an_answer()
        return status_answer(self._snapshot())

    async def _answer_members(self) -> list[MemberAnswer]:
        await self._prober.look_for_an_answer()
        return members_answer(self._snapshot())

    async def _answer_join(self) -> dict[str, Any]:
        return join_answer(self._snapshot())

    async def _answer_key(self) -> dict[str, Any]:
        return key_answer(self._snapshot())

    async def _answer_news_add(self, data: bytes) -> dict[str, Any]:
        try:
            statement, is_new = self._driver.tell(partial(self._member.news_added, statement_in(data)))
        except PeerMisbehaved as refused:
            raise WesherError(refused_news(refused.reason)) from refused
        return news_answer(statement, is_new=is_new)

    def _view(self) -> MemberView:
        return self._member.view(now=self._driver.now)

    def _snapshot(self) -> Snapshot:
        tunnel, plan, mounted, link = self._tunnel, self._prober.plan, self._startup.mounted, self._link
        now = Snapshot(
            member=self._view(),
            device_ready=tunnel.ready,
            device_reason=tunnel.reason,
            device_problem=tunnel.problem,
            mode=tunnel.mode if tunnel.has_device else "",
            mtu=tunnel.mtu,
            hosts=tunnel.hosts_state,
            observed=self._prober.observed,
            reachable=plan.reachable,
            unreachable=plan.unreachable,
            mostly_unreachable=plan.mostly_failing,
            probes_settled=plan.is_settled,
            rejected=self._driver.rejected,
            counts=self._counts.numbers,
            source_problem=mounted.problem if mounted is not None else "",
            health_problem=self._health.problem,
            carry_problems=tunnel.carry_problems,
            removed=link is not None and link.removed,
            generation=self._node.generation if self._node is not None else 0,
            machine=self._node.machine if self._node is not None else "",
            version=VERSION,
            wall_clock=time.time(),
        )
        return replace(now, changed_at=self._transitions.observe(now))

    async def _watch_conditions(self) -> None:
        """Judge the conditions often enough to know when they changed, even if no client asks."""
        while True:
            self._snapshot()
            await asyncio.sleep(JUDGE_SECONDS)

    async def _answer_rekey(self) -> RekeyAnswer:
        if self._is_closing or self._member.ending is not None:
            raise WesherError("the agent is ending: try again")
        if self._rekeyed is None:
            self._rekeyed = asyncio.get_running_loop().create_future()
            key = WireGuardPrivateKey.from_random(os.urandom(KEY_BYTES))
            self._driver.tell(partial(self._member.rekey, key))
        done = await asyncio.shield(self._rekeyed)
        if done.problem:
            raise WesherError(f"the state was not saved, so the WireGuard key stays: {done.problem}")
        local = self._view().local
        return {
            "node": local.name,
            "former": str(local.private_key.public),
            "publicKey": str(done.key),
            "needsAdmission": local.document.identity is not None,
        }

    async def _answer_leave(self, *, forget: bool = False) -> LeaveAnswer:
        if not self._is_closing:
            self._driver.tell(partial(self._member.leave, forget=forget))
            self.stop()
        await self._ended.wait()
        if not self.has_left:
            raise WesherError("the agent is restarting: try again")
        kept = self._startup.state_file.present_path()
        return {
            "node": self._startup.local.name,
            "interface": self._interface,
            "kept": None if kept is None else str(kept),
        }

    # What the member wants done.

    async def _do_outputs(self) -> None:
        async with asyncio.TaskGroup() as doing:
            while True:
                while (output := self._member.next_output()) is not None:
                    doing.create_task(self._do(output))
                self._has_output.clear()
                await self._has_output.wait()

    async def _do_last_outputs(self) -> None:
        """Do what is left until the member says that it has ended; a leave outdoes a restart."""
        while not isinstance(self._last_output, self._last_kind):
            if self._member.ending is Ending.LEAVE and self._removing is None:
                # Not one after the other: on a Node that was deleted there is one second for both.
                self._removing = asyncio.create_task(self._tunnel.remove())
            while (output := self._member.next_output()) is not None:
                if isinstance(output, Save | Rekeyed | Left | Restart):
                    await self._do(output)
            if not isinstance(self._last_output, self._last_kind):
                self._has_output.clear()
                await self._has_output.wait()

    @property
    def _last_kind(self) -> type[Left | Restart]:
        return Left if self._member.ending is Ending.LEAVE else Restart

    async def _remove_device(self) -> None:
        if self._removing is None:
            self._removing = asyncio.create_task(self._tunnel.remove())
        await self._removing

    async def _do(self, output: Output) -> None:
        match output:
            case Listen():
                await self._listen(output)
            case Apply():
                await finish(self._apply(output))
            case Save():
                await finish(self._save(output))
            case Resolve():
                await self._resolve(output)
            case Rekeyed():
                if self._rekeyed is not None:
                    self._rekeyed.set_result(output)
                    self._rekeyed = None
            case Report():
                self._report_soon()
            case AskForPlace():
                self._ask_for_place()
            case Left() | Restart():
                self._last_output = output
                self.stop()

    async def _listen(self, output: Listen) -> None:
        """Listen, or say why not.

        In Kubernetes a port that is taken is waited for: the status reports it, and a changed
        mesh.json takes effect at once, as it does not on a container that Kubernetes holds back.
        An address that no flag named is waited for too: it may come back, or another one is chosen.
        """
        problem = ""
        try:
            await self._driver.listen(output.addresses, output.port)
        except InvalidSpec as error:
            options = self._startup.local.options
            can_wait = (options.in_kubernetes and isinstance(error, GossipPortTaken)) or (
                options.bind_addr is None and isinstance(error, AddressUnavailable)
            )
            if not self._is_started and not can_wait:
                raise
            problem = error.rule
            if isinstance(error, AddressUnavailable):
                problem = f"{' and '.join(map(str, output.addresses))} not assigned to this host"
        self._driver.tell(partial(self._member.listening, problem))

    async def _apply(self, output: Apply) -> None:
        wanted, document = output.desired, output.document
        self._endpoints = wanted.endpoints
        problem = "internal error of the agent: its log has a traceback"
        try:
            problem = await self._tunnel.apply(wanted, document.wireguard.mode, document.etc_hosts)
            # After their routes: a probe that finds no way out is lost, and with it the first handshake.
            self._prober.set_peers(wanted.tunnels)
            peers = {peer.public_key: peer for peer in wanted.device.peers}
            named = {name: peers[key] for name, (key, _) in wanted.tunnels.items()}
            self._endpoint_keeper.set_announced(
                {name: peer.endpoint for name, peer in named.items() if peer.endpoint is not None},
                {name: peer.proven for name, peer in named.items() if peer.proven is not None},
            )
        finally:
            self._driver.tell(partial(self._member.applied, problem))

    async def _save(self, output: Save) -> None:
        # Answered whatever happens: without it the member could not end.
        problem = "internal error of the agent: its log has a traceback"
        try:
            await asyncio.to_thread(self._startup.state_file.save, output.state)
            problem = ""
        except CannotWrite as error:
            problem = str(error)
        finally:
            self._driver.tell(partial(self._member.saved, problem))

    async def _resolve(self, output: Resolve) -> None:
        try:
            answers, problem = await self._startup.resolver.resolve(output.seed.host), ""
        # Names that cannot be encoded are ValueErrors; a machine out of threads raises RuntimeError.
        except (OSError, ValueError, RuntimeError) as error:
            answers, problem = (), str(error) or "no answer in time"
        self._driver.tell(partial(self._member.resolved, output.seed, answers, problem))

    def _forget_state(self) -> None:
        try:
            self._startup.state_file.remove()
        except CannotWrite as error:
            log.warning("state file not deleted after leaving: delete it", error=error)

    # What the member learns.

    async def _watch_host(self) -> None:
        while True:
            await asyncio.sleep(REPAIR_SECONDS)
            try:
                host = await asyncio.to_thread(
                    look_at_host,
                    self._startup.seed_addresses,
                    endpoints=self._endpoints,
                    names=self._tunnel.link_names,
                )
            except (WesherError, OSError) as error:
                log.warning("host addresses not read", error=error)
                continue
            self._driver.tell(partial(self._member.host_changed, host))

    async def _watch_tunnels(self) -> None:
        """Tell the member where its peers are proven to be."""
        while True:
            await asyncio.sleep(PROOF_SECONDS)
            self._driver.tell(partial(self._member.tunnels_seen, self._endpoint_keeper.proven()))

    async def _watch_clock(self) -> None:
        """Tell the member the wall clock, which may have been set."""
        while True:
            await asyncio.sleep(REPAIR_SECONDS)
            self._driver.tell(partial(self._member.clock_read, time.time()))

    async def _watch_state(self) -> None:
        while True:
            await asyncio.sleep(REPAIR_SECONDS)
            if await asyncio.to_thread(self._startup.state_file.is_missing):
                self._driver.tell(self._member.state_lost)

    async def _take_mounted(self, content: Mounted) -> None:
        """Apply what is mounted; of what this host cannot apply, only the keys and who was removed.

        Raises:
            InvalidSpec: as `_check`.

        """
        document = content.document
        try:
            await self._check(document.wireguard)
        except InvalidSpec:
            # A node that was removed, or has the former key only, must be shut out now.
            present = replace(self._view().local.document, removed=document.removed)
            self._driver.tell(partial(self._member.mesh_changed, present, content.ring))
            self._driver.tell(partial(self._member.news_published, content.news))
            raise
        self._driver.tell(partial(self._member.mesh_changed, document, content.ring))
        self._driver.tell(partial(self._member.news_published, content.news))

    async def _check(self, wanted: WireGuardSettings) -> None:
        """Refuse a device that this host cannot have, before the present one goes for it.

        Raises:
            InvalidSpec: its name is another agent's or program's, or the kind of WireGuard is missing here.

        """
        is_other_kind = wanted.mode not in {self._view().local.document.wireguard.mode, self._tunnel.mode}
        binary = self._settings.userspace_binary or None
        why = ""
        try:
            if wanted.interface != self._interface:
                claim_interface(wanted.interface).close()
                memory = LinkMemory(self._settings.state_dir, wanted.interface)
                why = await why_taken(wanted.interface, self._owner, memory)
            if is_other_kind:
                await asyncio.to_thread(check_mode, wanted.mode, userspace_binary=binary)
        except (WireGuardUnavailable, OSError) as error:
            raise InvalidSpec("mesh.json wireguard", str(error)) from error
        if why:
            rule = f"belongs to another program: {why}; choose a free name"
            raise InvalidSpec("mesh.json wireguard.interface", rule, value=wanted.interface)

    def _take_node(self, node: NodeSpec) -> None:
        self._node = node
        if node.reported_from is not None:
            self._driver.tell(partial(self._member.reported_from, node.reported_from))
        self._driver.tell(partial(self._member.node_given, node.place))

    def _report_soon(self) -> None:
        if self._link is not None:
            self._link.wake()

    def _ask_for_place(self) -> None:
        if self._link is not None:
            self._link.doubt()

    def _take_answers(self) -> None:
        self._endpoint_keeper.doubt(self._prober.plan.unreachable)
        self._report_soon()

    def _probe_everyone(self) -> None:
        self._prober.ask_everyone()

    def _greet_everyone(self) -> None:
        self._prober.greet_everyone()


def _show(text: str) -> None:
    """Print a text on the terminal, whose end must not end the agent."""
    if isinstance(sys.stdout, TextIOWrapper):
        # A letter that the terminal's encoding lacks must not end the agent either.
        sys.stdout.reconfigure(errors="backslashreplace")
    with suppress(OSError):
        print(text, flush=True)  # noqa: T201 - for a terminal only
