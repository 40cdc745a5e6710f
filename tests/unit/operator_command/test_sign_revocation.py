"""``wesher-operator sign-revocation``: what it signs, and what it refuses in one line."""

from __future__ import annotations

import base64
import io
import stat
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest

from wesher_common.certificate import Authority, Refusal, Subject, Trust, name_hash
from wesher_common.errors import InvalidSpec
from wesher_common.keys import WireGuardPrivateKey
from wesher_common.news import NewsKind, Statement, pack_news, sign_statement, unpack_news
from wesher_operator.__main__ import main
from wesher_operator.sign_revocation import signed

OURS, OTHERS = Authority(bytes(range(32))), Authority(bytes(range(1, 33)))
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MS = round(NOW.timestamp() * 1000)
OLD = name_hash("old")
SEED = base64.b64encode(OURS.seed).decode()


def statement(number: int, authority: Authority = OURS) -> Statement:
    return sign_statement(authority, number=number, revoked={OLD: number // 1000 - 60}, successor=OTHERS.key)


def news(*statements: Statement) -> bytes:
    other = (NewsKind.CERTIFICATE, b"not looked at")
    return pack_news([other, *((NewsKind.STATEMENT, each.packed()) for each in statements)])


Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command on files in a folder; return its line."""

    def begin(*, seed: str = SEED, content: bytes = b"", names: str = "web1", code: int = 0) -> str:
        (tmp_path / "seed").write_text(seed + "\n")
        content = content or news(statement(round(datetime.now(UTC).timestamp() * 1000) - 1000))
        (tmp_path / "news").write_bytes(content)
        files = [f"--seed-file={tmp_path / 'seed'}", f"--news-file={tmp_path / 'news'}"]
        with pytest.raises(SystemExit) as ended:
            main(["sign-revocation", *files, f"--names={names}", f"--output={tmp_path / 'out'}"])
        assert ended.value.code == code
        said = capsys.readouterr()
        (line,) = (said.err if code else said.out).splitlines()
        assert SEED not in line
        return line

    return begin


def written(folder: Path) -> Statement:
    ((kind, data),) = unpack_news((folder / "out").read_bytes())
    assert kind is NewsKind.STATEMENT
    return Statement.unpacked(data)


def test_what_it_signs_makes_the_certificates_of_the_names_void(run: Run, tmp_path: Path) -> None:
    assert "wesher news add out" in run(names="web1, web2.west")
    made = written(tmp_path)
    assert made.is_signed_by(OURS.key)
    assert set(made.revoked) == {OLD, name_hash("web1"), name_hash("web2.west")}
    assert made.successor == OTHERS.key
    key = WireGuardPrivateKey.from_random(bytes(range(32))).public
    subject = Subject(name="web1", public_key=key, address=ip_address("10.189.0.1"))
    certificate = OURS.issue(subject, serial=made.number)
    trust = Trust(key=OURS.key, newest=made.number, revoked=made.revoked_ms)
    assert trust.refusal(certificate, subject, clock=made.number) is Refusal.REVOKED
    after = OURS.issue(subject, serial=made.revoked_ms[name_hash("web1")] + 1)
    assert trust.refusal(after, subject, clock=made.number) is None


def test_the_seed_may_come_by_standard_input_and_the_news_as_kubectl_prints_them(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = round(datetime.now(UTC).timestamp() * 1000)
    (tmp_path / "news").write_bytes(base64.b64encode(news(statement(now, OTHERS), statement(now))) + b"\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{SEED}\n".encode())))
    output = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *("sign-revocation", "--seed-file=-", f"--news-file={tmp_path / 'news'}"),
                *("--names=web1", f"--output={output}"),
            ]
        )
    assert ended.value.code == 0
    assert capsys.readouterr().err == ""
    assert written(tmp_path).number >= now
    assert stat.S_IMODE(output.stat().st_mode) & 0o400


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"seed": ""}, "--seed-file: "),
        ({"seed": "AAAA"}, "must be 32 bytes in base64, as the entry seed of the Secret <mesh>-authority"),
        ({"seed": "no base64 at all, though it has as many"}, "must be 32 bytes in base64"),
        ({"seed": base64.b64encode(OTHERS.seed).decode()}, "use the news file and the seed of one mesh"),
        ({"content": b"nonsense"}, "is not the news file of a mesh"),
        ({"content": b"\x01\x00\x00\x00\x01\x00"}, "has no statement of the authority"),
        ({"content": news(statement(MS * 2))}, "the clock is before the last statement in this file"),
        ({"content": news(statement(1_700_000_000_000))}, "days old: set the clock, or use a newer copy"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line_and_nothing_is_written(
    run: Run, tmp_path: Path, given: dict[str, object], says: str
) -> None:
    assert says in run(**given, code=2)
    assert not (tmp_path / "out").exists()


def test_no_file_is_overwritten(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    assert "--output" in run(code=2)
    assert (tmp_path / "out").read_text() == "mine"


def test_the_number_rises_and_a_wrong_clock_is_not_signed() -> None:
    """Members take the time of the authority from it: one of a wrong clock would end every certificate."""
    before = statement(MS)
    assert signed(OURS, before, ["a"], now=NOW + timedelta(hours=1)).number == MS + 3_600_000
    assert signed(OURS, before, ["a"], now=NOW - timedelta(minutes=2)).number == MS + 1
    for error in (timedelta(hours=-1), timedelta(days=91)):
        with pytest.raises(InvalidSpec, match="clock"):
            signed(OURS, before, ["a"], now=NOW + error)
