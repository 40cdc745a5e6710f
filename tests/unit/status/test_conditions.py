"""What makes a node ready, and which words say that it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from wesher_agent.cli.tables import hindrances as checked
from wesher_agent.mesh.identity import Verdict
from wesher_agent.mesh.local import Options
from wesher_agent.mesh.problem import Problem
from wesher_agent.mesh.roster import MemberState
from wesher_agent.status.conditions import JOIN_SECONDS, conditions, failing
from wesher_common.certificate import Refusal
from wesher_common.seeds import SeedAddress
from wesher_testing.agents.snapshots import snapshot
from wesher_testing.virtual.members import document, local_node, remembered

B, C = remembered("b"), remembered("c")
SEEKING = local_node("a", mesh=document(seed_nodes=(SeedAddress("192.0.2.50"),)))
WELL = {
    "Ready": ("True", "Ready"),
    "WireGuardReady": ("True", "DeviceReady"),
    "GossipJoined": ("True", "Joined"),
    "KeyCurrent": ("True", "Current"),
    "StateSaved": ("True", "Saved"),
}
NO_DEVICE = {"device_ready": False, "device_reason": "PortTaken", "device_problem": "51820 is taken"}


def said(*members: Any, **changes: Any) -> dict[str, tuple[str, str]]:
    now = snapshot(*members, **changes)
    return {condition.type: (condition.status, condition.reason) for condition in conditions(now)}


def message(*members: Any, **changes: Any) -> str:
    return conditions(snapshot(*members, **changes))[0].message


def test_a_node_whose_parts_all_work_is_ready() -> None:
    assert said(B, C) == WELL


def test_a_device_that_cannot_be_made_is_the_nodes_own_fault() -> None:
    sick = said(B, C, **NO_DEVICE)
    assert sick["WireGuardReady"] == sick["Ready"] == ("False", "PortTaken")
    assert message(B, C, **NO_DEVICE) == "51820 is taken"


def test_a_state_that_is_not_saved_is_said_and_the_node_stays_ready() -> None:
    """It works until it restarts."""
    full = {"save_problem": "no space left on device"}
    assert said(B, C, **full) == WELL | {"StateSaved": ("False", "NotSaved")}
    assert conditions(snapshot(B, C, **full))[-1].message == "no space left on device"


def test_a_node_whose_probes_are_not_answered_is_not_ready_and_says_who_has_the_port() -> None:
    """The kubelet restarts its agent again and again."""
    taken = {"health_problem": "TCP port 51820 of 127.0.0.1 is taken by sshd (pid 7)"}
    assert said(B, C, **taken) == WELL | {"Ready": ("False", "HealthPortTaken")}
    assert message(B, C, **taken).startswith("TCP port 51820 of 127.0.0.1 is taken by sshd (pid 7), so ")


@pytest.mark.parametrize(
    "changes",
    [{}, NO_DEVICE, {"source_problem": "bad"}, {"mostly_unreachable": True}, {"save_problem": "full"}],
)
def test_a_probe_is_told_what_wesher_status_check_says(changes: dict[str, Any]) -> None:
    now = snapshot(B, C, **changes)
    assert bool(failing(now)) is bool(checked({"conditions": [each.to_dict() for each in conditions(now)]}))


def test_a_node_whose_key_another_machine_has_is_not_ready() -> None:
    clash = Problem("a", "KeyCopied", "this machine has the same WireGuard key as b")
    cloned = {"local": local_node("a"), "problems": (clash,)}
    assert said(B, C, **cloned)["WireGuardReady"] == said(B, C, **cloned)["Ready"] == ("False", "KeyCopied")
    assert message(B, C, **cloned) == clash.message
    others = {"local": local_node("a"), "problems": (Problem("b", "KeyClash", "has the same key as c"),)}
    assert said(B, C, **others) == WELL


def test_a_node_without_an_overlay_address_waits_for_the_operator() -> None:
    waiting = local_node("a", options=Options(in_kubernetes=True))
    assert said(B, local=waiting, device_ready=False)["Ready"] == ("False", "NoAddress")


def test_a_gossip_port_that_another_program_has_is_told_before_what_follows_from_it() -> None:
    deaf = {"listen_problem": "TCP port 7946 is taken"}
    assert said(**deaf)["GossipJoined"] == said(**deaf)["Ready"] == ("False", "PortTaken")
    assert message(**deaf) == "TCP port 7946 is taken"


def test_an_address_that_gossip_listened_on_and_the_host_lost_is_named() -> None:
    cut_off = {"local": local_node("a", lost_address="192.0.2.7")}
    assert said(**cut_off)["GossipJoined"] == said(**cut_off)["Ready"] == ("False", "AddressGone")
    assert message(**cut_off).startswith("192.0.2.7 is no longer assigned to this host: ")


def test_the_only_member_of_a_mesh_is_ready_but_one_that_finds_nobody_is_not() -> None:
    assert said()["Ready"] == ("True", "Ready")
    assert said()["GossipJoined"] == ("True", "OnlyMember")
    assert said(local=SEEKING)["Ready"] == ("False", "NobodyAnswers")
    assert said(local=SEEKING, has_seeds_elsewhere=False)["GossipJoined"] == ("True", "OnlyMember")
    assert said(remembered("b", state=MemberState.FAILED))["Ready"] == ("False", "NobodyAnswers")


def test_another_key_is_named_with_our_id_but_only_while_no_member_is_alive() -> None:
    differs = {"other_key_at": "192.0.2.50:7946"}
    assert said(local=SEEKING, **differs)["GossipJoined"] == ("False", "WrongKey")
    assert SEEKING.ring.primary.id in message(local=SEEKING, **differs)
    assert "192.0.2.50:7946" in message(local=SEEKING, **differs)
    assert said(B, local=SEEKING, **differs) == WELL
    assert said(**differs)["GossipJoined"] == ("True", "OnlyMember")
    assert said(local=SEEKING, uptime=JOIN_SECONDS - 0.1, **differs)["GossipJoined"] == ("Unknown", "Joining")


def test_a_node_that_has_just_started_is_not_blamed_for_others_that_are_later() -> None:
    young = JOIN_SECONDS - 0.1
    new = said(local=SEEKING, uptime=young)
    assert new["GossipJoined"] == new["Ready"] == ("Unknown", "Joining")
    assert said(uptime=young)["Ready"] == ("True", "Ready")


def test_a_name_used_twice_and_mounted_files_that_are_broken_are_named() -> None:
    assert said(B, rival="192.0.2.7:7946")["GossipJoined"] == ("False", "NameConflict")
    broken = said(B, source_problem="cluster-key: must be standard base64")
    assert broken["KeyCurrent"] == broken["Ready"] == ("False", "InvalidConfig")


def test_a_node_whose_certificate_was_revoked_says_so_and_its_host_is_not_restarted() -> None:
    revoked = {"verdict": Verdict(refusal=Refusal.REVOKED), "mostly_unreachable": True, "unreachable": ("b",)}
    assert said(B, C, **revoked) == WELL | {"Ready": ("False", "Revoked")}
    assert failing(snapshot(B, C, **revoked)) == ()


def test_a_node_that_was_removed_says_so_and_not_that_its_former_peers_do_not_answer() -> None:
    removed = {"removed": True, "mostly_unreachable": True, "unreachable": ("b", "c")}
    assert said(B, C, **removed) == WELL | {"Ready": ("False", "Removed")}
    waiting = removed | {"device_ready": False, "local": local_node("a", options=Options(in_kubernetes=True))}
    assert said(B, C, **waiting)["Ready"] == ("False", "NoAddress"), "a new node has no WesherNode either"


def test_a_node_is_not_called_ready_before_its_tunnels_were_asked() -> None:
    new = {"probes_settled": False}
    assert said(B, **new)["Ready"] == ("Unknown", "Probing")
    assert said(B, **new, **NO_DEVICE)["Ready"] == ("False", "PortTaken")
    assert said(**new)["Ready"] == ("True", "Ready")
    assert said(B, **new, can_probe=False)["Ready"] == ("True", "Ready"), "no answer would ever come"


def test_a_device_that_was_not_tried_yet_is_nobodys_fault() -> None:
    starting = said(B, device_ready=False)
    assert starting["WireGuardReady"] == starting["Ready"] == ("Unknown", "Starting")


def test_one_dead_pair_leaves_a_node_ready_but_losing_most_does_not() -> None:
    assert said(B, C, unreachable=("b",))["Ready"] == ("True", "Ready")
    lost = {"unreachable": tuple(f"n{number}" for number in range(10)), "mostly_unreachable": True}
    assert said(B, **lost)["Ready"] == ("False", "PeersUnreachable")
    assert message(B, **lost).endswith("n0, n1, n2, n3, n4, n5, n6, n7, …")


OUTSIDE = (
    Problem("b", "OutsideOverlay", "claims 10.1.0.2 outside 10.0.0.0/24: give all the same network"),
    Problem("c", "OutsideOverlay", "claims 10.1.0.3 outside 10.0.0.0/24: give all the same network"),
)


def test_a_node_is_not_ready_while_most_members_cannot_be_given_a_tunnel() -> None:
    """They are alive and nothing is probed: that must not read as a mesh that works."""
    assert said(B, C, problems=OUTSIDE, can_probe=False)["Ready"] == ("False", "OverlayDiffers")
    clash = replace(OUTSIDE[1], reason="KeyClash")
    mixed = said(B, C, problems=(OUTSIDE[0], clash), can_probe=False)
    assert mixed["Ready"] == ("False", "PeersUnreachable"), "not one cause for all"
    assert message(B, C, problems=OUTSIDE, can_probe=False) == (
        "most members have no tunnel: b claims 10.1.0.2 outside 10.0.0.0/24: give all the same network "
        "(OutsideOverlay), and 1 more; see `wesher members`"
    )
    assert said(B, C, problems=OUTSIDE[:1]) == WELL, "half of them have one"
    assert said(B, C, problems=OUTSIDE[:1], unreachable=("c",))["Ready"] == ("False", "PeersUnreachable")


@pytest.mark.parametrize("reason", ["NameTooLong", "BadName", "OwnAddress", "NoMetadata"])
def test_members_that_lack_something_else_or_come_soon_leave_a_node_ready(reason: str) -> None:
    assert said(B, problems=(Problem("b", reason, "lacks something"),)) == WELL
