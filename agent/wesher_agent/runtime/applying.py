"""From the members to this machine: the wish is made anew and has its tunnel, hosts and probes follow."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

from wesher_agent.mesh.desired import Problem, Wish, desired
from wesher_agent.mesh.roster import Roster
from wesher_agent.runtime.counts import Counts
from wesher_agent.runtime.myself import Myself
from wesher_agent.runtime.prober import Prober
from wesher_agent.runtime.tunnel import Tunnel
from wesher_agent.runtime.views import tunnel_peers
from wesher_common.overlay import IPAddress

log = logging.getLogger("wesher.agent")


class WishApplier:
    """Keeps the last wish, and knows what is wrong with whom.

    Args:
        me: this member.
        roster: the others.
        tunnel: is brought to the wish.
        prober: asks those that have a tunnel.
        counts: what to count addresses given up in.
        move_to: takes the overlay address that we have to move to.
        on_change: called when a wish was applied.

    """

    def __init__(
        self,
        me: Myself,
        *,
        roster: Roster,
        tunnel: Tunnel,
        prober: Prober,
        counts: Counts,
        move_to: Callable[[IPAddress], None],
        on_change: Callable[[], None],
    ) -> None:
        self._me = me
        self._roster = roster
        self._tunnel = tunnel
        self._prober = prober
        self._counts = counts
        self._move_to = move_to
        self._on_change = on_change
        self._wish: Wish | None = None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was wrong at the last wish."""
        return self._wish.problems if self._wish is not None else ()

    @property
    def nobody_can_be_asked(self) -> bool:
        """Whether no living member can have a tunnel, so that an answer would be awaited for ever."""
        if self._wish is None or self._wish.device.peers:
            return False
        without = {problem.member for problem in self._wish.problems}
        return all(name in without for name, member in self._roster.members.items() if member.state.is_alive)

    async def apply(self) -> None:
        """Make the wish from what is known now, and have it fulfilled."""
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
        for problem in sorted(set(wish.problems) - set(self.problems)):
            log.warning("member %s %s reason=%s", problem.member, problem.message, problem.reason)
        self._wish = wish
        await self._tunnel.apply(wish, me.document.wireguard.mode, me.document.etc_hosts)
        # After their routes: a probe that finds no way out is lost, and with it the first handshake.
        self._prober.set_peers(tunnel_peers(wish.device, members))
        self._on_change()
