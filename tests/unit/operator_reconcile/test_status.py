from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest

from wesher_agent.kube.node_status import node_status
from wesher_agent.mesh.roster import MemberState
from wesher_common.conditions import rfc3339
from wesher_common.keys import ClusterKey, KeyRing
from wesher_operator.reconcile.agent_pod import PodTrouble
from wesher_operator.reconcile.facts import MemberFacts, MeshFacts, NodeFacts
from wesher_operator.reconcile.refusal import Refusal
from wesher_operator.reconcile.status import Findings, mesh_status, next_change, report_window, stale_after
from wesher_operator.resources.mesh import TrustedAuthority, WesherMeshSpec
from wesher_operator.resources.node import WesherNodeSpec, WesherNodeStatus
from wesher_testing.agents.snapshots import snapshot
from wesher_testing.virtual.members import remembered

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
RING = KeyRing(ClusterKey(bytes(32)))


def mesh(**status: Any) -> MeshFacts:
    spec = WesherMeshSpec.model_validate({"overlayCIDR": "10.189.0.0/16"})
    return MeshFacts(
        "demo", "uid", 3, "2026-11-22T00:00:00Z", deleting=False, spec=spec, problem="", status=status
    )


def node(name: str) -> NodeFacts:
    address = (("InternalIP", ip_address("10.0.0.1")),)
    return NodeFacts(name, {}, address, (), ())


def member(
    name: str, *, ago: float | None = 0, ready: bool = True, age: float = 0, **status: Any
) -> MemberFacts:
    spec = {"meshRef": {"name": "demo", "uid": "uid"}, "nodeName": name, "overlayIP": "10.189.0.1"}
    if ago is not None:
        condition = {
            "type": "Ready",
            "status": "True" if ready else "False",
            "reason": "Ready" if ready else "ProbesFailed",
            "lastTransitionTime": rfc3339(NOW),
        }
        reported = rfc3339(NOW - timedelta(seconds=ago))
        status = {"conditions": [condition], "viewHash": "v", "lastReportTime": reported, **status}
    return MemberFacts(
        name=f"demo.{name}",
        uid="u",
        deleting=False,
        owner_uid="uid",
        label="demo",
        spec=WesherNodeSpec.model_validate(spec),
        address=ip_address(spec["overlayIP"]),
        status=WesherNodeStatus.model_validate(status),
        reported_at=None if ago is None else NOW - timedelta(seconds=ago),
        created_at=NOW - timedelta(seconds=age),
    )


def status_of(
    *members: MemberFacts, now: datetime = NOW, before: dict[str, Any] | None = None, **findings: Any
) -> dict[str, Any]:
    desired = [node(each.spec.node_name) for each in members]
    found = Findings(**{"desired": desired, "members": members, "ring": RING, **findings})
    return mesh_status(mesh(**before or {}), found, now=now)


def condition(status: dict[str, Any], kind: str) -> tuple[str, str, str]:
    entry = next(entry for entry in status["conditions"] if entry["type"] == kind)
    return entry["status"], entry["reason"], entry["message"]


def test_a_mesh_whose_nodes_are_all_ready_is_ready() -> None:
    status = status_of(member("a"), member("b"))
    assert condition(status, "Ready") == ("True", "AllReady", "all 2 nodes are ready")
    assert status["members"]["summary"] == "2/2"
    assert status["key"]["id"] == RING.primary.id
    assert status["observedGeneration"] == 3


def test_each_kind_of_trouble_is_counted_and_named_with_the_worst_first() -> None:
    old = stale_after(4).total_seconds() + 1
    status = status_of(member("a"), member("b", ready=False), member("c", ago=old), member("d", ago=None))
    assert condition(status, "Ready") == (
        "False",
        "MembersNotReady",
        "not ready: b (ProbesFailed), c (NoReport), d (NotReported)",
    )
    assert [(m["name"], m["state"]) for m in status["memberList"]] == [
        ("b", "NotReady"),
        ("c", "Stale"),
        ("d", "Starting"),
        ("a", "Ready"),
    ]
    counts = status["members"]
    assert (counts["desired"], counts["ready"], counts["notReady"], counts["stale"]) == (4, 1, 2, 1)


def test_a_mesh_whose_agents_have_only_begun_waits_for_them_for_three_minutes() -> None:
    young = status_of(member("a"), member("b", ago=None))
    assert condition(young, "Ready") == ("Unknown", "WaitingForAgents", "no report yet from: b")
    late = member("b", ago=None, age=180)
    assert condition(status_of(member("a"), late), "Ready") == (
        "False",
        "MembersNotReady",
        "not ready: b (NotReported)",
    )
    waiting = Findings(desired=[], members=[member("b", ago=None, age=100)])
    assert next_change(waiting, now=NOW) == NOW + timedelta(seconds=80)


def test_an_agent_that_does_not_run_is_told_by_its_pod_and_once_for_all_nodes() -> None:
    refused = PodTrouble("PodRefused", "has no agent pod: quota")
    absent = PodTrouble("ImageNotPulled", "cannot pull x:1: no such host")
    troubles = {"b": refused, "a": refused, "c": absent}
    status = status_of(member("a"), member("b", ago=None), member("c", ago=None), pod_troubles=troubles)
    named = "not ready: a (PodRefused), b (PodRefused), c (ImageNotPulled)"
    told = f"{named}; a {refused.message}; c {absent.message}"
    assert condition(status, "Ready") == ("False", "MembersNotReady", told)


def test_an_annotation_that_cannot_be_used_degrades_the_mesh_and_is_named() -> None:
    status = status_of(member("a"), desired=[replace(node("a"), problems=("Node a annotation x 'y': rule",))])
    assert condition(status, "Degraded") == ("True", "InvalidAnnotation", "Node a annotation x 'y': rule")
    assert condition(status, "Ready")[0] == "True"


def test_a_network_that_overlaps_a_running_mesh_degrades_it_and_is_named_first() -> None:
    overlap = "spec.overlayCIDR 10.189.0.0/16 overlaps the InternalIP 10.189.9.9 of Node a, which"
    told = member("a", peers={"unreachable": ["b"]})
    status = status_of(told, member("b"), member("c"), overlaps=[overlap])
    said = ("True", "OverlappingNetwork", f"{overlap}; a cannot reach b")
    assert condition(status, "Degraded") == said
    assert condition(status, "Ready")[0] == "True"


def of_machine(now: str, **report: Any) -> MemberFacts:
    """Return the WesherNode of a Node whose machine is ``now``, with a report about another or the same."""
    found = member("a", **report)
    return replace(found, spec=found.spec.model_copy(update={"machine": now}))


@pytest.mark.parametrize("ready", [True, False])
def test_a_report_of_a_machine_that_was_rebooted_or_replaced_since_says_nothing_of_the_node(
    *, ready: bool
) -> None:
    former = of_machine("new", machine="old", ready=ready, peers={"unreachable": ["b", "c"]})
    status = status_of(former, member("b"), member("c"))
    assert condition(status, "Ready") == ("Unknown", "WaitingForAgents", "no report yet from: a")
    assert condition(status, "Degraded")[0] == "False"
    back = of_machine("new", machine="new")
    assert condition(status_of(back, member("b"), member("c")), "Ready")[0] == "True"


def test_a_node_with_a_former_machines_report_is_unreachable_if_the_others_say_so_and_stale_after_long() -> (
    None
):
    others = (member("b", peers={"unreachable": ["a"]}), member("c", peers={"unreachable": ["a"]}))
    blamed = status_of(of_machine("new", machine="old"), *others)
    assert condition(blamed, "Ready")[2] == "not ready: a (Unreachable)"
    old = of_machine("new", machine="old", ago=stale_after(3).total_seconds() + 1)
    assert condition(status_of(old, member("b"), member("c")), "Ready")[2] == "not ready: a (NoReport)"


@pytest.mark.parametrize(("now", "reported"), [("new", ""), ("", "old"), ("same", "same")])
def test_a_report_counts_where_it_is_not_known_whether_the_machine_is_another(
    now: str, reported: str
) -> None:
    """An agent of an earlier release reports no machine, and a Node without a kubelet shows none."""
    status = status_of(of_machine(now, machine=reported), member("b"))
    assert condition(status, "Ready")[0] == "True"


def test_many_that_are_not_ready_are_counted_after_the_first_three() -> None:
    status = status_of(*(member(f"n{number}", ready=False) for number in range(5)))
    assert condition(status, "Ready")[2].endswith("n2 (ProbesFailed) and 2 more")


def test_a_node_that_knows_why_it_cannot_be_reached_is_believed_before_the_others() -> None:
    blame = {"peers": {"unreachable": ["b"]}}
    status = status_of(member("a", **blame), member("b", ready=False), member("c", **blame))
    assert condition(status, "Ready")[2] == "not ready: b (ProbesFailed)"
    stale = stale_after(3).total_seconds() + 1
    status = status_of(member("a", **blame), member("b", ready=False, ago=stale), member("c", **blame))
    assert condition(status, "Ready")[2] == "not ready: b (Unreachable)"


def test_a_node_is_unreachable_when_more_than_half_of_the_others_say_so() -> None:
    blame = {"peers": {"unreachable": ["c"]}}
    half = status_of(member("a", **blame), member("b"), member("c"))
    assert condition(half, "Ready")[0] == "True"
    assert condition(half, "Degraded") == ("True", "PairsUnreachable", "a cannot reach c")
    most = status_of(member("a", **blame), member("b", **blame), member("c"))
    assert condition(most, "Ready") == ("False", "MembersNotReady", "not ready: c (Unreachable)")


def test_what_a_dead_agent_said_of_others_long_ago_counts_no_more() -> None:
    old = stale_after(3).total_seconds() + 1
    blame = {"peers": {"unreachable": ["c"]}}
    status = status_of(member("a", ago=old, **blame), member("b", ago=old, **blame), member("c"))
    assert [m["name"] for m in status["memberList"] if m["state"] == "Ready"] == ["c"]


def test_outsiders_are_listed_once_and_do_not_count_as_desired() -> None:
    outsider = {"name": "laptop", "address": "10.189.9.9"}
    status = status_of(member("a", outsiders=[outsider]), member("b", outsiders=[outsider]))
    assert status["members"]["outside"] == 1
    assert status["members"]["desired"] == 2
    assert status["memberList"][-1]["kind"] == "Outsider"


def test_members_of_trusted_clusters_are_told_from_other_external_members() -> None:
    """An agent that names a cluster which is not trusted is not believed."""
    entry = {"clusterName": "west", "key": "A" * 43 + "=", "cidrs": ["10.189.128.0/17"]}
    seen = [
        {"name": "n1.west", "cluster": "west"},
        {"name": "n1.north", "cluster": "north"},
        {"name": "laptop", "cluster": "west"},
    ]
    found = Findings(desired=[node("a")], members=[member("a", outsiders=seen)], ring=RING)
    facts = mesh()
    assert facts.spec is not None
    trusting = facts.spec.model_copy(update={"trusted_authorities": [TrustedAuthority.model_validate(entry)]})
    listed = mesh_status(replace(facts, spec=trusting), found, now=NOW)["memberList"]
    kinds = {each["name"]: each["kind"] for each in listed if each["kind"] != "Node"}
    assert kinds == {"n1.west": "OtherCluster", "n1.north": "Outsider", "laptop": "Outsider"}


def test_a_list_of_more_than_a_hundred_is_cut_and_says_so() -> None:
    status = status_of(*(member(f"n{number:03}") for number in range(101)))
    assert len(status["memberList"]) == 100
    assert status["membersTruncated"]
    assert status["members"]["desired"] == 101


def test_views_that_differ_are_unconverged_once_every_agent_had_time_to_report() -> None:
    members = member("a"), member("b"), member("c", viewHash="other")
    window = report_window(3)
    young = status_of(*members, views_differ_since=NOW - window / 2)
    assert condition(young, "Converged")[0] == "True"
    old = status_of(*members, views_differ_since=NOW - window)
    assert condition(old, "Converged") == (
        "False",
        "ViewsDiffer",
        "2 different views; differing from the majority: c",
    )
    assert condition(status_of(member("a", ago=None)), "Converged")[0] == "Unknown"


def test_of_twenty_nodes_that_die_together_all_are_unreachable_at_once() -> None:
    """Every agent reports the same names, so those that it cut off would stay ready until they are stale."""
    dead = [f"dead-{number:02}" for number in range(20)]
    alive = [f"alive-{number:02}" for number in range(30)]
    gone = [remembered(name, state=MemberState.FAILED) for name in dead]
    reported = node_status(snapshot(*map(remembered, alive[1:]), *gone), (), time=NOW)
    living = [member(name, peers=reported["peers"]) for name in alive]
    status = status_of(*living, *(member(name, ago=120) for name in dead))
    found = {entry["name"]: (entry["state"], entry["reason"]) for entry in status["memberList"]}
    assert found == dict.fromkeys(dead, ("NotReady", "Unreachable")) | dict.fromkeys(alive, ("Ready", ""))


def test_a_refused_mesh_is_not_ready_for_that_reason_and_publishes_nothing() -> None:
    status = status_of(member("a"), refusal=Refusal("Conflict", "two want one"), published=False)
    assert condition(status, "Ready") == ("False", "Conflict", "two want one")
    assert condition(status, "ConfigPublished")[0] == "False"


def test_a_bad_key_outranks_members_in_the_ready_condition() -> None:
    status = status_of(member("a", ready=False), ring=None, key_problem="Secret k: has no entry cluster-key")
    assert condition(status, "Ready") == ("False", "InvalidKey", "Secret k: has no entry cluster-key")


def test_the_key_that_agents_go_on_with_stays_named_while_its_secret_is_gone_or_the_mesh_refused() -> None:
    """Whether one is named decides whether a new key may be made."""
    before = status_of(member("a"))
    assert before["key"]["id"] == RING.primary.id
    for trouble in ({"key_problem": "Secret k is gone"}, {"refusal": Refusal("Conflict", "two want one")}):
        assert status_of(member("a"), before=before, ring=None, **trouble)["key"] == before["key"]


def test_a_node_that_has_no_place_yet_is_told_from_one_for_which_there_is_no_address() -> None:
    found = {"desired": [node("a"), node("b")], "members": [], "without_address": {"b"}}
    reasons = {entry["name"]: entry["reason"] for entry in status_of(**found)["memberList"]}
    assert reasons == {"a": "NotReported", "b": "NoFreeAddress"}


def test_a_report_from_a_clock_far_ahead_is_believed_and_breaks_nothing() -> None:
    ahead = replace(member("a"), reported_at=datetime.max.replace(tzinfo=UTC))
    assert condition(status_of(ahead), "Ready")[0] == "True"
    assert next_change(Findings(desired=[], members=[ahead]), now=NOW) == NOW + stale_after(1)


def test_what_the_api_server_says_at_length_is_cut() -> None:
    status = status_of(member("a"), failure=Refusal("RefusedByCluster", "no " * 50_000))
    assert all(len(entry["message"]) <= 1024 for entry in status["conditions"])


def test_a_ready_mesh_stays_ready_while_new_nodes_start_and_shows_them() -> None:
    """An autoscaler adds nodes all day, and each would set off an alert."""
    before = status_of(member("a"), member("b"))
    joining = status_of(member("a"), member("b"), member("c", ago=None, age=179), before=before)
    assert condition(joining, "Ready") == (
        "True",
        "NodesStarting",
        "2 of 3 nodes are ready; starting: c",
    )
    assert joining["members"]["summary"] == "2/3"
    late = status_of(member("a"), member("b"), member("c", ago=None, age=180), before=joining)
    assert condition(late, "Ready") == ("False", "MembersNotReady", "not ready: c (NotReported)")
    again = status_of(member("a"), member("b"), member("c", ago=None), before=late)
    assert condition(again, "Ready")[0] == "Unknown", "one that was not ready has to become so first"


def test_a_node_that_starts_again_is_not_a_new_one() -> None:
    """Its peers send to a machine that is gone, or that is not up yet."""
    before = status_of(member("a"), member("b"))
    rebooted = member("b")
    spec = rebooted.spec.model_copy(update={"machine": "second"})
    status = rebooted.status.model_copy(update={"machine": "first"})
    after = status_of(member("a"), replace(rebooted, spec=spec, status=status), before=before)
    assert condition(after, "Ready") == ("Unknown", "WaitingForAgents", "no report yet from: b")


def test_a_new_node_does_not_hide_another_that_failed() -> None:
    before = status_of(member("a"), member("b"))
    status = status_of(member("a"), member("b", ready=False), member("c", ago=None), before=before)
    assert condition(status, "Ready")[0] == "False"


def test_a_configuration_that_is_published_stays_so_when_another_object_is_refused() -> None:
    refused = Refusal("RefusedByCluster", "a policy forbids it")
    published = status_of(member("a"), failure=refused)
    assert condition(published, "ConfigPublished")[:2] == ("True", "Published")
    assert condition(published, "Ready") == ("False", "RefusedByCluster", "a policy forbids it")
    absent = status_of(member("a"), failure=refused, published=False)
    assert condition(absent, "ConfigPublished")[:2] == ("False", "RefusedByCluster")


def test_an_overlay_that_machines_outside_cannot_join_says_so() -> None:
    assert condition(status_of(member("a")), "ConfigPublished")[2] == ""
    spec = WesherMeshSpec.model_validate({"overlayCIDR": "10.189.0.0/20"})
    found = Findings(desired=[node("a")], members=[member("a")], ring=RING)
    status = mesh_status(replace(mesh(), spec=spec), found, now=NOW)
    assert condition(status, "ConfigPublished") == (
        "True",
        "Published",
        (
            "external machines can join by invite only: "
            "otherwise the prefix length of overlayCIDR must be a multiple of 8, not 20"
        ),
    )


def test_a_mesh_without_nodes_says_so() -> None:
    assert condition(status_of(), "Ready")[1] == "NoNodes"


def test_the_same_findings_later_give_the_same_status() -> None:
    members = member("a"), member("b", ready=False)
    first = status_of(*members)
    found = Findings(desired=[node("a"), node("b")], members=members, ring=RING)
    assert mesh_status(mesh(**first), found, now=NOW + timedelta(minutes=5)) == first


def test_the_status_is_looked_at_again_when_the_first_report_gets_too_old() -> None:
    members = member("a", ago=100), member("b", ago=10), member("c", ago=None, age=180)
    found = Findings(desired=[], members=members)
    moment = next_change(found, now=NOW + timedelta(seconds=1))
    assert moment == NOW - timedelta(seconds=100) + stale_after(3)
    assert next_change(Findings(desired=[], members=()), now=NOW) is None
