from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from wesher_operator.reconcile.facts import NodeFacts
from wesher_operator.reconcile.membership import (
    HELD_BACK_FOR,
    REMOVED_FOR,
    HeldBack,
    Released,
    departures,
    selected,
)
from wesher_operator.resources.mesh import WesherMeshSpec
from wesher_operator.taints import Taint

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def node(
    name: str = "n", *, labels: dict[str, str] | None = None, taints: tuple[Taint, ...] = ()
) -> NodeFacts:
    return NodeFacts(
        name=name,
        labels={"kubernetes.io/os": "linux", **(labels or {})},
        addresses=(),
        pod_cidrs=(),
        taints=taints,
    )


def spec(**fields: Any) -> WesherMeshSpec:
    return WesherMeshSpec.model_validate({"overlayCIDR": "10.189.0.0/16", **fields})


CONTROL_PLANE = Taint("node-role.kubernetes.io/control-plane", "", "NoSchedule")


@pytest.mark.parametrize(
    ("tolerations", "taint", "runs"),
    [
        (None, CONTROL_PLANE, True),  # the default tolerates everything
        ([], CONTROL_PLANE, False),
        ([], Taint("node.kubernetes.io/not-ready", "", "NoExecute"), True),
        ([], Taint("node.kubernetes.io/not-ready", "", "NoSchedule"), False),
        ([], Taint("node.kubernetes.io/unschedulable", "", "NoSchedule"), True),
        ([], Taint("node.kubernetes.io/unschedulable", "", "NoExecute"), False),
        ([], Taint("soft", "", "PreferNoSchedule"), True),
        ([{"key": "gpu", "value": "yes"}], Taint("gpu", "yes", "NoSchedule"), True),
        ([{"key": "gpu", "value": "yes"}], Taint("gpu", "no", "NoSchedule"), False),
        ([{"key": "gpu", "operator": "Exists"}], Taint("gpu", "no", "NoSchedule"), True),
        (
            [{"key": "gpu", "operator": "Exists", "effect": "NoExecute"}],
            Taint("gpu", "", "NoSchedule"),
            False,
        ),
        ([{"operator": "Exists", "effect": "NoSchedule"}], Taint("gpu", "", "NoSchedule"), True),
    ],
)
def test_a_tainted_node_is_selected_where_the_daemon_set_controller_would_run_an_agent(
    tolerations: list[dict[str, str]] | None, taint: Taint, *, runs: bool
) -> None:
    fields = {} if tolerations is None else {"tolerations": tolerations}
    assert bool(selected(spec(**fields), [node(taints=(taint,))], ())) is runs


def test_a_taint_against_new_pods_takes_no_node_whose_agent_runs_out_of_the_mesh() -> None:
    """The DaemonSet controller lets that agent run on, so its tunnels must stay too."""
    no_schedule, no_execute = (Taint("db", "", effect) for effect in ("NoSchedule", "NoExecute"))
    nodes = [
        node("runs", taints=(no_schedule,)),
        node("runs-not", taints=(no_schedule,)),
        node("evicted", taints=(no_schedule, no_execute)),
        node("elsewhere", labels={"role": "other"}, taints=(no_schedule,)),
    ]
    running = {"runs", "evicted"}
    assert [each.name for each in selected(spec(tolerations=[]), nodes, running)] == ["runs"]
    assert selected(spec(tolerations=[], nodeSelector={"role": "other"}), nodes, running) == []


def test_a_node_is_selected_by_all_labels_of_the_selector() -> None:
    nodes = [
        node("b", labels={"role": "edge", "zone": "1"}),
        node("a", labels={"role": "edge", "zone": "1"}),
        node("c", labels={"role": "edge"}),
    ]
    wanted = spec(nodeSelector={"role": "edge", "zone": "1"})
    assert [each.name for each in selected(wanted, nodes, ())] == ["a", "b"]


def test_a_deleted_node_leaves_at_once() -> None:
    assert departures(["a"], {"b"}, {"b"}, (), {}, now=NOW).now == ("a",)


def test_an_unselected_node_leaves_after_a_minute_unless_it_is_selected_again() -> None:
    first = departures(["a"], set(), {"a"}, (), {}, now=NOW)
    assert first.now == ()
    assert first.grace_ends == NOW + timedelta(seconds=60)
    later = departures(["a"], set(), {"a"}, (), first.waiting, now=NOW + timedelta(seconds=59))
    assert later.now == ()
    ended = departures(["a"], set(), {"a"}, (), later.waiting, now=NOW + timedelta(seconds=60))
    assert ended.now == ("a",)
    assert departures(["a"], {"a"}, {"a"}, (), later.waiting, now=NOW + timedelta(hours=1)).waiting == {}


def test_an_unselected_node_whose_agent_is_ending_leaves_while_the_agent_can_still_see_it() -> None:
    assert departures(["a", "b"], {"b"}, {"a", "b"}, {"a", "b"}, {}, now=NOW).now == ("a",)


ADDRESS = ip_address("10.189.0.7")


def test_an_address_given_up_is_held_back_an_hour_and_the_name_stays_removed_a_day() -> None:
    released = Released().after([("a", ADDRESS)], [], now=NOW)
    assert released.addresses == {ADDRESS: HeldBack(NOW + HELD_BACK_FOR, "a")}
    assert released.names == {"a": NOW + REMOVED_FOR}
    after_an_hour = released.after([], [], now=NOW + HELD_BACK_FOR)
    assert after_an_hour.addresses == {}
    assert set(after_an_hour.names) == {"a"}
    assert after_an_hour.after([], [], now=NOW + REMOVED_FOR) == Released()


def test_a_name_that_returns_is_removed_no_longer() -> None:
    released = Released().after([("a", ADDRESS)], [], now=NOW)
    assert released.after([], ["a"], now=NOW).names == {}


def test_an_address_is_kept_for_the_one_who_had_it_until_it_has_its_place_again() -> None:
    overlay = ip_network("10.189.0.0/16")
    released = Released().after([("a", ADDRESS)], [], now=NOW)
    back = released.after([], ["a"], now=NOW)
    assert back.kept_for("a", overlay) == ADDRESS
    assert back.kept_for("b", overlay) is None
    assert back.kept_for("a", ip_network("10.189.128.0/17")) is None
    assert back.after([], ["a"], {"a"}, now=NOW) == Released()
    again = released.after([], ["a"], {"a"}, now=NOW).after([("a", ADDRESS)], [], now=NOW + HELD_BACK_FOR)
    assert again.addresses[ADDRESS].until == NOW + 2 * HELD_BACK_FOR


def test_a_deletion_that_is_repeated_does_not_start_the_hour_anew() -> None:
    released = Released().after([("a", ADDRESS)], [], now=NOW)
    assert released.after([("a", ADDRESS)], [], now=NOW + timedelta(minutes=5)) == released


def test_what_was_released_survives_its_config_map_and_a_broken_one_counts_as_nothing() -> None:
    released = Released().after([("a", ADDRESS), ("b.home", ip_address("fd00::7"))], [], now=NOW)
    assert Released.from_json(released.to_json()) == released
    for broken in ("", "[]", "{}", '{"addresses": {"x": "y"}, "names": {}}', "null"):
        assert Released.from_json(broken) == Released()


def test_a_time_that_a_hand_wrote_without_a_zone_or_beyond_all_bounds_stops_nothing() -> None:
    by_hand = '{"addresses": {}, "names": {"a": "2026-11-22T13:00:00", "b": "2026-11-22T11:00:00"}}'
    assert Released.from_json(by_hand).after([], [], now=NOW).names == {"a": NOW + timedelta(hours=1)}
    beyond = '{"addresses": {}, "names": {"a": "9999-12-31T23:59:59-05:00"}}'
    assert Released.from_json(beyond).after([], [], now=NOW) == Released()


def test_however_many_leave_in_a_day_what_is_remembered_fits_into_a_config_map() -> None:
    long = "n" * 310
    released = Released()
    for hour in range(3):
        now = NOW + timedelta(minutes=hour)
        batch = [
            (f"{long}{hour}{number:04}", ip_address(f"fd00::{hour}:{number:x}")) for number in range(1500)
        ]
        released = released.after(batch, [], now=now)
        assert len(released.to_json().encode()) < 1 << 20
    newest = {f"{long}2{number:04}" for number in range(1500)}
    assert set(released.names) == newest, "those that left last are told"
    assert {held.name for held in released.addresses.values()} < newest
