"""The commands that are answered without an agent, and how answers are laid out."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from wesher_agent.cli.commands import run
from wesher_agent.cli.tables import (
    age,
    chosen_members,
    find_member,
    hindrances,
    join_text,
    left_text,
    member_table,
    member_tree,
    size,
    status_text,
)
from wesher_agent.status.conditions import conditions
from wesher_common.errors import InvalidSpec
from wesher_common.traffic import TrafficSettings
from wesher_common.version import VERSION
from wesher_testing.agents.snapshots import snapshot
from wesher_testing.virtual.members import document, local_node

IDENTITY = {
    "mode": "Verified",
    "bound": True,
    "authority": "key",
    "certificateExpires": "2026-12-30T09:40:17Z",
    "uncertified": "",
}
STATUS = {
    "node": "a",
    "interface": "wgoverlay",
    "overlayIP": "10.0.0.1",
    "overlayNet": "10.0.0.0/24",
    "publicKey": "PUBLIC",
    "keyIDs": ["0011aabb"],
    "unreachableRoute": {"covers": "Overlay", "reason": ""},
    "hosts": "written",
    "state": "not saved: no space left on device",
    "uptimeSeconds": 7300.0,
    "version": "1.2.3",
    "wireguard": {"mode": "Userspace", "mtu": 1420, "port": 51820},
    "gossip": {
        "address": "192.0.2.1:7946",
        "profile": "WAN",
        "joined": True,
        "rejected": {"truncated": 2, "decrypt": 1},
    },
    "identity": IDENTITY,
    "traffic": {"nodes": "None", "pods": "None", "accepts": False, "routed": 0, "networks": []},
    "peers": {"known": 2, "alive": 1, "suspect": 0, "failed": 1, "handshake": 1},
    "conditions": [
        {"type": "GossipJoined", "status": "True", "reason": "Joined", "message": ""},
        {"type": "WireGuardReady", "status": "False", "reason": "NoWireGuard", "message": "install it"},
    ],
}


def test_the_version_and_the_help_exit_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--version"], ["agent", "--version"], ["--help"], ["status", "--help"], ["keygen", "-h"]):
        with pytest.raises(SystemExit) as stop:
            run(words, {})
        assert stop.value.code == 0
    for words in (["help"], ["help", "ping"], ["version"]):
        assert run(words, {}) == 0
    out = capsys.readouterr().out
    assert "--ip-as-name" not in out
    assert "[WESHER_CLUSTER_PORT]" in out


def test_the_version_names_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["--version"], {})
    assert run(["version"], {}) == 0
    assert capsys.readouterr().out == 2 * f"wesher {VERSION}\n"


def test_keygen_prints_a_new_key_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keygen"], {}) == run(["keygen"], {}) == 0
    one, other = capsys.readouterr().out.split()
    assert len(base64.b64decode(one, validate=True)) == 32
    assert one != other


def test_the_status_says_how_the_agent_does_and_what_is_wrong() -> None:
    text = status_text(STATUS)
    assert "overlay:          10.0.0.1 in 10.0.0.0/24\n" in text
    assert "up:               2h\n" in text
    assert "state file:       not saved: no space left on device\n" in text
    assert "rejected packets: decrypt 1, truncated 2\n" in text
    assert text.endswith("\n! WireGuard not ready (NoWireGuard): install it")


def test_what_fails_reads_as_failing_and_no_text_stands_twice() -> None:
    silent = {"status": "False", "reason": "NobodyAnswers", "message": "no seed or known member has answered"}
    disk = {"type": "StateSaved", "status": "False", "reason": "NotSaved", "message": "disk full"}
    joined = {"type": "WireGuardReady", "status": "True", "reason": "DeviceReady", "message": ""}
    judged = [{"type": "Ready"} | silent, joined, {"type": "GossipJoined"} | silent, disk]
    assert status_text(STATUS | {"conditions": judged}).partition("\n! ")[2].splitlines() == [
        "not ready (NobodyAnswers): no seed or known member has answered",
        "! state not saved (NotSaved): disk full",
    ]
    assert hindrances({"conditions": judged}) == [
        "gossip not joined (NobodyAnswers): no seed or known member has answered"
    ]
    young = {"type": "Ready", "status": "Unknown", "reason": "Probing", "message": "peers are being asked"}
    text = status_text(STATUS | {"conditions": [young]})
    assert text.endswith("\n! not ready yet (Probing): peers are being asked")


def test_every_condition_has_its_words_for_failing() -> None:
    carrying = local_node("a", mesh=document(traffic=TrafficSettings(nodes="All")))
    for condition in conditions(snapshot(local=carrying)):
        failing = condition.to_dict() | {"status": "False", "reason": "Reason"}
        (line,) = status_text(STATUS | {"conditions": [failing]}).partition("\n! ")[2:]
        assert " not " in f" {line}"
        assert condition.type not in line, "a type reads as if all were well"


def test_a_device_is_named_only_where_there_is_one() -> None:
    assert "interface:        wgoverlay (Userspace, mtu 1420)\n" in status_text(STATUS)
    without = STATUS | {"wireguard": {"mode": "none", "mtu": 1420, "port": 51820}}
    assert "interface:        wgoverlay (no device)\n" in status_text(without)


@pytest.mark.parametrize(
    ("covers", "line"),
    [
        ("Overlay", "10.0.0.0/24 by an unreachable route"),
        ("Members", "members of the last day by unreachable routes; not the rest of 10.0.0.0/24: why"),
        ("Nothing", "no unreachable routes cover 10.0.0.0/24: why"),
    ],
)
def test_the_status_says_which_packets_cannot_leave_in_clear(covers: str, line: str) -> None:
    cover = {"covers": covers, "reason": "" if covers == "Overlay" else "why"}
    assert f"\ncovered:          {line}\n" in status_text(STATUS | {"unreachableRoute": cover})


def test_this_host_is_in_the_mesh_unless_its_own_device_key_or_joining_hinders_it() -> None:
    bad_peers = {"type": "Ready", "status": "False", "reason": "PeersUnreachable", "message": "b"}
    assert hindrances(STATUS) == ["WireGuard not ready (NoWireGuard): install it"]
    full_disk = {"type": "StateSaved", "status": "False", "reason": "NotSaved", "message": "disk full"}
    assert hindrances({"conditions": [bad_peers, full_disk]}) == []
    text = status_text(STATUS | {"conditions": [full_disk]})
    assert text.endswith("\n! state not saved (NotSaved): disk full")


def test_a_leave_says_what_it_keeps_why_and_how_to_remove_it() -> None:
    left = {"node": "a", "interface": "wg0", "kept": "/var/lib/my mesh/wg0.json"}
    assert left_text(left, forgot=False).splitlines() == [
        "a left the mesh on wg0",
        (
            "kept: /var/lib/my mesh/wg0.json holds the cluster key and this machine's WireGuard key, "
            "so the next start joins the same mesh again"
        ),
        (
            "to delete the keys too: rm -f '/var/lib/my mesh/wg0.json' '/var/lib/my mesh/wg0.json'.* "
            "(`wesher leave --forget` leaves and deletes them)"
        ),
    ]
    nothing = left | {"kept": None}
    assert left_text(nothing, forgot=False) == "a left the mesh on wg0; it has no state file with keys"
    assert (
        left_text(nothing, forgot=True) == "a left the mesh on wg0 and deleted its state file with the keys"
    )


def a_member(name: str, **changes: Any) -> dict[str, Any]:
    entry = {
        "name": name,
        "isThisNode": False,
        "state": "alive",
        "overlayIP": "10.0.0.1",
        "endpoint": "192.0.2.1:51820",
        "certificateExpires": None,
        "uncertified": "",
        "location": "",
        "stateSeconds": 61.0,
        "handshakeSeconds": 12.3,
        "receivedBytes": 2048,
        "sentBytes": 512,
        "note": "",
    }
    return entry | changes


B = a_member("b")
LEFT = a_member(
    "long.name",
    state="left",
    overlayIP="",
    endpoint="",
    location="fra",
    stateSeconds=7300.0,
    handshakeSeconds=None,
    receivedBytes=None,
    sentBytes=None,
)


def test_members_are_a_table_with_a_heading() -> None:
    me = a_member("a", isThisNode=True, endpoint="", handshakeSeconds=None, note="this node")
    members = [me | {"receivedBytes": None, "sentBytes": None}, B, LEFT]
    assert member_table(members).splitlines() == [
        "NAME       STATE  SINCE  OVERLAY-IP  ENDPOINT         HANDSHAKE  RECEIVED  SENT  NOTE",
        "a          alive  1m     10.0.0.1    -                -          -         -     this node",
        "b          alive  1m     10.0.0.1    192.0.2.1:51820  12s        2.0KiB    512B",
        "long.name  left   2h     -           -                -          -         -",
    ]


def test_members_of_a_mesh_with_an_authority_have_a_column_for_their_certificates() -> None:
    until = {"certificateExpires": "2026-12-30T09:40:17Z"}
    members = [
        a_member("a", **until),
        a_member("b", uncertified="Uncertified"),
        a_member("c", uncertified="CertificateExpired", note="its certificate has expired", **until),
    ]
    assert [line.split("512B")[-1].split() for line in member_table(members).splitlines()[1:]] == [
        ["2026-12-30"],
        ["none"],
        ["CertificateExpired", "its", "certificate", "has", "expired"],
    ]
    assert member_table(members).splitlines()[0].endswith("SENT  CERT                NOTE")
    assert len(member_tree(members).splitlines()) == len(members) + 2


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "Verified, bound, certificate until 2026-12-30"),
        (
            {"bound": False, "certificateExpires": None, "uncertified": "Uncertified"},
            "Verified, not bound yet, no certificate yet",
        ),
        ({"mode": "Open", "bound": False}, "Open, certificate until 2026-12-30"),
        ({"uncertified": "NotYetValid"}, "Verified, bound, certificate does not count (NotYetValid)"),
        (
            {"mode": "", "bound": False, "certificateExpires": None},
            "no authority: every machine with the cluster key is a member",
        ),
    ],
)
def test_the_status_says_who_gets_a_tunnel_and_until_when_this_node_is_certified(
    changes: dict[str, Any], line: str
) -> None:
    shown = status_text(STATUS | {"identity": IDENTITY | changes})
    assert next(each for each in shown.splitlines() if each.startswith("identity:")).split(None, 1)[1] == line


@pytest.mark.parametrize(
    ("ascii_only", "branch", "last"), [(False, "├─ ", "└─ "), (True, "|- ", "`- ")], ids=["utf-8", "ascii"]
)
def test_a_tree_groups_members_by_location_and_those_without_one_come_last(
    *, ascii_only: bool, branch: str, last: str
) -> None:
    here = a_member("├─ c", location="ams")
    shown = member_tree([B, LEFT, here, a_member("d")], ascii_only=ascii_only)
    assert [line.partition("  ")[0] for line in shown.splitlines()] == [
        "NAME",
        "ams",
        f"{last}├─ c",
        "fra",
        f"{last}long.name",
        "(no location)",
        f"{branch}b",
        f"{last}d",
    ]
    assert member_tree([]) == member_table([])


def test_members_are_chosen_by_pattern_and_state() -> None:
    members = [B, LEFT, a_member("db-1"), a_member("db-2", state="failed")]

    def names(patterns: list[str], state: str | None = None) -> list[str]:
        return [member["name"] for member in chosen_members(members, patterns, state)]

    assert names([]) == ["b", "long.name", "db-1", "db-2"]
    assert names(["db-*", "b"]) == ["b", "db-1", "db-2"]
    assert names(["db-?"], "failed") == ["db-2"]
    assert names([], "suspect") == []
    with pytest.raises(InvalidSpec, match=r"MEMBER 'db-': no such member: did you mean db-2\?"):
        names(["b", "db-"])


def test_a_member_is_found_by_name_and_by_overlay_address() -> None:
    members = [a_member("c", overlayIP="10.0.0.2"), B]
    assert find_member(members, "b") is find_member(members, "10.0.0.1") is B
    for name in ("zzzzzz", ""):
        with pytest.raises(InvalidSpec, match="no such member: `wesher members` lists them"):
            find_member([*members, LEFT], name)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.0KiB"),
        (10189, "10KiB"),
        (1024**2 - 1, "1.0MiB"),
        (5 * 1024**3, "5.0GiB"),
        (3000 * 1024**5, "3000PiB"),
    ],
)
def test_bytes_are_in_their_largest_unit(count: int | None, text: str) -> None:
    assert size(count) == text


def test_the_join_command_fetches_the_key_with_the_flags_that_reach_this_agent() -> None:
    text = join_text({"command": "wesher --join 192.0.2.1"}, reach=["--interface=wg 1"])
    assert "\nwesher key '--interface=wg 1' | ssh root@MACHINE 'umask 077; " in text
    assert text.endswith("\nwesher --join 192.0.2.1")
    assert all(line.startswith(("#", "wesher ")) for line in text.splitlines() if line)


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.4, "0s"), (59.9, "59s"), (60, "1m"), (3600, "1h"), (200000, "2d")]
)
def test_ages_are_in_their_largest_whole_unit(seconds: float | None, text: str) -> None:
    assert age(seconds) == text
