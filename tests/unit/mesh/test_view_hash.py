"""A view's hash: equal on two nodes that see the same members alive."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from wesher_agent.mesh.desired import (
    view_hash,
)
from wesher_agent.mesh.identity import Rank, Verdict
from wesher_agent.mesh.roster import MemberState, RosterMember
from wesher_testing.virtual.members import local_peer, meta, private_key, remembered


def test_two_nodes_that_see_each_other_agree() -> None:
    one = view_hash(local_peer("a"), [remembered("b")])
    other = view_hash(local_peer("b"), [remembered("a")])
    assert one == other
    assert len(one) == 12


@pytest.mark.parametrize(
    "different",
    [
        [],
        [remembered("b", state=MemberState.FAILED)],
        [remembered("b", state=MemberState.LEFT)],
        [remembered("b", announced=meta("b", overlay_address=ip_address("10.189.0.9")))],
        [remembered("b", announced=meta("b", public_key=private_key("c").public))],
        [remembered("b", problem="gob-truncated")],
        [remembered("b"), remembered("c")],
    ],
)
def test_anything_that_matters_changes_it(different: list[RosterMember]) -> None:
    assert view_hash(local_peer("a"), different) != view_hash(local_peer("a"), [remembered("b")])


@pytest.mark.parametrize(
    "same",
    [
        [remembered("b", "192.0.2.99")],
        [remembered("b", state=MemberState.SUSPECT)],
        [remembered("b"), remembered("c", state=MemberState.FAILED)],
        [remembered("b"), remembered("c", state=MemberState.LEFT)],
    ],
)
def test_what_nodes_may_know_differently_does_not(same: list[RosterMember]) -> None:
    """How long a failed member is remembered, or suspected, differs from node to node."""
    assert view_hash(local_peer("a"), same) == view_hash(local_peer("a"), [remembered("b")])


def test_where_only_certified_members_get_a_tunnel_an_invented_one_changes_no_view() -> None:
    """Each node remembers other invented members, so the views would never be equal."""
    local = local_peer("a", only_certified=True)
    certified = replace(remembered("b"), verdict=Verdict(Rank.OWN, 1, None))
    assert view_hash(local, [certified, remembered("x")]) == view_hash(local, [certified])
    assert view_hash(local, [certified]) != view_hash(local, [])
