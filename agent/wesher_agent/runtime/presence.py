"""How others find this member: told when it moves, and when somebody looks for it where it was."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from wesher_agent.mesh.roster import Roster
from wesher_agent.net.driver import Driver
from wesher_agent.runtime.claims import Claim, NameClaims
from wesher_agent.runtime.myself import Myself
from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.events import NameConflict

log = logging.getLogger("wesher.agent")


class Presence:
    """What is gossiped of this member, kept to what it is.

    Args:
        me: what it is.
        former: where others dialled it before this start; None where that is not known.
        engine: says it.
        driver: runs the engine.
        roster: must know our own addresses, so as not to dial them.
        on_move: called when we gossip from another address.
        on_rival: called when somebody else uses our name.

    """

    def __init__(
        self,
        me: Myself,
        former: Address | None,
        *,
        engine: Engine,
        driver: Driver,
        roster: Roster,
        on_move: Callable[[], None],
        on_rival: Callable[[], None],
    ) -> None:
        self._me = me
        self._claims = NameClaims([former] if former is not None else [])
        self._engine = engine
        self._driver = driver
        self._roster = roster
        self._on_move = on_move
        self._on_rival = on_rival

    @property
    def rival(self) -> str:
        """The address of whoever used our name not long ago; empty for nobody."""
        return self._claims.rival(now=self._driver.now)

    def announce(self) -> None:
        """Say what we are now, if that is something else than we said last."""
        meta = self._me.meta()
        if meta != self._engine.me.meta:
            self._driver.tell(partial(self._engine.update_meta, meta))
        self._roster.set_own_addresses(
            self._me.addresses,
            overlay_address=self._me.overlay_address,
            location=self._me.location,
            now=self._driver.now,
        )

    def follow(self) -> None:
        """Say what we are now, and from where: host or WesherNode may be others than before."""
        former, address = self._engine.me.address, self._me.gossip_address
        self.announce()
        if address != former:
            self._claims.move(former, address)
            self._on_move()
            self._driver.tell(partial(self._engine.change_address, address))

    def settle_claim(self, conflict: NameConflict) -> None:
        """Do what follows from somebody's claim that our name is at another address."""
        claimed = conflict.claimed
        match self._claims.judge(claimed, asked_for=conflict.asked_for, now=self._driver.now):
            case Claim.RIVAL:
                self._on_rival()
            case Claim.FORMER:
                log.info("others look for this node at its former address, telling them former=%s", claimed)
                self._driver.tell(partial(self._engine.change_address, self._me.gossip_address))
            case Claim.DOUBTFUL:
                self._driver.tell(partial(self._engine.push_pull_with, claimed, join=False))
            case Claim.NOTHING:
                pass
