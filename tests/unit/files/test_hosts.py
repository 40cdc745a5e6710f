"""Our lines in the hosts file, and everybody else's."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from wesher_agent.files.atomic import CannotWrite
from wesher_agent.files.hosts import HostsFile, render_hosts
from wesher_agent.mesh.desired import HostEntry
from wesher_testing.lab.mount_namespace import run_with_own_mounts

BANNER = b"# ! managed automatically by wesher interface wgoverlay"
FOREIGN = b"127.0.0.1\tlocalhost\n\n# a comment\n::1  ip6-localhost   # not ours\n"


def entry(address: str, name: str) -> HostEntry:
    return HostEntry(ip_address(address), name)


def line(address: str, name: str) -> bytes:
    return f"{address}\t{name}\t".encode() + BANNER + b"\n"


def render(old: bytes, *entries: HostEntry) -> bytes:
    return render_hosts(old, entries, "wgoverlay")


def test_new_lines_are_appended_in_gos_format() -> None:
    assert render(FOREIGN, entry("10.0.0.2", "b"), entry("2001:db8::3", "c")) == FOREIGN + (
        b"10.0.0.2\tb\t# ! managed automatically by wesher interface wgoverlay\n"
        b"2001:db8::3\tc\t# ! managed automatically by wesher interface wgoverlay\n"
    )


def test_a_line_that_still_holds_stays_where_it_is() -> None:
    old = line("10.0.0.2", "b") + FOREIGN + line("10.0.0.3", "c")
    assert render(old, entry("10.0.0.3", "c"), entry("10.0.0.2", "b")) == old


def test_an_address_with_a_new_name_is_rewritten_in_place() -> None:
    old = line("10.0.0.2", "b") + FOREIGN
    assert render(old, entry("10.0.0.2", "renamed")) == line("10.0.0.2", "renamed") + FOREIGN


def test_who_is_gone_loses_its_line_and_only_that() -> None:
    old = FOREIGN + line("10.0.0.2", "b") + line("10.0.0.3", "c") + b"192.0.2.1 last\n"
    assert render(old, entry("10.0.0.3", "c")) == FOREIGN + line("10.0.0.3", "c") + b"192.0.2.1 last\n"
    assert render(old) == FOREIGN + b"192.0.2.1 last\n"


def test_a_line_that_stands_twice_is_kept_once() -> None:
    assert render(line("10.0.0.2", "b") * 2, entry("10.0.0.2", "b")) == line("10.0.0.2", "b")


@pytest.mark.parametrize(
    "foreign",
    [
        FOREIGN.replace(b"\n", b"\r\n"),
        b"# caf\xe9 in latin-1\n",
        b"10.0.0.9\tx\t# " + b"long" * 20000 + b"\n",
        b"10.0.0.2\tb\t# ! managed automatically by wesher interface wgoverlay2\n",
        b"10.0.0.2\tb\t# ! managed automatically by wesher interface wg\n",
        b"10.0.0.2\tb\t# ! managed automatically by wesher interface wgoverlay - not\n",
        b"\n\n\n",
        b"",
        b"odd\rreturn\n",
    ],
)
def test_foreign_lines_stay_byte_for_byte(foreign: bytes) -> None:
    with_ours = render(foreign, entry("10.0.0.2", "b"))
    assert with_ours == foreign + line("10.0.0.2", "b")
    assert render(with_ours) == foreign


def test_a_last_line_without_end_gets_one_only_when_something_follows() -> None:
    assert render(b"127.0.0.1 localhost") == b"127.0.0.1 localhost"
    assert render(b"127.0.0.1 localhost", entry("10.0.0.2", "b")) == b"127.0.0.1 localhost\n" + line(
        "10.0.0.2", "b"
    )


def test_a_line_of_ours_that_was_edited_around_its_banner_is_still_ours() -> None:
    old = b"  10.0.0.2  b " + BANNER + b"  \r\n"
    assert render(old, entry("10.0.0.2", "b")) == line("10.0.0.2", "b")


def test_the_file_is_written_only_when_something_changes(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(FOREIGN)
    hosts = HostsFile(path, "wgoverlay")
    assert hosts.apply([entry("10.0.0.2", "b")])
    inode = path.stat().st_ino
    assert not hosts.apply([entry("10.0.0.2", "b")])
    assert path.stat().st_ino == inode
    assert hosts.remove()
    assert path.read_bytes() == FOREIGN
    assert not hosts.remove()


def test_two_interfaces_share_a_file_without_touching_each_others_lines(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(FOREIGN)
    one, two = HostsFile(path, "wg1"), HostsFile(path, "wg2")
    one.apply([entry("10.1.0.2", "b")])
    two.apply([entry("10.2.0.2", "b"), entry("10.2.0.3", "c")])
    one.apply([entry("10.1.0.3", "c")])
    assert path.read_bytes().count(b"interface wg2") == 2
    one.remove()
    two.remove()
    assert path.read_bytes() == FOREIGN


def test_a_name_that_another_line_has_gets_no_entry(tmp_path: Path) -> None:
    """As with metadata.google.internal on GCE: otherwise a member could take it over."""
    path = tmp_path / "hosts"
    before = FOREIGN + b"169.254.169.254 Metadata.Google.Internal. metadata # b\n"
    path.write_bytes(before)
    hosts = HostsFile(path, "wgoverlay")
    hosts.apply(
        [
            entry("10.0.0.2", "b"),
            entry("10.0.0.3", "metadata.google.internal"),
            entry("10.0.0.4", "METADATA"),
        ]
    )
    assert path.read_bytes() == before + line("10.0.0.2", "b")
    assert hosts.skipped == ("metadata.google.internal", "METADATA")


def test_an_entry_goes_when_another_line_gets_its_name(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(line("10.0.0.2", "b") + b"192.0.2.2 b\n")
    HostsFile(path, "wgoverlay").apply([entry("10.0.0.2", "b")])
    assert path.read_bytes() == b"192.0.2.2 b\n"


def test_a_missing_hosts_file_is_said_and_not_created(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    with pytest.raises(CannotWrite) as problem:
        HostsFile(path, "wgoverlay").apply([entry("10.0.0.2", "b")])
    assert str(problem.value) == f"{path} could not be written: No such file or directory"
    assert not path.exists()


IN_A_CONTAINER = """
    from ipaddress import ip_address
    from wesher_agent.files.atomic import CannotWrite
    from wesher_agent.files.hosts import HostsFile
    from wesher_agent.mesh.desired import HostEntry

    # The host's /etc, and the container's root, which is read-only but for the one file.
    for directory in ("host", "etc"):
        Path(directory).mkdir()
    Path("host/hosts").write_text("127.0.0.1 localhost\\n")
    Path("etc/hosts").touch()
    mount("--bind", "etc", "etc")
    mount("--bind", "host/hosts", "etc/hosts")
    mount("-o", "remount,bind,ro", "etc")
    entries = [HostEntry(ip_address("10.0.0.2"), "b")]
    file = HostsFile(Path("etc/hosts"), "wgoverlay")

    def says():
        try:
            return file.apply(entries)
        except CannotWrite as error:
            return str(error).partition(": ")[2]

    print(says(), Path("host/hosts").read_text().splitlines()[1].split()[:2])
    Path("host/new").write_text("127.0.0.1 localhost\\n")
"""
REPLACED = "the host replaced the file, but this container still mounts the old one: restart the container"


@pytest.mark.needs_root
@pytest.mark.parametrize(
    "replaced",
    [
        'Path("host/new").rename("host/hosts")',
        'Path("host/hosts").rename("host/hosts~"); Path("host/new").rename("host/hosts")',
    ],
)
def test_a_mounted_file_that_the_host_replaces_is_noticed(tmp_path: Path, replaced: str) -> None:
    """cloud-init renames a new file over it, some editors keep the former one as a backup."""
    said = run_with_own_mounts(f"{IN_A_CONTAINER}\n    {replaced}\n    print(says())\n", tmp_path)
    assert said == f"True ['10.0.0.2', 'b']\n{REPLACED}\n"


@pytest.mark.needs_root
def test_a_mounted_file_that_the_host_rewrites_in_place_is_followed(tmp_path: Path) -> None:
    rewritten = (
        'Path("host/hosts").write_text(""); print(says(), len(Path("host/hosts").read_text().split()))'
    )
    said = run_with_own_mounts(f"{IN_A_CONTAINER}\n    {rewritten}\n", tmp_path)
    assert said == "True ['10.0.0.2', 'b']\nTrue 10\n"


@pytest.mark.needs_root
def test_a_container_that_starts_after_the_file_was_replaced_has_the_new_one(tmp_path: Path) -> None:
    again = """
    Path("host/new").rename("host/hosts")
    subprocess.run(["umount", "etc/hosts"], check=True)
    mount("--bind", "host/hosts", "etc/hosts")
    file = HostsFile(Path("etc/hosts"), "wgoverlay")
    print(says(), len(Path("host/hosts").read_text().splitlines()))
    """
    assert run_with_own_mounts(IN_A_CONTAINER + again, tmp_path) == "True ['10.0.0.2', 'b']\nTrue 2\n"
