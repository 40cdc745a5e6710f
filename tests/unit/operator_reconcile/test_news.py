"""The statement of a mesh and its news file."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest

from wesher_common.certificate import Authority, name_hash
from wesher_common.news import (
    MAX_NEWS_BYTES,
    MAX_REVOKED,
    NEWS_FILE,
    NewsKind,
    Statement,
    pack_news,
    sign_statement,
    unpack_news,
)
from wesher_operator.reconcile.facts import MemberFacts
from wesher_operator.reconcile.news import (
    SIGNED_AGAIN_MS,
    news_file,
    next_statement,
    published_items,
    reported_statement,
    statement_of,
)
from wesher_operator.reconcile.revocations import KEPT_SECONDS
from wesher_operator.resources.node import WesherNodeSpec, WesherNodeStatus

OURS, OTHERS = Authority(bytes(range(32))), Authority(bytes(range(1, 33)))
NOW = round(datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp() * 1000)
SECOND = NOW // 1000
DAY_MS = round(timedelta(days=1).total_seconds() * 1000)
A, B = name_hash("a"), name_hash("b")


def signed(number: int = NOW, authority: Authority = OURS, **items: int) -> Statement:
    return sign_statement(
        authority, number=number, revoked={name_hash(name): second for name, second in items.items()}
    )


def text(statement: Statement) -> str:
    return base64.b64encode(statement.packed()).decode()


def member(name: str, number: int, news: str) -> MemberFacts:
    """Return a WesherNode whose agent reports news."""
    spec: dict[str, Any] = {
        "meshRef": {"name": "demo", "uid": "u"},
        "nodeName": name,
        "overlayIP": "10.189.0.1",
    }
    return MemberFacts(
        name=f"demo.{name}",
        uid=name,
        deleting=False,
        owner_uid="u",
        label="demo",
        spec=WesherNodeSpec.model_validate(spec),
        address=ip_address("10.189.0.1"),
        status=WesherNodeStatus.model_validate({"newsNumber": number, "news": news}),
    )


def test_a_mesh_has_a_statement_from_the_beginning_and_a_later_one_for_each_change() -> None:
    first = next_statement(OURS, None, {}, now=NOW)
    assert (first.number, dict(first.revoked)) == (NOW, {})
    assert first.is_signed_by(OURS.key)
    assert next_statement(OURS, first, {}, now=NOW + 1) == first
    second = next_statement(OURS, first, {A: SECOND}, now=NOW + 1)
    assert (second.number, dict(second.revoked)) == (NOW + 1, {A: SECOND})
    third = next_statement(OURS, second, {A: SECOND + 9, B: SECOND}, now=NOW + 2)
    assert dict(third.revoked) == {A: SECOND + 9, B: SECOND}
    assert third.is_signed_by(OURS.key)


def test_what_a_former_statement_names_stays_though_nobody_asks_for_it() -> None:
    before = signed(a=SECOND)
    assert next_statement(OURS, before, {}, now=NOW + 1) == before
    assert dict(next_statement(OURS, before, {B: SECOND}, now=NOW + 1).revoked) == {A: SECOND, B: SECOND}
    assert dict(next_statement(OURS, before, {A: 1, B: SECOND}, now=NOW + 1).revoked)[A] == SECOND


def test_it_is_signed_daily_and_what_is_of_no_use_any_more_is_dropped_then() -> None:
    before = signed(a=SECOND - KEPT_SECONDS, b=SECOND)
    assert next_statement(OURS, before, {A: SECOND - KEPT_SECONDS}, now=NOW + SIGNED_AGAIN_MS - 1) == before
    after = next_statement(OURS, before, {A: SECOND - KEPT_SECONDS}, now=NOW + SIGNED_AGAIN_MS)
    assert after.number == NOW + DAY_MS
    assert dict(after.revoked) == {B: SECOND}


def test_numbers_rise_though_the_clock_goes_back() -> None:
    before = signed(NOW + 5)
    assert next_statement(OURS, before, {A: SECOND}, now=NOW).number == NOW + 6


def test_a_successor_that_was_named_stays_named() -> None:
    before = next_statement(OURS, signed(), {}, now=NOW + 1, successor=OTHERS.key)
    assert before.successor == OTHERS.key
    assert next_statement(OURS, before, {A: SECOND}, now=NOW + 2).successor == OTHERS.key


def test_of_too_many_names_the_oldest_are_left_out_and_the_statement_still_fits() -> None:
    many = {number.to_bytes(8): SECOND - 70000 + number for number in range(MAX_REVOKED + 10)}
    statement = next_statement(OURS, None, many, now=NOW)
    assert len(statement.revoked) == MAX_REVOKED
    assert (10).to_bytes(8) in statement.revoked
    assert (9).to_bytes(8) not in statement.revoked
    assert news_file([(NewsKind.STATEMENT, statement.packed())]).left_out == 0


def test_the_newest_verified_statement_that_agents_report_is_found() -> None:
    older, newer = signed(NOW + 1, a=1), signed(NOW + 2, a=2)
    reports = [member("a", older.number, text(older)), member("b", newer.number, text(newer))]
    assert reported_statement(OURS.key, reports, above=NOW, now=NOW) == newer
    assert reported_statement(OURS.key, reports, above=newer.number, now=NOW) is None
    assert reported_statement(OURS.key, [member("a", NOW + 1, "")], above=NOW, now=NOW) is None


@pytest.mark.parametrize(
    "lie",
    [
        member("liar", NOW + 9, text(signed(NOW + 9, OTHERS, a=9))),
        member("liar", NOW + 9, text(signed(NOW + 9))[:-8] + "AAAAAAA="),
        member("liar", NOW + 9, "AAAA"),
        member("liar", NOW + 9, "A"),
        member("liar", NOW + 9, text(signed(NOW + 5))),
        member("liar", NOW - 9, text(signed(NOW - 9, a=9))),
        member("liar", NOW + 2 * DAY_MS, text(signed(NOW + 2 * DAY_MS, a=9))),
    ],
    ids=["another-authority", "bad-signature", "truncated", "no-base64", "other-number", "older", "future"],
)
def test_a_lie_about_news_changes_nothing(lie: MemberFacts) -> None:
    honest = signed(NOW + 3, a=3)
    assert reported_statement(OURS.key, [lie], above=NOW, now=NOW) is None
    reports = [lie, member("b", honest.number, text(honest))]
    assert reported_statement(OURS.key, reports, above=NOW, now=NOW) == honest


def test_the_published_statement_is_read_back_and_a_damaged_file_has_none() -> None:
    statement, foreign = signed(a=1), signed(NOW + 9, OTHERS)
    packed = pack_news([(NewsKind.STATEMENT, each.packed()) for each in (foreign, statement)])
    binary_data = {NEWS_FILE: base64.b64encode(packed).decode()}
    found = published_items(binary_data, NEWS_FILE)
    assert statement_of(OURS.key, found) == statement
    assert statement_of(OTHERS.key, found) == foreign
    damaged = {NEWS_FILE: base64.b64encode(packed[:-1]).decode()}
    for data in ({}, {NEWS_FILE: "?"}, damaged):
        assert published_items(data, NEWS_FILE) == []


def test_a_file_that_is_full_keeps_the_statement_and_counts_what_it_leaves_out() -> None:
    statement = (NewsKind.STATEMENT, signed().packed())
    certificates = [(NewsKind.CERTIFICATE, bytes([number]) * 100_000) for number in range(10)]
    ring = (NewsKind.RING, bytes(200))
    full = news_file([*certificates, ring, statement])
    assert len(full.content) <= MAX_NEWS_BYTES
    kept = unpack_news(full.content)
    assert kept[:2] == [statement, ring]
    assert (len(kept), full.left_out) == (2 + 9, 1)
    assert news_file([]).content == b""


def test_a_large_configuration_leaves_less_room_for_news() -> None:
    """An API server refuses a ConfigMap of more than 1 MiB, with all that is in it."""
    certificates = [(NewsKind.CERTIFICATE, bytes(100_000))] * 10
    large = 300_000
    assert len(news_file(certificates, beside=large).content) + large < 1024 * 1024
    assert news_file(certificates, beside=large).left_out == 3
