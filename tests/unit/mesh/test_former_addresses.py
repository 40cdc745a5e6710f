"""The overlay addresses of members that are gone are remembered for a day."""

from ipaddress import ip_address
from math import inf

from wesher_agent.mesh.former_addresses import KEPT_SECONDS, MOST, FormerAddress, FormerAddresses
from wesher_agent.mesh.roster import MemberState, RosterMember
from wesher_testing.virtual.members import meta, remembered

ONE, TWO = ip_address("10.200.0.1"), ip_address("10.200.0.2")


def having(name: str, address: object, state: MemberState = MemberState.ALIVE) -> RosterMember:
    return remembered(name, announced=meta(name, overlay_address=address), state=state)


def test_an_address_is_kept_for_a_day_after_its_member_left() -> None:
    former = FormerAddresses([], now=0.0)
    former.note([having("a", ONE)], now=1.0)
    assert (set(former.addresses), former.next_timer) == (set(), inf)
    former.note([having("a", ONE, MemberState.LEFT)], now=2.0)
    former.note([having("a", ONE, MemberState.LEFT)], now=60.0)
    former.note([], now=90.0)
    assert set(former.addresses) == {ONE}
    assert former.next_timer == 2.0 + KEPT_SECONDS
    assert not former.forget(now=1.0 + KEPT_SECONDS)
    assert former.forget(now=former.next_timer)
    assert set(former.addresses) == set()


def test_an_address_that_a_member_gave_up_counts_and_one_that_another_took_does_not() -> None:
    former = FormerAddresses([], now=0.0)
    former.note([having("a", ONE)], now=1.0)
    former.note([having("a", TWO)], now=2.0)
    assert set(former.addresses) == {ONE}
    former.note([having("a", TWO), having("b", ONE)], now=3.0)
    assert set(former.addresses) == set()


def test_what_was_saved_goes_on_where_it_was() -> None:
    former = FormerAddresses([FormerAddress(TWO, 10.0), FormerAddress(ONE, 3600.0)], now=100.0)
    assert former.next_timer == 100.0 - 3600.0 + KEPT_SECONDS
    assert former.saved(now=101.0) == (FormerAddress(ONE, 3601.0), FormerAddress(TWO, 11.0))


def test_of_too_many_the_oldest_go() -> None:
    """A holder of the key can make members up and have them leave."""
    former = FormerAddresses([], now=0.0)
    for number in range(MOST + 3):
        address = ip_address(int(ip_address("10.0.0.0")) + number)
        former.note([having("a", address, MemberState.LEFT)], now=float(number))
    assert len(former.addresses) == MOST
    assert ip_address("10.0.0.2") not in former.addresses
    assert ip_address("10.0.0.3") in former.addresses
