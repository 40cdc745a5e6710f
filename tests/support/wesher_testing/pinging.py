"""Pings between pairs of hosts, and how long any of them went unanswered.

Ten a second for each pair and direction, over the overlay, from when it starts to when it
stops: what an administrator's traffic feels of an update.
"""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Protocol, Self

from wesher_testing.namespaces import Host

_INTERVAL = 0.1
_ANSWERED = re.compile(r"bytes from .* icmp_seq=(\d+) ")
_SENT = re.compile(r"^(\d+) packets transmitted", re.MULTILINE)


class OnHost(Protocol):
    """A cluster's node, or an agent."""

    @property
    def host(self) -> Host:
        """Where it runs."""


class Pinging:
    """Pings that run while its context lasts.

    Args:
        nodes: the hosts by name.
        addresses: the overlay address of each, by name.
        pairs: who pings whom: unless given, every one all others.

    """

    def __init__(
        self,
        nodes: Mapping[str, OnHost],
        addresses: Mapping[str, str],
        pairs: Iterable[tuple[str, str]] | None = None,
    ) -> None:
        self._pings: dict[tuple[str, str], subprocess.Popen[str]] = {}
        self._nodes = nodes
        self._addresses = addresses
        self._pairs = list(itertools.permutations(nodes, 2) if pairs is None else pairs)
        self.outages: dict[tuple[str, str], float] = {}
        """By (from, to), once stopped: the longest time without an answer, in seconds."""
        self.lost: dict[tuple[str, str], int] = {}
        """By (from, to), once stopped: how many were not answered, the last not counted."""

    def __enter__(self) -> Self:
        for pair in self._pairs:
            source, target = pair
            command = ["ping", "-n", "-i", str(_INTERVAL), self._addresses[target]]
            self._pings[pair] = self._nodes[source].host.popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for ping in self._pings.values():
            # So that it prints its summary.
            ping.send_signal(signal.SIGINT)
        for pair, ping in self._pings.items():
            try:
                said, _ = ping.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                ping.kill()
                said, _ = ping.communicate()
            self.outages[pair] = longest_outage(said)
            self.lost[pair] = count_lost(said)

    def lost_at(self, node: str) -> float:
        """Return the longest outage between a node and any other, in seconds."""
        return max(seconds for pair, seconds in self.outages.items() if node in pair)


def count_lost(said: str) -> int:
    """Return how many pings of one that was ended by SIGINT were lost.

    The last one does not count: its answer may have been on its way.
    """
    sent = _SENT.search(said)
    if sent is None:
        raise ValueError(f"not the words of a ping that ended: {said[-500:]}")
    answered = {int(number) for number in _ANSWERED.findall(said)}
    return len(set(range(1, int(sent[1]))) - answered)


def longest_outage(said: str) -> float:
    """Return how long a ping that was ended by SIGINT went without an answer at most, in seconds."""
    sent = _SENT.search(said)
    if sent is None:
        raise ValueError(f"not the words of a ping that ended: {said[-500:]}")
    marks = [0, *sorted({int(number) for number in _ANSWERED.findall(said)}), int(sent[1]) + 1]
    missing = max(after - before - 1 for before, after in itertools.pairwise(marks))
    return missing * _INTERVAL
