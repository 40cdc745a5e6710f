"""Of two claimants of one address all nodes program the same one, or neither."""

from ipaddress import ip_address, ip_network

import pytest

from wesher_agent.mesh.desired import (
    desired,
    starting_address,
)
from wesher_agent.mesh.problem import Problem
from wesher_agent.mesh.roster import MemberState
from wesher_common.errors import InvalidSpec
from wesher_common.overlay import candidate_address
from wesher_testing.virtual.members import (
    OVERLAY,
    go_meta,
    local_peer,
    meta,
    owner,
    peers,
    private_key,
    reasons,
    remembered,
)

# Found by search: their hashes are equal in a /24.
TWINS = ("node-61", "node-90")
TWIN_ADDRESS = candidate_address(TWINS[0], OVERLAY)


def test_the_names_are_twins() -> None:
    assert candidate_address(TWINS[0], OVERLAY) == candidate_address(TWINS[1], OVERLAY)


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_that_can_move_a_third_programs_the_smaller_name(order: int) -> None:
    members = [remembered(name, f"192.0.2.{number}") for number, name in enumerate(TWINS, start=1)]
    wish = desired(local_peer(), members[::order])
    assert owner(wish, TWIN_ADDRESS) == [private_key(TWINS[0]).public]
    assert wish.problems == (
        Problem(TWINS[1], "AddressClash", f"has the same overlay address as {TWINS[0]}: {TWIN_ADDRESS}"),
    )
    assert [entry.name for entry in wish.hosts] == [TWINS[0]]


def test_one_that_cannot_move_keeps_it_against_a_smaller_name() -> None:
    members = [remembered(TWINS[0]), remembered(TWINS[1], "192.0.2.2", announced=go_meta(TWINS[1]))]
    wish = desired(local_peer(), members)
    assert owner(wish, TWIN_ADDRESS) == [private_key(TWINS[1]).public]


def test_of_two_that_cannot_move_the_smaller_name_is_programmed() -> None:
    members = [
        remembered(name, f"192.0.2.{last}", announced=go_meta(name)) for last, name in enumerate(TWINS, 1)
    ]
    wish = desired(local_peer(), members)
    assert owner(wish, TWIN_ADDRESS) == [private_key(TWINS[0]).public]
    assert reasons(wish) == {TWINS[1]: "AddressClash"}


def test_the_loser_moves_to_the_next_free_address() -> None:
    taken = remembered("other", "192.0.2.3", announced=meta("other", overlay_address=TWIN_ADDRESS + 1))
    wish = desired(local_peer(TWINS[1]), [remembered(TWINS[0]), taken])
    assert wish.device.address == TWIN_ADDRESS + 2
    assert owner(wish, TWIN_ADDRESS) == [private_key(TWINS[0]).public]
    assert wish.problems == ()


def test_the_loser_does_not_move_to_an_address_of_the_underlay() -> None:
    gateway = TWIN_ADDRESS + 1
    wish = desired(local_peer(TWINS[1], underlay=frozenset({gateway})), [remembered(TWINS[0])])
    assert wish.device.address == TWIN_ADDRESS + 2


def test_the_winner_stays_and_does_not_program_the_loser() -> None:
    wish = desired(local_peer(TWINS[0]), [remembered(TWINS[1])])
    assert wish.device.address == TWIN_ADDRESS
    assert wish.device.peers == ()
    assert wish.problems == (
        Problem(TWINS[1], "AddressClash", f"has the same overlay address as this member: {TWIN_ADDRESS}"),
    )


def test_we_give_way_to_a_go_member_whatever_its_name() -> None:
    wish = desired(local_peer(TWINS[0]), [remembered(TWINS[1], announced=go_meta(TWINS[1]))])
    assert wish.device.address == TWIN_ADDRESS + 1
    assert owner(wish, TWIN_ADDRESS) == [private_key(TWINS[1]).public]


def test_we_stay_where_we_cannot_move_and_route_our_address_to_nobody() -> None:
    own = local_peer(TWINS[1], movable=False)
    wish = desired(own, [remembered(TWINS[0], announced=go_meta(TWINS[0]))])
    assert wish.device.address == TWIN_ADDRESS
    assert wish.device.peers == ()
    assert reasons(wish) == {TWINS[0]: "AddressClash"}


def test_a_member_that_failed_keeps_its_claim_until_it_is_forgotten() -> None:
    wish = desired(local_peer(TWINS[1]), [remembered(TWINS[0], state=MemberState.FAILED)])
    assert wish.device.address == TWIN_ADDRESS + 1


def test_a_full_overlay_is_said_and_nobody_is_programmed_twice() -> None:
    overlay = ip_network("10.189.0.0/30")
    said = [meta(name, overlay_address=ip_address(f"10.189.0.{last}")) for name, last in (("a", 1), ("b", 2))]
    members = [
        remembered(name, f"192.0.2.{last}", announced=announced)
        for last, (name, announced) in enumerate(zip("ab", said, strict=True), 1)
    ]
    wish = desired(local_peer("c", overlay=overlay, address=ip_address("10.189.0.1")), members)
    assert reasons(wish) == {"a": "AddressClash", "c": "OverlayFull"}
    assert list(peers(wish)) == ["10.189.0.2/32"]


def test_of_two_living_members_with_one_key_the_smaller_name_is_programmed() -> None:
    copy = remembered("c", "192.0.2.3", announced=meta("c", public_key=private_key("b").public))
    wish = desired(local_peer(), [copy, remembered("b")])
    assert [entry.name for entry in wish.hosts] == ["b"]
    assert reasons(wish) == {"c": "KeyClash"}


def test_a_renamed_machine_takes_its_key_along_without_a_report() -> None:
    former = remembered("b", state=MemberState.FAILED)
    renamed = remembered("c", announced=meta("c", public_key=private_key("b").public))
    wish = desired(local_peer(), [former, renamed])
    assert [entry.name for entry in wish.hosts] == ["c"]
    assert wish.problems == ()


def test_our_own_former_name_does_not_make_us_move() -> None:
    own = local_peer("me", address=candidate_address("b", OVERLAY), private_key=private_key("b"))
    wish = desired(own, [remembered("b", state=MemberState.FAILED)])
    assert wish.device.address == own.address
    assert wish.problems == ()


def test_it_is_the_go_programs() -> None:
    net = ip_network("10.0.0.0/8")
    assert starting_address("test", net, saved=None, taken=()) == ip_address("10.221.153.165")


def test_a_saved_one_is_kept() -> None:
    saved = ip_address("10.189.0.77")
    assert starting_address("test", OVERLAY, saved=saved, taken=()) == saved


@pytest.mark.parametrize("saved", ["10.190.0.1", "10.189.0.0", "10.189.0.255", "2001:db8::1"])
def test_a_saved_one_that_does_not_fit_is_not(saved: str) -> None:
    address = starting_address("test", OVERLAY, saved=ip_address(saved), taken=())
    assert address == candidate_address("test", OVERLAY)


def test_one_that_others_have_is_not_taken() -> None:
    candidate = candidate_address("test", OVERLAY)
    assert starting_address("test", OVERLAY, saved=None, taken={candidate}) == candidate + 1


def test_a_full_network_is_said() -> None:
    with pytest.raises(InvalidSpec, match=r"overlay network '10\.189\.0\.0/24': has no free address"):
        starting_address("test", OVERLAY, saved=None, taken=set(OVERLAY))
