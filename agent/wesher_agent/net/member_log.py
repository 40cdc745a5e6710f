"""The log lines of what a member reports beside its engine's events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from wesher_agent.mesh import events
from wesher_agent.mesh.events import MeshEvent

Line = tuple[int, str, tuple[object, ...]]
"""Level, message and its arguments."""

_LINES: Mapping[type[Any], Callable[[Any], Line | None]] = {
    events.MemberReturned: lambda _: None,
    events.FailedMemberLeft: lambda e: (
        logging.INFO,
        "failed member had left, it is expected no longer node=%s",
        (e.node,),
    ),
    events.FailedMemberForgotten: lambda e: (
        logging.WARNING,
        "member forgotten, it was away too long node=%s",
        (e.node,),
    ),
    events.SeedSkipped: lambda e: (
        logging.WARNING,
        "seed not dialled seed=%s address=%s reason=%r",
        (e.seed, e.address, e.reason),
    ),
    events.SeedNotResolved: lambda e: (
        logging.WARNING if e.is_first else logging.DEBUG,
        "seed not resolved seed=%s error=%s",
        (e.seed, e.error),
    ),
    events.ProblemFound: lambda e: (
        logging.WARNING,
        "member %s %s reason=%s",
        (e.node, e.message, e.reason),
    ),
    events.OverlayAddressGiven: lambda e: (logging.INFO, "overlay address given address=%s", (e.address,)),
    events.OverlayAddressGivenUp: lambda e: (
        logging.WARNING,
        "overlay address given up, another has it from=%s to=%s",
        (e.former, e.address),
    ),
    events.AddressLost: lambda e: (
        logging.ERROR,
        "the address that gossip listens on is gone from this host address=%s",
        (e.address,),
    ),
    events.NoAddressToAnnounce: lambda e: (
        logging.WARNING,
        "no address to announce, the former one stays error=%s",
        (e.error,),
    ),
    events.RoutesNotAnnounced: lambda e: (logging.WARNING, "routes not announced error=%s", (e.error,)),
    events.DialledAtFormerAddress: lambda e: (
        logging.INFO,
        "others look for this node at its former address, telling them former=%s",
        (e.former,),
    ),
    events.ListenFailed: lambda e: (
        logging.ERROR,
        "gossip does not listen, trying again error=%s",
        (e.error,),
    ),
    events.ListeningChanged: lambda e: (
        logging.WARNING,
        "gossip listens addresses=%s port=%d",
        (",".join(map(str, e.addresses)), e.port),
    ),
    events.KeyRingChanged: lambda e: (
        logging.WARNING,
        "key ring changed primary=%s keys=%d",
        (e.primary, e.keys),
    ),
    events.RestartNeeded: lambda _: (
        logging.WARNING,
        "mesh.json changed what only a restart can apply, restarting",
        (),
    ),
    events.StateNotSaved: lambda e: (
        logging.WARNING if e.is_first else logging.DEBUG,
        "state not saved, running on from memory error=%s",
        (e.error,),
    ),
    events.StateSavedAgain: lambda _: (logging.INFO, "state saved again", ()),
}


def line_of(event: MeshEvent) -> Line | None:
    """Return the log line of an event; None for one that needs none."""
    return _LINES[type(event)](event)
