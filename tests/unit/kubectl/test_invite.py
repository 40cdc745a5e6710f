"""What ``kubectl wesher invite`` checks and writes on the machine where it runs."""

from __future__ import annotations

import stat
from datetime import timedelta
from pathlib import Path

import pytest

from wesher_common.errors import InvalidSpec
from wesher_operator.kubectl.invite import new_file, parse_ttl


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1m", timedelta(minutes=1)),
        ("1h", timedelta(hours=1)),
        ("1h30m", timedelta(minutes=90)),
        ("90m", timedelta(minutes=90)),
        ("1d12h", timedelta(hours=36)),
        ("7d", timedelta(days=7)),
        ("168h", timedelta(days=7)),
    ],
)
def test_how_long_an_invite_is_valid(text: str, meant: timedelta) -> None:
    assert parse_ttl(text) == meant


@pytest.mark.parametrize(
    "text", ["", "0m", "59s", "8d", "7d1m", "169h", "1", "h", "-1h", "1h 30m", "9" * 99 + "m"]
)
def test_another_duration_is_refused(text: str) -> None:
    with pytest.raises(
        InvalidSpec, match=r"^--ttl .*: must be a duration from 1m to 7d, such as 1h30m or 2d$"
    ):
        parse_ttl(text)


def test_the_file_is_new_readable_by_its_owner_only_and_removed_if_the_machine_is_not_admitted(
    tmp_path: Path,
) -> None:
    file = tmp_path / "join"
    written = new_file(file, "text")
    written.__enter__()
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("text", 0o600)
    assert not written.__exit__(RuntimeError, RuntimeError("the API server refused it"), None)
    assert not file.exists()
    with new_file(file, "text"):
        pass
    assert file.read_text() == "text"


def test_a_file_that_is_there_stays_as_it_is_also_behind_a_link(tmp_path: Path) -> None:
    file, link = tmp_path / "mine", tmp_path / "link"
    file.write_text("mine")
    link.symlink_to(file)
    for path in (file, link):
        with pytest.raises(InvalidSpec, match="cannot be written: File exists"), new_file(path, "text"):
            pass
    assert file.read_text() == "mine"
