"""The news file of a mesh: what its authority says beside certificates.

Pure. The news file is published beside mesh.json. Its first item is the statement of each authority, which
names the revoked certificates (`revocations` decides which these are). Others pass in the certificates of
machines outside Kubernetes, and the key rings sealed to single machines.

A statement's number never falls, also where an operator was restored from a backup: agents report the
statement that they have while it is newer than the published one, and it is taken over once its signature
was verified. What an agent reports without that signature changes nothing.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from wesher_common.certificate import EARLY_MS, Authority, AuthorityKey
from wesher_common.errors import PeerMisbehaved
from wesher_common.news import (
    MAX_NEWS_BYTES,
    MAX_REVOKED,
    NewsKind,
    Statement,
    pack_news,
    sign_statement,
    unpack_news,
)
from wesher_operator.reconcile.facts import MemberFacts
from wesher_operator.reconcile.revocations import without_old

SIGNED_AGAIN_MS = 24 * 3_600_000
"""A statement is signed daily, also without a change: its number tells agents the authority's time."""
Item = tuple[NewsKind, bytes]
_MAX_CONFIG_MAP_BYTES = 1024 * 1024
_ITEM_HEAD = 5
"""Bytes before an item in the file."""
_ORDER = (NewsKind.STATEMENT, NewsKind.RING, NewsKind.CERTIFICATE)
"""What is kept first where not everything fits: an agent asks for its certificate again."""


@dataclass(frozen=True, slots=True)
class NewsFile:
    """The content of the news file."""

    content: bytes
    left_out: int = 0
    """How many items did not fit."""


def published_items(binary_data: Mapping[str, str], file_name: str) -> list[Item]:
    """Return the items of a news file as a ConfigMap has it; none of one that cannot be read."""
    try:
        return unpack_news(base64.b64decode(binary_data.get(file_name, ""), validate=True))
    except (PeerMisbehaved, ValueError, binascii.Error):
        return []


def statement_of(key: AuthorityKey, items: Iterable[Item]) -> Statement | None:
    """Return the newest statement of an authority among items."""
    found = [_verified(key, data) for kind, data in items if kind is NewsKind.STATEMENT]
    return max((each for each in found if each is not None), key=lambda each: each.number, default=None)


def reported_statement(
    key: AuthorityKey, members: Iterable[MemberFacts], *, above: int, now: int
) -> Statement | None:
    """Return the newest statement of an authority that agents report and the operator has not published.

    Args:
        key: of the authority.
        members: the mesh's WesherNodes.
        above: number of the published statement; 0 for none.
        now: Unix time in milliseconds. What was signed more than a day after it came from a wrong clock.

    """
    texts = {
        (member.status.news_number, member.status.news)
        for member in members
        if member.status.news and above < member.status.news_number <= now + EARLY_MS
    }
    # The highest first, so that each forged one costs one check and no more.
    for number, text in sorted(texts, reverse=True):
        statement = _reported(key, text)
        if statement is not None and above < statement.number == number:
            return statement
    return None


def next_statement(
    authority: Authority,
    before: Statement | None,
    items: Mapping[bytes, int],
    *,
    now: int,
    successor: AuthorityKey | None = None,
) -> Statement:
    """Return the statement to publish: the one before if it says everything, or a newly signed one.

    Args:
        authority: whose.
        before: its newest statement.
        items: name hashes with the second up to which their certificates are void.
        now: Unix time in milliseconds.
        successor: the authority that replaces this one; None keeps the one that was named before.

    """
    known: Mapping[bytes, int] = before.revoked if before is not None else {}
    successor = successor or (before.successor if before is not None else None)
    if (
        before is not None
        and not is_due(before, now)
        and before.successor == successor
        and all(known.get(name, -1) >= second for name, second in without_old(items, now // 1000).items())
    ):
        return before
    union = {name: max(second, items.get(name, 0)) for name, second in known.items()}
    union |= {name: second for name, second in items.items() if name not in union}
    kept = sorted(without_old(union, now // 1000).items(), key=lambda entry: entry[1])[-MAX_REVOKED:]
    number = max(now, before.number + 1 if before is not None else 0)
    return sign_statement(authority, number=number, revoked=dict(kept), successor=successor)


def is_due(statement: Statement, now: int) -> bool:
    """Tell whether a statement is to be signed again, by its age alone."""
    return now >= statement.number + SIGNED_AGAIN_MS


def news_file(items: Sequence[Item], *, beside: int = 0) -> NewsFile:
    """Return the file, cut to what a ConfigMap takes.

    Args:
        items: in any order.
        beside: bytes that mesh.json takes of the same ConfigMap.

    """
    kept: list[Item] = []
    room = min(MAX_NEWS_BYTES, _MAX_CONFIG_MAP_BYTES - beside)
    for kind, data in sorted(items, key=lambda item: _ORDER.index(item[0])):
        size = _ITEM_HEAD + len(data)
        if size <= room:
            kept.append((kind, data))
            room -= size
    return NewsFile(pack_news(kept), len(items) - len(kept))


def _reported(key: AuthorityKey, text: str) -> Statement | None:
    try:
        return _verified(key, base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error):
        return None


# A thousand agents report the same one, and it is looked at in each run.
@lru_cache(maxsize=8)
def _verified(key: AuthorityKey, data: bytes) -> Statement | None:
    try:
        return Statement.verified(data, key)
    except PeerMisbehaved:
        return None
