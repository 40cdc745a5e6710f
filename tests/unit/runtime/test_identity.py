"""Which key, name and incarnation a member takes."""

from __future__ import annotations

import base64
from ipaddress import ip_address
from pathlib import Path

import pytest

from wesher_agent.cli.commands import agent_settings
from wesher_agent.runtime.identity import (
    KeyDecision,
    decide_key,
    decide_name,
    read_key_file,
)
from wesher_agent.settings import Settings
from wesher_common.errors import InvalidSpec
from wesher_common.keys import ClusterKey, KeyRing

FLAG, SAVED, MOUNTED = (ClusterKey(bytes([number]) * 32) for number in (1, 2, 3))
RING = KeyRing(MOUNTED, (FLAG,))


def new(size: int) -> bytes:
    return b"n" * size


def settings(*argv: str) -> Settings:
    return agent_settings(argv, {})


def test_the_mounted_ring_beats_a_given_key_and_that_the_saved_one() -> None:
    saved = KeyRing(SAVED)
    assert decide_key(mounted=RING, given=FLAG, saved=saved, entropy=new) == KeyDecision(RING)
    assert decide_key(mounted=None, given=FLAG, saved=saved, entropy=new) == KeyDecision(KeyRing(FLAG))
    assert decide_key(mounted=None, given=None, saved=saved, entropy=new) == KeyDecision(saved)


def test_with_no_key_at_all_one_is_made_and_said_to_be_new() -> None:
    made = decide_key(mounted=None, given=None, saved=None, entropy=new)
    assert made == KeyDecision(KeyRing(ClusterKey(b"n" * 32)), generated=True)


def test_a_key_file_is_read_with_or_without_a_line_end(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for end in ("", "\n"):
        path.write_text(FLAG.reveal_base64() + end)
        assert read_key_file(settings("--cluster-key-file", str(path))) == FLAG


@pytest.mark.parametrize("content", [b"", b"no key", b"\xff\xfe", base64.b64encode(b"short")])
def test_a_key_file_without_a_key_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(InvalidSpec) as error:
        read_key_file(settings("--cluster-key-file", str(path)))
    assert str(error.value).startswith(f"--cluster-key-file '{path}': ")
    assert not content or content.decode(errors="replace") not in str(error.value)


def test_a_key_file_without_an_end_is_refused_and_not_read_for_ever() -> None:
    with pytest.raises(InvalidSpec, match="is a device, not a regular file"):
        read_key_file(settings("--cluster-key-file", "/dev/zero"))


def test_a_key_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="cannot be read: No such file or directory"):
        read_key_file(settings("--cluster-key-file", str(tmp_path / "none")))


def test_a_name_is_the_hosts_unless_told_otherwise() -> None:
    where = ip_address("192.0.2.5")
    named = {"host_name": "Host_1.example.org", "cluster_name": "", "bind": where}
    assert decide_name(settings(), **named) == "Host_1.example.org"  # type: ignore[arg-type]
    assert decide_name(settings("--node-name", "other"), **named) == "other"  # type: ignore[arg-type]
    assert decide_name(settings("--ip-as-name"), **named) == "192.0.2.5"  # type: ignore[arg-type]


def test_all_addresses_bound_are_no_name() -> None:
    everywhere = ip_address("0.0.0.0")
    assert decide_name(settings("--ip-as-name"), host_name="h", cluster_name="", bind=everywhere) == "h"


def test_a_cluster_name_is_part_of_the_members_name() -> None:
    where = ip_address("192.0.2.5")
    assert decide_name(settings(), host_name="n1", cluster_name="east", bind=where) == "n1.east"


def test_a_host_name_that_no_hosts_file_could_hold_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="the host's name 'a b': is not a valid member name"):
        decide_name(settings(), host_name="a b", cluster_name="", bind=ip_address("192.0.2.5"))


@pytest.mark.parametrize(
    "name", ["localhost", "localhost.localdomain", "ip6-localhost", "10.0.0.5", "0x7f.1"]
)
def test_a_name_that_means_something_else_on_every_machine_is_refused_only_if_given_on_purpose(
    name: str,
) -> None:
    """Fresh images are called localhost."""
    where = ip_address("192.0.2.5")
    assert decide_name(settings(), host_name=name, cluster_name="", bind=where) == name
    for given in (settings("--node-name", name), agent_settings([], {"WESHER_NODE_NAME": name})):
        with pytest.raises(InvalidSpec, match=r"--node-name .*: choose another --node-name"):
            decide_name(given, host_name="h", cluster_name="", bind=where)


def test_a_kubernetes_node_may_be_called_by_its_address(tmp_path: Path) -> None:
    inside = settings("--kubernetes", str(tmp_path))
    where = ip_address("192.0.2.5")
    assert decide_name(inside, host_name="10.0.0.5", cluster_name="", bind=where) == "10.0.0.5"
