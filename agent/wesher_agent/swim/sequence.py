"""Sequence numbers that tie acks to pings."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count


def sequence_numbers(*, after: int) -> Iterator[int]:
    """Count up from ``after``, and wrap at 32 bits, when older answers can no longer arrive.

    Args:
        after: different in each run: otherwise the recorded ack of an earlier run,
            sent again, would answer the probe of a dead member.

    """
    return (number & 0xFFFFFFFF for number in count(after + 1))
