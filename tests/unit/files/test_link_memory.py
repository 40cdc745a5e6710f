"""What links were like before an agent changed them, as it is kept on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from wesher_agent.files.atomic import CannotWrite
from wesher_agent.files.link_memory import LinkMemory
from wesher_agent.runtime.cleanup import interfaces_with_state


def test_what_is_remembered_is_there_for_the_next_run_and_ends_with_the_last_link(tmp_path: Path) -> None:
    LinkMemory(tmp_path, "wgoverlay").save({"eth0": 1, "eth1": 0})
    again = LinkMemory(tmp_path, "wgoverlay")
    assert again.load() == {"eth0": 1, "eth1": 0}
    assert LinkMemory(tmp_path, "wgother").load() == {}
    again.save({})
    assert list(tmp_path.iterdir()) == []
    again.save({})


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"pathFilters": 1}', b"\xff", b'{"pathFilters": {"a": 9, "b": "1", "c": -1}}'],
)
def test_a_damaged_file_remembers_nothing(content: bytes, tmp_path: Path) -> None:
    memory = LinkMemory(tmp_path, "wgoverlay")
    memory.path.write_bytes(content)
    assert memory.load() == {}


def test_it_is_not_taken_for_a_state_file(tmp_path: Path) -> None:
    LinkMemory(tmp_path, "wgoverlay").save({"eth0": 1})
    assert interfaces_with_state(tmp_path) == []


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match=r"wgoverlay\.links could not be written"):
        LinkMemory(tmp_path / "none", "wgoverlay").save({"eth0": 1})
