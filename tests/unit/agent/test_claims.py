"""Claims of our name from elsewhere: our former address, or a rival."""

from __future__ import annotations

from wesher_agent.runtime.claims import STANDING_SECONDS, TELL_SECONDS, Claim, NameClaims
from wesher_agent.swim.address import Address

FORMER, NEW, FOREIGN = (Address(f"192.0.2.{last}", 7946) for last in (1, 2, 3))


def test_a_claim_from_elsewhere_is_a_rivals_and_a_fault_for_a_while() -> None:
    claims = NameClaims([FORMER])
    assert claims.rival(now=10.0) == ""
    assert claims.judge(FOREIGN, now=10.0) is Claim.RIVAL
    assert claims.rival(now=10.0 + STANDING_SECONDS) == str(FOREIGN)
    assert claims.rival(now=10.1 + STANDING_SECONDS) == ""


def test_a_claim_from_where_we_were_is_no_fault_and_is_answered_once_in_a_while() -> None:
    claims = NameClaims([FORMER])
    assert claims.judge(FORMER, now=10.0) is Claim.FORMER
    assert claims.judge(FORMER, now=10.0 + TELL_SECONDS) is Claim.TOLD
    assert claims.judge(FORMER, now=10.1 + TELL_SECONDS) is Claim.FORMER
    assert claims.rival(now=11.0) == ""


def test_an_address_left_is_a_former_one_and_one_come_back_to_is_not() -> None:
    claims = NameClaims([])
    claims.move(FORMER, NEW)
    assert claims.judge(FORMER, now=10.0) is Claim.FORMER
    claims.move(NEW, FORMER)
    assert claims.judge(NEW, now=200.0) is Claim.FORMER
    assert claims.judge(FORMER, now=200.0) is Claim.RIVAL
