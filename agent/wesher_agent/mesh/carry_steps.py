"""The steps from accepting carried packets to sending them, and what of it the device does now.

A node sends packets of its own networks into the tunnels only after the others have had time to
accept them. Members send no message about this: each one follows the certificates that it sees.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from wesher_agent.mesh.device import Carrying
from wesher_agent.mesh.events import TrafficCarried, TrafficNotCarried
from wesher_common.overlay import IPNetwork
from wesher_common.traffic import NO_TRAFFIC, TrafficSettings

CARRY_AFTER: Final = 15.0
"""Seconds from the announcement of a certificate with a network to the first packet that this node sends
from it through a tunnel: gossip has reached every member by then, and each has changed its device."""


@dataclass(frozen=True, slots=True)
class TrafficView:
    """What a member carries now, as status shows it."""

    settings: TrafficSettings = NO_TRAFFIC
    """As last applied."""
    carrying: Carrying | None = None
    """The same."""
    known: frozenset[IPNetwork] = frozenset()
    """This node's networks that the other members have had the time to learn of."""

    @property
    def routed(self) -> int:
        """To how many networks of other members packets go through the tunnels."""
        return len(self.carrying.routes) if self.carrying is not None else 0


NOTHING_APPLIED: Final = TrafficView()


class CarrySteps:
    """The steps of one member.

    Args:
        saved: its networks that the other members knew in an earlier run. They still have them, so that a
            restart goes on at once.

    """

    def __init__(self, saved: Iterable[IPNetwork]) -> None:
        self.known = frozenset(saved)
        """The networks of this node that the other members have had the time to learn of."""
        self._waiting: dict[IPNetwork, float] = {}
        """Those that have been announced since when."""
        self._applying = self._applied = NOTHING_APPLIED

    @property
    def next_timer(self) -> float:
        """When `handle_timer` has something to do; infinite for never."""
        return min(self._waiting.values(), default=inf) + CARRY_AFTER

    @property
    def view(self) -> TrafficView:
        """What is carried now."""
        return replace(self._applied, known=self.known)

    def announced(self, networks: Collection[IPNetwork], *, is_certified: bool, now: float) -> None:
        """Take the networks in the certificate that this node announces.

        Args:
            networks: all of them.
            is_certified: whether the certificate counts. Where it does no longer, nothing begins and nothing
                ends: carried packets must not leave unencrypted.
            now: the time.

        """
        self.known &= {*networks}
        fresh = [network for network in networks if network not in self.known] if is_certified else []
        self._waiting = {network: self._waiting.get(network, now) for network in fresh}

    def handle_timer(self, *, now: float) -> None:
        """Let what was announced long enough ago be sent from."""
        due = {network for network, since in self._waiting.items() if since + CARRY_AFTER <= now}
        self.known |= due
        self._waiting = {n: since for n, since in self._waiting.items() if n not in due}

    def applying(self, settings: TrafficSettings, carrying: Carrying | None) -> None:
        """Take what the device is being changed to."""
        self._applying = TrafficView(settings, carrying)

    def applied(self) -> list[TrafficCarried | TrafficNotCarried]:
        """Take note that the device is so; return what an administrator wants to know of it."""
        former, self._applied = self._applied.routed, self._applying
        routed = self._applied.routed
        if bool(routed) == bool(former):
            return []
        return [TrafficCarried(routed)] if routed else [TrafficNotCarried()]
