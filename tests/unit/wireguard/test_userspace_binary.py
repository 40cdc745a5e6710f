"""Which program is wireguard-go."""

from __future__ import annotations

from pathlib import Path

import pytest

from wesher_agent.netlink.errors import WireGuardUnavailable
from wesher_agent.wireguard import userspace_binary
from wesher_agent.wireguard.userspace_binary import find_userspace_binary
from wesher_common.errors import InvalidSpec


def program(path: Path, says: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


REAL = "wireguard-go v0.0.20250522\n\nUserspace WireGuard daemon for linux-amd64."


def test_the_name_that_go_install_gives_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = program(tmp_path / "wireguard", REAL)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_userspace_binary() == found


def test_another_tool_of_that_name_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "wireguard", "usage: wireguard up")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_userspace_binary() is None


def test_a_given_program_that_is_another_one_is_refused(tmp_path: Path) -> None:
    other = str(program(tmp_path / "other", "hello"))
    with pytest.raises(InvalidSpec, match=f"--userspace-binary '{other}': is not wireguard-go"):
        find_userspace_binary(other)


def test_a_given_program_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="program not found"):
        find_userspace_binary(str(tmp_path / "absent"))


def test_a_program_that_is_slow_to_say_what_it_is_is_not_called_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "wireguard-go"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(userspace_binary, "_VERSION_TIMEOUT", 0.1)
    with pytest.raises(WireGuardUnavailable, match="did not answer within 0 s"):
        find_userspace_binary(str(slow))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(WireGuardUnavailable, match="did not answer"):
        find_userspace_binary()
