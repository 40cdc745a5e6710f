"""Pings between pairs of hosts, and how long any of them went unanswered.

Ten a second for each pair and direction, over the overlay, from when it starts to when it
stops: what an administrator's traffic feels of an update.
"""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

_INTERVAL = 0.1
_ON_THE_WAY = 10
"""How many of the last pings do not count: on a busy machine their answers come later than a ping's end."""
_ANSWERS_AFTER = 2 * _ON_THE_WAY
"""How many more answers are awaited in the end, so that those that do not count hide nothing."""
_PATIENCE = 60.0
_ANSWERED = re.compile(r"bytes from .* icmp_seq=(\d+) ")
_SENT = re.compile(r"^(\d+) packets transmitted", re.MULTILINE)


class Runs(Protocol):
    """A host, or a pod's network."""

    def popen(self, argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start a program there."""


class OnHost(Protocol):
    """A cluster's node, an agent or a pod."""

    @property
    def host(self) -> Runs:
        """Where it runs."""


class Pinging:
    """Pings that run while its context lasts, whose end waits for some further answers of each.

    Args:
        nodes: the hosts by name.
        addresses: the overlay address of each, by name.
        pairs: who pings whom: unless given, every one all others.
        patience: seconds to wait for further answers in the end, where none may come.

    """

    def __init__(
        self,
        nodes: Mapping[str, OnHost],
        addresses: Mapping[str, str],
        pairs: Iterable[tuple[str, str]] | None = None,
        *,
        patience: float = _PATIENCE,
    ) -> None:
        self._pings: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        self._nodes = nodes
        self._addresses = addresses
        self._pairs = list(itertools.permutations(nodes, 2) if pairs is None else pairs)
        self.outages: dict[tuple[str, str], float] = {}
        """By (from, to), once stopped: the longest time without an answer, in seconds."""
        self.lost: dict[tuple[str, str], int] = {}
        """By (from, to), once stopped: how many were not answered."""
        self.counted: dict[tuple[str, str], int] = {}
        """By (from, to), once stopped: of how many."""
        self._patience = patience

    def __enter__(self) -> Self:
        # Files, since a pipe that nobody empties holds a ping up after a hundred seconds.
        self._directory = tempfile.TemporaryDirectory(prefix="wesher-pings-")
        for pair in self._pairs:
            source, target = pair
            with self._words(pair).open("wb") as words:
                self._pings[pair] = self._nodes[source].host.popen(
                    ["ping", "-n", "-i", str(_INTERVAL), self._addresses[target]],
                    stdin=subprocess.DEVNULL,
                    stdout=words,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._wait_for_more()
        for ping in self._pings.values():
            # So that it prints its summary.
            ping.send_signal(signal.SIGINT)
        for ping in self._pings.values():
            try:
                ping.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                ping.kill()
                ping.wait()
        said = {pair: self._words(pair).read_text() for pair in self._pings}
        self._directory.cleanup()
        self.outages = {pair: longest_outage(words) for pair, words in said.items()}
        self.lost = {pair: count_lost(words) for pair, words in said.items()}
        self.counted = {pair: _counted(words) for pair, words in said.items()}

    def lost_at(self, node: str) -> float:
        """Return the longest outage between a node and any other, in seconds."""
        return max(seconds for pair, seconds in self.outages.items() if node in pair)

    def _words(self, pair: tuple[str, str]) -> Path:
        return Path(self._directory.name, " to ".join(pair))

    def _wait_for_more(self) -> None:
        """Wait for each pair's further answers; that none come any more is for the counts to tell."""

        def answers(pair: tuple[str, str]) -> int:
            return len(_answered(self._words(pair).read_text()))

        wanted = {pair: answers(pair) + _ANSWERS_AFTER for pair in self._pings}
        deadline = time.monotonic() + self._patience
        for pair, count in wanted.items():
            while answers(pair) < count and self._pings[pair].poll() is None and time.monotonic() < deadline:
                time.sleep(_INTERVAL)


def count_lost(said: str) -> int:
    """Return how many pings of one that was ended by SIGINT were lost, the last few not counted."""
    return len(set(range(1, _counted(said) + 1)) - _answered(said))


def longest_outage(said: str) -> float:
    """Return for how long a ping that was ended by SIGINT went without an answer at most.

    In seconds, the last few not counted.
    """
    counted = _counted(said)
    marks = [0, *sorted(number for number in _answered(said) if number <= counted), counted + 1]
    missing = max(after - before - 1 for before, after in itertools.pairwise(marks))
    return missing * _INTERVAL


def _answered(said: str) -> set[int]:
    return {int(number) for number in _ANSWERED.findall(said)}


def _counted(said: str) -> int:
    sent = _SENT.search(said)
    if sent is None:
        raise ValueError(f"not the words of a ping that ended: {said[-500:]}")
    return max(0, int(sent[1]) - _ON_THE_WAY)
