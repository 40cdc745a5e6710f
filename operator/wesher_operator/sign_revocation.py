"""The command ``sign-revocation``: signs that certificates are void while the API server is away.

It needs the authority's key, from a backup of the Secret ``<mesh>-authority``, and a copy of the mesh's
news file: members take a statement only if its number is higher than that of the one they have.
"""

from __future__ import annotations

import base64
import binascii
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from wesher_common.certificate import MAX_HOURS, SKEW_MS, Authority, name_hash
from wesher_common.errors import InvalidSpec, PeerMisbehaved
from wesher_common.news import (
    MAX_NEWS_BYTES,
    NewsKind,
    Statement,
    pack_news,
    revocation_second,
    sign_statement,
    unpack_news,
)

STDIN = "-"
_MAX_SEED_TEXT = 128
_LONGEST = timedelta(hours=MAX_HOURS)


def sign_revocation(seed_file: str, news_file: str, names: Sequence[str], output: str) -> str:
    """Sign a statement into a new file and return what to do with it.

    Args:
        seed_file: with the authority's seed in base64; ``-`` is standard input.
        news_file: a copy of the mesh's news file.
        names: of the members.
        output: the file to make.

    Raises:
        InvalidSpec: a file cannot be used, or the clock is wrong.

    """
    authority = _read_seed(seed_file)
    before = _read_statement(news_file, authority)
    statement = signed(authority, before, names, now=datetime.now(UTC))
    _write(output, pack_news([(NewsKind.STATEMENT, statement.packed())]))
    moment = _moment(statement.number).strftime("%Y-%m-%d %H:%M:%S UTC")
    return (
        f"{output}: signed at {moment}; revokes {', '.join(names)}, and what was revoked before. "
        f"Copy it to a member and run there: wesher news add {Path(output).name}"
    )


def signed(authority: Authority, before: Statement, names: Sequence[str], *, now: datetime) -> Statement:
    """Return the statement.

    Args:
        authority: signs it.
        before: the mesh's newest statement that is known here.
        names: of the members whose certificates are void from now on.
        now: the time.

    Raises:
        InvalidSpec: the clock is wrong: members would take each certificate for expired.

    """
    moment, age = round(now.timestamp() * 1000), now - _moment(before.number)
    if moment < before.number - SKEW_MS:
        rule = "the clock is before the last statement in this file: set the clock"
        raise InvalidSpec("--news-file", rule, value=_moment(before.number))
    if age > _LONGEST:
        rule = f"the last statement in this file is {age.days} days old: set the clock, or use a newer copy"
        raise InvalidSpec("--news-file", rule)
    number = max(moment, before.number + 1)
    second = revocation_second(number)
    revoked = {**before.revoked, **{name_hash(name): second for name in names}}
    return sign_statement(authority, number=number, revoked=revoked, successor=before.successor)


def _read_seed(name: str) -> Authority:
    where = "standard input" if name == STDIN else name
    content = sys.stdin.buffer.read(_MAX_SEED_TEXT) if name == STDIN else _read("--seed-file", name)
    try:
        return Authority(base64.b64decode(content.strip(), validate=True))
    except (binascii.Error, InvalidSpec) as error:
        # The value is a secret.
        rule = "must be 32 bytes in base64, as the entry seed of the Secret <mesh>-authority has them"
        raise InvalidSpec("--seed-file", f"{where}: {rule}") from error


def _read_statement(name: str, authority: Authority) -> Statement:
    content = _read("--news-file", name)
    found = [_unpacked(data) for kind, data in _items(name, content) if kind is NewsKind.STATEMENT]
    ours = [each for each in found if each is not None and each.is_signed_by(authority.key)]
    if not ours:
        rule = (
            f"has no statement of the authority {authority.key}, to which the seed belongs: "
            "use the news file and the seed of one mesh"
        )
        raise InvalidSpec("--news-file", rule, value=name)
    return max(ours, key=lambda each: each.number)


def _items(name: str, content: bytes) -> list[tuple[NewsKind, bytes]]:
    try:
        try:
            return unpack_news(content)
        except PeerMisbehaved:
            # As kubectl prints it.
            return unpack_news(base64.b64decode(content.strip(), validate=True))
    except (PeerMisbehaved, binascii.Error) as error:
        raise InvalidSpec("--news-file", "is not the news file of a mesh", value=name) from error


def _unpacked(data: bytes) -> Statement | None:
    try:
        return Statement.unpacked(data)
    except PeerMisbehaved:
        return None


def _read(flag: str, name: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            return file.read(2 * MAX_NEWS_BYTES)
    except OSError as error:
        raise InvalidSpec(flag, f"cannot be read: {error.strerror}", value=name) from error


def _write(name: str, content: bytes) -> None:
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError as error:
        raise InvalidSpec("--output", f"cannot be created: {error.strerror}", value=name) from error


def _moment(number: int) -> datetime:
    return datetime.fromtimestamp(number / 1000, UTC)
