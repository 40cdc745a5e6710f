"""What a node says of the cluster's packets that it carries, and of those that it does not."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from wesher_agent.cli.tables import member_table, status_text
from wesher_agent.kube.node_status import own_part
from wesher_agent.mesh.carry_steps import TrafficView
from wesher_agent.mesh.carrying import NETWORK_OVERLAP
from wesher_agent.mesh.device import CarriedRoute, Carrying
from wesher_agent.mesh.identity import Rank, Verdict
from wesher_agent.mesh.local import Local, Options
from wesher_agent.mesh.place import Place
from wesher_agent.mesh.problem import Problem
from wesher_agent.mesh.roster import RosterMember
from wesher_agent.status.answers import members_answer, status_answer
from wesher_agent.status.conditions import conditions, failing, is_undecided
from wesher_agent.status.snapshot import Snapshot
from wesher_agent.wireguard.carrying_plan import CarryProblem
from wesher_common.certificate import Authority
from wesher_common.conditions import Condition
from wesher_common.traffic import TrafficSettings
from wesher_testing.agents.snapshots import snapshot
from wesher_testing.virtual.members import document, local_node, meta, remembered

ON = TrafficSettings(nodes="All", pods="All", node_cidrs=(ip_network("192.0.2.0/24"),))
OWN = ("192.0.2.100/32", "10.244.0.0/24")
AUTHORITY = Authority(bytes(32))


def node(*networks: str, settings: TrafficSettings = ON) -> Local:
    """Return this node, at 192.0.2.100, with a certificate that lists some networks."""
    announced = meta("a", networks=tuple(map(ip_network, networks)))
    subject = announced.subject("a")
    assert subject is not None
    place = Place(
        overlay_address=subject.address,
        routes=subject.networks,
        certificate=AUTHORITY.issue(subject, serial=1),
    )
    return local_node(
        "a",
        mesh=document(traffic=settings),
        options=Options(in_kubernetes=True),
        place=place,
        overlay_address=subject.address,
    )


def applied(*routes: str, known: tuple[str, ...] = OWN, settings: TrafficSettings = ON) -> TrafficView:
    carried = tuple(CarriedRoute(ip_network(route), None) for route in routes)
    carrying = Carrying(mark=0x80, table=1870, priority=1870, routes=carried)
    return TrafficView(settings, carrying, frozenset(map(ip_network, known)))


def peer(name: str, *networks: str, rank: Rank = Rank.OWN) -> RosterMember:
    member = remembered(name, announced=meta(name, networks=tuple(map(ip_network, networks))))
    return replace(member, verdict=Verdict(rank, 1, None))


def carried(now: Snapshot) -> Condition:
    (found,) = [condition for condition in conditions(now) if condition.type == "TrafficCarried"]
    return found


def test_nothing_is_said_while_the_mesh_carries_nothing() -> None:
    now = snapshot(peer("b"), local=node(settings=TrafficSettings()))
    assert "TrafficCarried" not in {condition.type for condition in conditions(now)}
    assert "traffic" not in own_part(now)[0]  # type: ignore[index]
    assert "only between overlay addresses\n" in status_text(status_answer(now))


def test_a_node_that_sends_through_the_tunnels_is_ready() -> None:
    now = snapshot(peer("b"), local=node(*OWN), traffic=applied("192.0.2.2/32", "10.244.1.0/24"))
    found = carried(now)
    assert (found.status, found.reason) == ("True", "Carried")
    assert found.message == "packets to 2 networks of other members go through the tunnels"
    assert conditions(now)[0].is_true


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"traffic": TrafficView()}, "waiting until the device accepts packets"),
        (
            {"traffic": applied(settings=replace(ON, nodes="OtherLocations"))},
            "waiting until the device accepts packets",
        ),
        ({"local": node(), "traffic": applied()}, "waiting for a certificate"),
        ({"traffic": applied(known=())}, "waiting until other members have"),
    ],
)
def test_a_node_that_waits_to_carry_says_for_what_and_stays_ready(changes: dict[str, Any], says: str) -> None:
    """Its tunnels work as before, so a mesh in which carrying begins stays ready."""
    now = snapshot(peer("b"), **{"local": node(*OWN), "traffic": applied("192.0.2.2/32"), **changes})
    found = carried(now)
    assert (found.status, found.reason) == ("Unknown", "Accepting")
    assert found.message.startswith(says)
    assert conditions(now)[0].is_true
    assert failing(now) == ()


@pytest.mark.parametrize(
    ("changes", "reason", "says"),
    [
        (
            {"local": node("10.244.0.0/24"), "traffic": applied()},
            "AddressNotCertified",
            "the certificate of this node lists no address of it: check that its InternalIP is inside spec.t",
        ),
        (
            {"local": node("192.0.2.99/32"), "traffic": applied()},
            "AddressNotCertified",
            "this host does not have 192.0.2.99, which the certificate of this node lists",
        ),
        (
            {"carry_problems": (CarryProblem("RuleConflict", "another program has a rule"),)},
            "RuleConflict",
            "another program has a rule",
        ),
        (
            {"problems": (Problem("b", NETWORK_OVERLAP, "overlaps"),)},
            "NetworkOverlap",
            "b: overlaps",
        ),
    ],
)
def test_a_node_that_does_not_carry_says_why_and_is_not_ready(
    changes: dict[str, Any], reason: str, says: str
) -> None:
    now = snapshot(peer("b"), **{"local": node(*OWN), "traffic": applied("192.0.2.2/32"), **changes})
    found = carried(now)
    assert (found.status, found.reason) == ("False", reason)
    assert found.message.startswith(says)
    ready = conditions(now)[0]
    assert (ready.status, ready.reason, ready.message) == ("False", reason, found.message)
    # A probe that fails would have the kubelet restart the agent, which helps nothing.
    assert failing(now) == ()


def test_what_another_cluster_lists_does_not_make_this_one_not_ready() -> None:
    foreign = peer("b.west", "10.60.0.0/24", rank=Rank.TRUSTED)
    clash = Problem("b.west", NETWORK_OVERLAP, "overlaps")
    now = snapshot(foreign, local=node(*OWN), traffic=applied("192.0.2.2/32"), problems=(clash,))
    assert carried(now).is_true


def test_a_node_of_pods_of_other_clusters_only_needs_no_address() -> None:
    settings = replace(ON, nodes="None", pods="OtherClusters")
    view = applied(known=("10.244.0.0/24",), settings=settings)
    now = snapshot(peer("b"), local=node("10.244.0.0/24", settings=settings), traffic=view)
    assert carried(now).reason == "Carried"


@pytest.mark.parametrize(
    ("local", "view", "problems", "accepts"),
    [
        (node(*OWN), TrafficView(), (), False),
        (node(*OWN), applied(), (), True),
        (node(*OWN), applied(settings=replace(ON, mark=0x100)), (), False),
        (node(*OWN), applied(), (CarryProblem("ReversePathFilter", "strict"),), False),
        (node(*OWN), applied(), (CarryProblem("RuleConflict", "taken"),), True),
        (node(*OWN, settings=TrafficSettings()), applied(settings=TrafficSettings()), (), False),
    ],
)
def test_a_node_reports_that_it_accepts_what_the_settings_ask_for(
    local: Local,
    view: TrafficView,
    problems: tuple[CarryProblem, ...],
    accepts: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    now = snapshot(local=local, traffic=view, carry_problems=problems)
    assert now.accepts_traffic is accepts
    assert status_answer(now)["traffic"]["accepts"] is accepts


def test_a_node_that_waits_for_a_certificate_with_its_networks_reports_meanwhile() -> None:
    """Without that report it would never get one: the operator waits for it."""
    now = snapshot(local=node())
    assert carried(now).status == "Unknown"
    assert not is_undecided(now)


def test_what_is_routed_is_counted_and_shown_of_each_member() -> None:
    now = snapshot(
        peer("b", "192.0.2.2/32", "10.244.1.0/24"),
        peer("c"),
        local=node(*OWN),
        traffic=applied("192.0.2.2/32"),
    )
    answer = status_answer(now)["traffic"]
    assert (answer["nodes"], answer["routed"], answer["networks"]) == ("All", 1, [*OWN])
    shown = "nodes All, pods All: carried to 1 network of other members; own networks: 192.0.2.100/32, 10"
    assert shown in status_text(status_answer(now))
    members = {member["name"]: member for member in members_answer(now)}
    assert (members["b"]["networks"], members["b"]["carried"]) == (
        ["192.0.2.2/32", "10.244.1.0/24"],
        ["192.0.2.2/32"],
    )
    heading, _, b, c = member_table(members_answer(now)).splitlines()
    assert "CARRIED" in heading
    assert ("1/2" in b, "/" in c) == (True, False)


def test_networks_of_a_member_without_a_certificate_are_not_shown() -> None:
    thief = remembered("b", announced=meta("b", networks=(ip_network("192.0.2.2/32"),)))
    _, member = members_answer(snapshot(thief, local=node(*OWN), traffic=applied()))
    assert (member["networks"], member["carried"]) == ([], [])
