"""The commands that are answered without an agent, and how answers are laid out."""

from __future__ import annotations

import base64

import pytest

from wesher_agent.cli.commands import run
from wesher_agent.cli.tables import age, hindrances, left_text, member_table, status_text
from wesher_agent.status.conditions import conditions
from wesher_common.version import VERSION
from wesher_testing.agents.snapshots import snapshot

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
    out = capsys.readouterr().out
    assert "--ip-as-name" not in out
    assert "[WESHER_CLUSTER_PORT]" in out


def test_the_version_names_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["--version"], {})
    assert capsys.readouterr().out == f"wesher {VERSION}\n"


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
    for condition in conditions(snapshot()):
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
        ("Nothing", "nothing of 10.0.0.0/24 by unreachable routes: why"),
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
            "so that the next start joins the same mesh again"
        ),
        (
            "to remove the keys: rm -f '/var/lib/my mesh/wg0.json' '/var/lib/my mesh/wg0.json'.* "
            "(`wesher leave --forget` does both)"
        ),
    ]
    nothing = left | {"kept": None}
    assert left_text(nothing, forgot=False) == "a left the mesh on wg0; it has no state file with keys"
    assert (
        left_text(nothing, forgot=True) == "a left the mesh on wg0 and deleted its state file with the keys"
    )


def test_members_are_a_table_with_a_heading() -> None:
    shared = {"handshakeSeconds": None, "note": ""}
    members = [
        {"name": "a", "state": "alive", "overlayIP": "10.0.0.1", "endpoint": "192.0.2.1:51820"} | shared,
        {"name": "long.name", "state": "failed", "overlayIP": "", "endpoint": ""}
        | shared
        | {"handshakeSeconds": 61.0, "note": "no metadata yet"},
    ]
    assert member_table(members).splitlines() == [
        "NAME       STATE   OVERLAY-IP  ENDPOINT         HANDSHAKE  NOTE",
        "a          alive   10.0.0.1    192.0.2.1:51820  -",
        "long.name  failed  -           -                1m         no metadata yet",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.4, "0s"), (59.9, "59s"), (60, "1m"), (3600, "1h"), (200000, "2d")]
)
def test_ages_are_in_their_largest_whole_unit(seconds: float | None, text: str) -> None:
    assert age(seconds) == text
