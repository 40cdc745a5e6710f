"""Claims of our name from elsewhere: our former address, a rival, or old packets sent again."""

from __future__ import annotations

from wesher_agent.mesh.name_conflicts import ASK_SECONDS, STANDING_SECONDS, TELL_SECONDS, Claim, NameConflicts
from wesher_agent.swim.address import Address

FORMER, NEW, FOREIGN = (Address(f"192.0.2.{last}", 7946) for last in (1, 2, 3))


def test_a_rival_that_an_answer_names_is_a_fault_for_a_while() -> None:
    claims = NameConflicts([FORMER])
    assert claims.rival(now=10.0) == ""
    assert claims.judge(FOREIGN, asked_for=True, now=10.0) is Claim.RIVAL
    assert claims.rival(now=10.0 + STANDING_SECONDS) == str(FOREIGN)
    assert claims.rival(now=10.1 + STANDING_SECONDS) == ""


def test_a_claim_that_comes_by_itself_is_no_fault_and_is_asked_about_once_in_a_while() -> None:
    """It may be a packet of a member that was renamed, or of ours before we moved twice."""
    claims = NameConflicts([])
    assert claims.judge(FOREIGN, asked_for=False, now=10.0) is Claim.DOUBTFUL
    assert claims.judge(FOREIGN, asked_for=False, now=10.0 + ASK_SECONDS) is Claim.NOTHING
    assert claims.judge(FOREIGN, asked_for=False, now=10.1 + ASK_SECONDS) is Claim.DOUBTFUL
    assert claims.rival(now=11.0) == ""
    assert claims.judge(FOREIGN, asked_for=True, now=11.0) is Claim.RIVAL


def test_who_answers_that_we_are_where_we_were_is_told_once_in_a_while() -> None:
    claims = NameConflicts([FORMER])
    assert claims.judge(FORMER, asked_for=True, now=10.0) is Claim.FORMER
    assert claims.judge(FORMER, asked_for=True, now=10.0 + TELL_SECONDS) is Claim.NOTHING
    assert claims.judge(FORMER, asked_for=True, now=10.1 + TELL_SECONDS) is Claim.FORMER
    assert claims.rival(now=11.0) == ""


def test_our_old_words_that_come_by_themselves_change_nothing_and_keep_nobody_from_being_told() -> None:
    claims = NameConflicts([FORMER])
    assert claims.judge(FORMER, asked_for=False, now=10.0) is Claim.NOTHING
    assert claims.judge(FORMER, asked_for=True, now=10.0) is Claim.FORMER


def test_an_address_that_a_report_named_is_a_former_one_even_where_it_was_taken_for_a_rivals() -> None:
    claims = NameConflicts([])
    assert not claims.was_at(FORMER)
    assert claims.is_former(FORMER)
    assert claims.judge(FORMER, asked_for=True, now=10.0) is Claim.FORMER
    assert claims.judge(FOREIGN, asked_for=True, now=10.0) is Claim.RIVAL
    assert claims.was_at(FOREIGN)
    assert claims.rival(now=10.0) == ""


def test_an_address_left_is_a_former_one_and_one_come_back_to_is_not() -> None:
    claims = NameConflicts([])
    claims.move(FORMER, NEW)
    assert claims.judge(FORMER, asked_for=True, now=10.0) is Claim.FORMER
    claims.move(NEW, FORMER)
    assert claims.judge(NEW, asked_for=True, now=200.0) is Claim.FORMER
    assert claims.judge(FORMER, asked_for=True, now=200.0) is Claim.RIVAL


def test_a_rival_is_a_copy_if_it_has_the_key_too() -> None:
    claims = NameConflicts([])
    claims.judge(FOREIGN, asked_for=True, is_copy=True, now=10.0)
    assert claims.copy(now=10.0) == str(FOREIGN)
    assert claims.copy(now=10.1 + STANDING_SECONDS) == ""
    claims.judge(FOREIGN, asked_for=True, now=200.0)
    assert claims.copy(now=200.0) == "", "it has got another key"
