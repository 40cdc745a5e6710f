"""What makes a node ready, and which words say that it is not."""

from __future__ import annotations

from dataclasses import replace

from wesher_agent.runtime.health import Health, conditions

WELL = Health(
    device_ready=True,
    device_reason="",
    device_problem="",
    others_alive=2,
    asks_for_others=True,
    joining=False,
    name_conflict="",
    port_problem="",
    lost_address="",
    source_problem="",
    removed=False,
    tunnels_asked=True,
    unreachable=(),
    mostly_unreachable=False,
)


def said(health: Health) -> dict[str, tuple[str, str]]:
    return {condition.type: (condition.status, condition.reason) for condition in conditions(health)}


def test_a_node_whose_parts_all_work_is_ready() -> None:
    assert said(WELL) == {
        "Ready": ("True", "Ready"),
        "WireGuardReady": ("True", "DeviceReady"),
        "GossipJoined": ("True", "Joined"),
        "KeyCurrent": ("True", "Current"),
    }


def test_a_device_that_cannot_be_made_is_the_nodes_own_fault() -> None:
    sick = replace(WELL, device_ready=False, device_reason="PortTaken", device_problem="51820 is taken")
    assert said(sick)["WireGuardReady"] == said(sick)["Ready"] == ("False", "PortTaken")
    assert conditions(sick)[0].message == "51820 is taken"


def test_a_gossip_port_that_another_program_has_is_told_before_what_follows_from_it() -> None:
    deaf = replace(WELL, others_alive=0, port_problem="TCP port 7946 is taken")
    assert said(deaf)["GossipJoined"] == said(deaf)["Ready"] == ("False", "PortTaken")
    assert conditions(deaf)[0].message == "TCP port 7946 is taken"


def test_an_address_that_gossip_listened_on_and_the_host_lost_is_named() -> None:
    cut_off = replace(WELL, others_alive=0, lost_address="192.0.2.7")
    assert said(cut_off)["GossipJoined"] == said(cut_off)["Ready"] == ("False", "AddressGone")
    assert conditions(cut_off)[0].message.startswith("192.0.2.7 is no address of this host any more: ")


def test_the_only_member_of_a_mesh_is_ready_but_one_that_finds_nobody_is_not() -> None:
    alone = replace(WELL, others_alive=0, asks_for_others=False)
    assert said(alone)["Ready"] == ("True", "Ready")
    assert said(alone)["GossipJoined"] == ("True", "OnlyMember")
    assert said(replace(alone, asks_for_others=True))["Ready"] == ("False", "NobodyAnswers")


def test_a_node_that_has_just_started_is_not_blamed_for_others_that_are_later() -> None:
    new = replace(WELL, others_alive=0, joining=True)
    assert said(new)["GossipJoined"] == said(new)["Ready"] == ("Unknown", "Joining")
    assert said(replace(new, asks_for_others=False))["Ready"] == ("True", "Ready")


def test_a_name_used_twice_and_mounted_files_that_are_broken_are_named() -> None:
    assert said(replace(WELL, name_conflict="192.0.2.7:7946"))["GossipJoined"] == ("False", "NameConflict")
    broken = replace(WELL, source_problem="cluster-key: must be standard base64")
    assert said(broken)["KeyCurrent"] == said(broken)["Ready"] == ("False", "InvalidConfig")


def test_a_node_that_was_removed_says_so_and_not_that_its_former_peers_do_not_answer() -> None:
    removed = replace(WELL, removed=True, mostly_unreachable=True, unreachable=("b", "c"))
    assert said(removed) == said(WELL) | {"Ready": ("False", "Removed")}
    waiting = replace(removed, device_ready=False, device_reason="NoAddress")
    assert said(waiting)["Ready"] == ("False", "NoAddress"), "a new node has no WesherNode either"


def test_a_node_is_not_called_ready_before_its_tunnels_were_asked() -> None:
    new = replace(WELL, tunnels_asked=False)
    assert said(new)["Ready"] == ("Unknown", "Probing")
    assert said(replace(new, device_ready=False, device_reason="PortTaken"))["Ready"] == (
        "False",
        "PortTaken",
    )
    assert said(replace(new, others_alive=0, asks_for_others=False))["Ready"] == ("True", "Ready")


def test_a_device_that_was_not_tried_yet_is_nobodys_fault() -> None:
    starting = replace(WELL, device_ready=False)
    assert said(starting)["WireGuardReady"] == said(starting)["Ready"] == ("Unknown", "Starting")


def test_one_dead_pair_leaves_a_node_ready_but_losing_most_does_not() -> None:
    assert said(replace(WELL, unreachable=("b",)))["Ready"] == ("True", "Ready")
    lost = replace(WELL, unreachable=tuple(f"n{number}" for number in range(10)), mostly_unreachable=True)
    assert said(lost)["Ready"] == ("False", "PeersUnreachable")
    assert conditions(lost)[0].message.endswith("n0, n1, n2, n3, n4, n5, n6, n7, …")
