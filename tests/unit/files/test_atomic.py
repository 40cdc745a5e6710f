"""Replacing files: whole or not at all, on real file systems."""

import os
from pathlib import Path

import pytest

from wesher_agent.files.atomic import CannotWrite, replace_file, update_file
from wesher_testing.lab.mount_namespace import run_with_own_mounts


def leftovers(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir() if entry.name.endswith(".tmp")]


def test_a_new_file_gets_the_mode_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    replace_file(path, b"new", mode=0o600)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o600)
    assert leftovers(tmp_path) == []


def test_an_old_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(b"old")
    path.chmod(0o640)
    replace_file(path, b"new", mode=0o600)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o640)


@pytest.mark.needs_root
def test_an_old_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(b"old")
    os.chown(path, 12, 34)
    replace_file(path, b"new")
    assert (path.read_bytes(), path.stat().st_uid, path.stat().st_gid) == (b"new", 12, 34)


@pytest.mark.needs_root
def test_an_old_file_keeps_its_selinux_label(tmp_path: Path) -> None:
    script = """
        import os
        from wesher_agent.files.atomic import replace_file
        mount("-t", "tmpfs", "tmpfs", "/mnt")
        path = Path("/mnt/hosts")
        path.write_bytes(b"old")
        os.setxattr(path, "security.selinux", b"system_u:object_r:net_conf_t:s0")
        replace_file(path, b"new")
        print(path.read_text(), os.getxattr(path, "security.selinux").decode())
    """
    assert run_with_own_mounts(script, tmp_path) == "new system_u:object_r:net_conf_t:s0\n"


def test_a_reader_who_opened_the_old_file_reads_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        replace_file(path, b"new and longer")
        assert reader.read() == b"old"


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "hosts"
    target.parent.mkdir()
    target.write_bytes(b"old")
    link = tmp_path / "hosts"
    link.symlink_to("elsewhere/hosts")
    replace_file(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert leftovers(tmp_path) + leftovers(target.parent) == []


def test_what_a_killed_writer_left_behind_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    (tmp_path / ".hosts.wesher.tmp").write_bytes(b"half")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert leftovers(tmp_path) == []


def test_a_link_put_in_place_of_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / ".hosts.wesher.tmp").symlink_to(victim)
    replace_file(tmp_path / "hosts", b"new")
    assert victim.read_bytes() == b"mine"


def test_a_directory_that_is_missing_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "hosts"
    with pytest.raises(CannotWrite) as problem:
        replace_file(path, b"new")
    assert str(problem.value) == f"{path} could not be written: No such file or directory"


def test_an_update_that_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(b"same")
    before = path.stat()
    assert not update_file(path, lambda old: old, tag="x")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_update_never_creates_a_file(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="No such file"):
        update_file(tmp_path / "hosts", lambda old: old + b"x", tag="x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["a FIFO", "a directory", "a device"])
def test_what_is_not_a_regular_file_is_not_updated_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "hosts"
    match kind:
        case "a FIFO":
            os.mkfifo(path)
        case "a directory":
            path.mkdir()
        case _:
            path.symlink_to("/dev/zero")
    with pytest.raises(CannotWrite, match=f"it is {kind}, not a regular file"):
        update_file(path, lambda old: old + b"x", tag="t")
    assert path.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["hosts"]


def test_an_update_is_made_again_on_what_a_faster_writer_wrote(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(b"one\n")
    seen = []

    def change(old: bytes) -> bytes:
        seen.append(old)
        if len(seen) == 1:
            path.write_bytes(b"one\ntheirs\n")
        return old + b"ours\n"

    assert update_file(path, change, tag="x")
    assert path.read_bytes() == b"one\ntheirs\nours\n"
    assert seen == [b"one\n", b"one\ntheirs\n"]


def test_an_update_gives_up_when_others_write_all_the_time(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(b"")

    def change(old: bytes) -> bytes:
        path.write_bytes(old + b"theirs\n")
        return old + b"ours\n"

    with pytest.raises(CannotWrite, match="another program keeps changing it"):
        update_file(path, change, tag="x")
    assert b"ours" not in path.read_bytes()
    assert leftovers(tmp_path) == []


@pytest.mark.needs_root
def test_a_file_that_is_a_mount_is_rewritten_in_place(tmp_path: Path) -> None:
    """So a container sees the host's hosts file when only that file is mounted."""
    script = """
        from wesher_agent.files.atomic import replace_file, update_file
        Path("real").write_bytes(b"old and longer")
        Path("hosts").touch()
        mount("--bind", "real", "hosts")
        replace_file(Path("hosts"), b"new")
        print(Path("real").read_text())
        update_file(Path("hosts"), lambda old: old + b" and longer still", tag="x")
        print(Path("real").read_text(), sorted(path.name for path in Path().iterdir()))
    """
    assert run_with_own_mounts(script, tmp_path) == "new\nnew and longer still ['hosts', 'real']\n"


@pytest.mark.needs_root
def test_a_writable_file_in_a_read_only_directory_is_rewritten_in_place(tmp_path: Path) -> None:
    script = """
        from wesher_agent.files.atomic import replace_file
        Path("real").write_bytes(b"old")
        Path("etc").mkdir()
        Path("etc/hosts").touch()
        mount("--bind", "etc", "etc")
        mount("--bind", "real", "etc/hosts")
        mount("-o", "remount,bind,ro", "etc")
        replace_file(Path("etc/hosts"), b"new")
        print(Path("real").read_text())
    """
    assert run_with_own_mounts(script, tmp_path) == "new\n"


@pytest.mark.needs_root
def test_a_read_only_file_system_is_said_in_one_line(tmp_path: Path) -> None:
    script = """
        from wesher_agent.files.atomic import CannotWrite, replace_file, update_file
        Path("etc").mkdir()
        Path("etc/hosts").write_bytes(b"old")
        mount("--bind", "etc", "etc")
        mount("-o", "remount,bind,ro", "etc")
        for attempt in (lambda: replace_file(Path("etc/hosts"), b"new"),
                        lambda: update_file(Path("etc/hosts"), bytes.upper, tag="x")):
            try:
                attempt()
            except CannotWrite as error:
                print(error)
        print(Path("etc/hosts").read_text())
    """
    line = f"{tmp_path}/etc/hosts could not be written: Read-only file system\n"
    assert run_with_own_mounts(script, tmp_path) == line * 2 + "old\n"


@pytest.mark.needs_root
def test_a_full_disk_leaves_the_old_content(tmp_path: Path) -> None:
    script = """
        import os
        from wesher_agent.files.atomic import CannotWrite, replace_file
        Path("disk").mkdir()
        mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", "disk")
        Path("disk/state").write_bytes(b"old")
        Path("disk/mounted").write_bytes(b"old")
        Path("disk/hosts").touch()
        mount("--bind", "disk/mounted", "disk/hosts")
        for name in ("state", "hosts"):
            try:
                replace_file(Path("disk", name), bytes(200_000))
            except CannotWrite as error:
                print(error)
            print(Path("disk", name).read_text())
        print(sorted(path.name for path in Path("disk").iterdir()))
    """
    full = "could not be written: No space left on device"
    assert run_with_own_mounts(script, tmp_path).splitlines() == [
        f"{tmp_path}/disk/state {full}",
        "old",
        f"{tmp_path}/disk/hosts {full}",
        "old",
        "['hosts', 'mounted', 'state']",
    ]


@pytest.mark.needs_root
def test_a_full_disk_under_a_mounted_file_leaves_its_content(tmp_path: Path) -> None:
    """Rewriting in place has destroyed the beginning by the time the disk is full."""
    script = """
        from wesher_agent.files.atomic import CannotWrite, replace_file
        mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", "/mnt")
        Path("/mnt/real").write_bytes(b"old")
        Path("hosts").touch()
        mount("--bind", "/mnt/real", "hosts")
        try:
            replace_file(Path("hosts"), b"new" * 70_000)
        except CannotWrite as error:
            print(error)
        print(Path("/mnt/real").read_text())
    """
    line = f"{tmp_path}/hosts could not be written: No space left on device\n"
    assert run_with_own_mounts(script, tmp_path) == line + "old\n"


@pytest.mark.needs_root
def test_without_rights_to_the_directory_a_writable_file_is_rewritten_in_place(tmp_path: Path) -> None:
    script = """
        import os
        from wesher_agent.files.atomic import CannotWrite, replace_file
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/mnt")
        hosts, other = Path("/mnt/hosts"), Path("/mnt/other")
        hosts.write_bytes(b"old")
        other.write_bytes(b"old")
        os.chown(hosts, 1234, 1234)
        os.setgid(1234)
        os.setuid(1234)
        replace_file(hosts, b"new")
        print(hosts.read_text())
        try:
            replace_file(other, b"new")
        except CannotWrite as error:
            print(error)
    """
    expected = "new\n/mnt/other could not be written: Permission denied\n"
    assert run_with_own_mounts(script, tmp_path) == expected
