"""Names of members, meshes and interfaces."""

import socket

import pytest

from wesher_common.errors import InvalidSpec
from wesher_common.names import (
    check_interface_name,
    check_mesh_name,
    config_map_name,
    daemon_set_name,
    is_like_address,
    is_member_name,
    is_reserved_name,
    key_secret_name,
    member_name,
    released_config_map_name,
    wesher_node_name,
)


@pytest.mark.parametrize(
    "name",
    ["a", "node-1", "Node_1", "_x_", "a.b.example", "x" * 63, ".".join(["x" * 63] * 3 + ["x" * 61]), "1"],
)
def test_what_go_members_are_called_is_a_member_name(name: str) -> None:
    assert is_member_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "-a",
        "a-",
        "a b",
        "a\n",
        "a\tb",
        "é",
        "x" * 64,
        ".".join(["x" * 63] * 4),
        "a/b",
        "a:b",
    ],
)
def test_what_a_hosts_file_could_not_hold_is_none(name: str) -> None:
    assert not is_member_name(name)


@pytest.mark.parametrize("name", ["a", "mesh-1", "1", "x" * 32])
def test_a_mesh_name_is_a_short_dns_label(name: str) -> None:
    assert check_mesh_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "a.b", "-a", "a-", "x" * 33, "a_b", "a\n"])
def test_another_mesh_name_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        check_mesh_name(name)
    assert str(refusal.value) == (
        f"metadata.name {name!r}: must be 1 to 32 lower-case letters, digits or '-', "
        "beginning and ending with a letter or digit"
    )


@pytest.mark.parametrize("name", ["wgoverlay", "wg0", "x" * 15, "é", "wg-1.2_3"])
def test_an_interface_name_is_what_the_kernel_takes(name: str) -> None:
    assert check_interface_name(name, field="--interface") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "x" * 16, "é" * 8, "a b", "a/b", "a:b", "a\n", "a\0b", "wg%d", "\ud800", "a\x7f"]
)
def test_another_interface_name_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        check_interface_name(name, field="--interface")
    assert str(refusal.value) == (
        f"--interface {name!r}: must be 1 to 15 bytes without spaces, '/', ':' or '%'"
    )


def test_names_of_objects_come_from_mesh_and_node() -> None:
    assert member_name("n1") == "n1"
    assert member_name("n1", "east") == "n1.east"
    assert wesher_node_name("prod", "n1") == "prod.n1"
    assert [
        name("prod") for name in (key_secret_name, config_map_name, daemon_set_name, released_config_map_name)
    ] == [
        "prod-key",
        "prod-config",
        "prod-agent",
        "prod-released",
    ]


@pytest.mark.parametrize(
    "name", ["localhost", "x.LOCALHOST", "localhost4.localdomain4", "IP6-x", "0", "1.2.3.4.5"]
)
def test_names_that_every_machine_reads_as_its_own_are_reserved(name: str) -> None:
    assert is_reserved_name(name)


@pytest.mark.parametrize(
    "name", ["a", "localhosts", "my-localhost", "ip6", "4u", "node.1", "0xfg", "gateway"]
)
def test_names_that_only_resemble_those_are_free(name: str) -> None:
    assert not is_reserved_name(name)


def test_what_inet_aton_reads_looks_like_an_address() -> None:
    for name in ("0", "010", "0x7f.1", "127.1", "0x", "10.0.0.5", "a", "1.a", "0xg"):
        try:
            socket.inet_aton(name)
        except OSError:
            read = False
        else:
            read = True
        assert is_like_address(name) is read, name
