"""Who sent a claim, and how: limits on what other hosts may cost are counted by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class Way(Enum):
    """How a claim arrived."""

    DATAGRAM = "datagram"
    """Its sender's address may be forged."""
    REQUEST = "request"
    """On a stream that another host opened."""
    ANSWER = "answer"
    """On a stream that this member opened, to a host of its choice."""


@dataclass(frozen=True, slots=True)
class Source:
    """The sender of a claim."""

    holder: str
    """Its IP address, or the IPv6 /64 of a host that is not a member, as in `admission`."""
    way: Way


Vet = Callable[[str, bytes, Source, float], None]
"""Checks the name and the metadata of an alive that is news, at a time, before anything else is done with it.

Raises:
    PeerMisbehaved: the alive is to be dropped.

"""


def take_all(_name: str, _meta: bytes, _source: Source, _now: float) -> None:
    """Let every alive pass."""
