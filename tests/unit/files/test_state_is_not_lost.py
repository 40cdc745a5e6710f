"""What a machine cannot get back: its mesh's key, whatever became of the file that has it."""

from __future__ import annotations

import json
import os
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from wesher_agent.files.atomic import CannotWrite
from wesher_agent.files.state import KEPT_ASIDE, MAX_BYTES, StateFile
from wesher_agent.files.state_format import render_state
from wesher_agent.mesh.saved_state import SavedState
from wesher_common.errors import InvalidSpec
from wesher_common.keys import ClusterKey, KeyRing, WireGuardPrivateKey

RING = KeyRing(ClusterKey(b"k" * 32))
STATE = SavedState(key_ring=RING, private_key=WireGuardPrivateKey.from_random(b"p" * 32), name="a")
DAMAGED = [b"", b"\n", b"\0" * 512, b"\xff\xfe\0", render_state(STATE).encode()[:-200], b"[]", b"{}"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the state file is, alone in its directory."""
    directory = tmp_path / "wesher"
    directory.mkdir()
    return directory / "wg0.json"


def file_at(path: Path) -> StateFile:
    return StateFile(path, gossip_port=7946)


def saved_twice(path: Path) -> StateFile:
    file = file_at(path)
    file.save(STATE)
    file.save(replace(STATE, incarnation=7))
    return file


def names(path: Path) -> set[str]:
    return {entry.name.removeprefix(path.name) for entry in path.parent.iterdir()} - {""}


def test_the_generation_before_the_last_is_kept_and_closed_to_others(path: Path) -> None:
    saved_twice(path)
    previous = path.with_name("wg0.json.previous")
    assert json.loads(previous.read_text())["Incarnation"] == 0
    assert json.loads(path.read_text())["Incarnation"] == 7
    assert stat.S_IMODE(previous.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_replaced_by_its_previous_generation_with_one_warning(
    path: Path, content: bytes
) -> None:
    saved_twice(path)
    path.write_bytes(content)
    file = file_at(path)
    loaded = file.load()
    assert (loaded.state, loaded.problem) == (STATE, "")
    (warning,) = loaded.warnings
    assert warning.startswith(f"{path} ")
    assert warning.endswith(f": using the previous state, {path}.previous")
    file.save(loaded.state)
    assert file_at(path).load().state == STATE
    if content != b"{}":
        assert path.with_name("wg0.json.corrupt-1").read_bytes() == content


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
@pytest.mark.parametrize("previous", [None, b"", b"{}", b"\0"])
def test_without_a_good_generation_the_problem_is_named_and_the_file_stays(
    path: Path, content: bytes, previous: bytes | None
) -> None:
    path.write_bytes(content)
    if previous is not None:
        path.with_name("wg0.json.previous").write_bytes(previous)
    loaded = file_at(path).load()
    assert loaded.problem
    assert loaded.path == path
    assert path.read_bytes() == content


def test_a_file_that_was_removed_is_not_replaced_by_its_previous_generation(path: Path) -> None:
    """Who removes the file wants other keys."""
    saved_twice(path)
    path.unlink()
    loaded = file_at(path).load()
    assert (loaded.state, loaded.problem) == (SavedState(), "")
    assert loaded.warnings == (
        f"{path} is missing: to restore the previous state, rename {path}.previous to it",
    )


def test_a_damaged_file_does_not_lead_back_into_a_mesh_that_was_left(path: Path) -> None:
    file = saved_twice(path)
    file.save(replace(STATE, key_ring=KeyRing(ClusterKey(b"n" * 32))))
    assert names(path) == set()


def test_a_ring_that_was_rotated_keeps_its_previous_generation(path: Path) -> None:
    file = saved_twice(path)
    file.save(replace(STATE, key_ring=KeyRing(ClusterKey(b"n" * 32), (RING.primary,))))
    assert names(path) == {".previous"}


def test_a_state_of_another_mesh_that_appears_later_is_left_there(path: Path) -> None:
    """Its file system was mounted after the agent had started: the next start finds its mesh."""
    file = file_at(path)
    file.load()
    file.save(STATE)
    other = render_state(replace(STATE, key_ring=KeyRing(ClusterKey(b"o" * 32)))).encode()
    path.unlink()
    path.write_bytes(other)
    for _ in range(2):
        with pytest.raises(CannotWrite, match="a state file with another cluster key"):
            file.save(STATE)
    assert path.read_bytes() == other
    with pytest.raises(CannotWrite, match="another program has changed it"):
        file.remove()
    path.unlink()
    file.save(STATE)
    assert file_at(path).load().state == STATE


@pytest.mark.parametrize(
    "content", [b"by hand", render_state(replace(STATE, name="other")).encode()], ids=["no state", "same key"]
)
@pytest.mark.parametrize("loaded", [True, False])
def test_what_another_program_wrote_is_set_aside_before_it_is_replaced(
    path: Path, content: bytes, *, loaded: bool
) -> None:
    file = file_at(path)
    if loaded:
        file.load()
    else:
        file.save(STATE)
    path.write_bytes(content)
    file.save(STATE)
    assert path.with_name("wg0.json.corrupt-1").read_bytes() == content
    assert file_at(path).load().state == STATE


def test_of_the_copies_set_aside_the_oldest_and_the_newest_stay(path: Path) -> None:
    for number in range(20):
        path.write_text(f"broken {number}")
        file_at(path).load()
    kept = sorted(path.parent.glob("*.corrupt-*"), key=lambda copy: int(copy.suffix.rpartition("-")[2]))
    assert len(kept) == KEPT_ASIDE
    assert [copy.read_text() for copy in kept] == [f"broken {number}" for number in (0, 16, 17, 18, 19)]


def make(path: Path, kind: str) -> None:
    match kind:
        case "a FIFO":
            os.mkfifo(path)
        case "a directory":
            path.mkdir()
        case "a device":
            path.symlink_to("/dev/zero")
        case "a socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
        case "a loop":
            path.symlink_to(path)
        case "too large":
            with path.open("wb") as file:
                file.truncate(MAX_BYTES + 1)


WRONG_KINDS = {
    "a FIFO": "is a FIFO, not a regular file",
    "a directory": "is a directory, not a regular file",
    "a device": "is a device, not a regular file",
    "a socket": "is a socket, not a regular file",
    "a loop": "cannot be read: Too many levels of symbolic links",
    "too large": f"is larger than {MAX_BYTES} bytes",
}


@pytest.mark.parametrize("kind", WRONG_KINDS)
def test_what_is_not_a_regular_file_is_refused_at_once(path: Path, kind: str) -> None:
    make(path, kind)
    with pytest.raises(InvalidSpec) as error:
        file_at(path).load()
    why = f"{WRONG_KINDS[kind]}: move it away, or choose another --state-dir"
    assert str(error.value) == f"state file '{path}': {why}"
    assert path.is_symlink() or path.exists()


@pytest.mark.parametrize("kind", WRONG_KINDS)
def test_what_is_not_a_regular_file_is_not_replaced_and_does_not_block_a_save(path: Path, kind: str) -> None:
    file = file_at(path)
    file.load()
    make(path, kind)
    with pytest.raises(CannotWrite, match="the current file "):
        file.save(STATE)
    assert path.is_symlink() or path.exists()


@pytest.mark.parametrize("kind", WRONG_KINDS)
def test_a_previous_generation_that_is_not_a_regular_file_helps_nothing_and_blocks_nothing(
    path: Path, kind: str
) -> None:
    path.write_bytes(b"")
    make(path.with_name("wg0.json.previous"), kind)
    assert file_at(path).load().problem == "is empty"


@pytest.mark.needs_root
def test_a_file_of_another_owner_becomes_ours_before_it_is_used(path: Path) -> None:
    saved_twice(path)
    previous = path.with_name("wg0.json.previous")
    for each in (path, previous):
        os.chown(each, 65534, 65534)
        each.chmod(0o644)
    path.write_bytes(b"")
    file = file_at(path)
    file.save(file.load().state)
    for each in (path, previous):
        status = each.stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.geteuid(), 0o600)
