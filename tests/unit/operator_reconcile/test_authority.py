"""Which node gets which certificate."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from wesher_common.certificate import DEFAULT_HOURS, GRACE_DAYS, Authority, Certificate
from wesher_common.key_proof import key_proof, proof_statement
from wesher_common.keys import WireGuardPrivateKey
from wesher_operator.reconcile.authority import (
    MAX_LEDGER_BYTES,
    Candidate,
    Issued,
    Ledger,
    Obstacle,
    Verdict,
    clock_obstacle,
    days_left,
    incarnation,
    judge_all,
    mesh_condition,
    next_midnight,
    next_serial,
    node_condition,
    renewal,
)
from wesher_operator.reconcile.facts import MemberFacts, NodeFacts, ObjectFacts
from wesher_operator.resources.node import WesherNodeSpec, WesherNodeStatus

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MS = round(NOW.timestamp() * 1000)
OURS = Authority(bytes(range(32)))


def private(seed: str) -> WireGuardPrivateKey:
    return WireGuardPrivateKey.from_random(hashlib.sha256(seed.encode()).digest())


A, B, OTHER = private("a"), private("b"), private("other")


def proof(name: str, key: WireGuardPrivateKey, mesh: str = "uid") -> str:
    made = key_proof(key, OURS.proof_key.public, proof_statement(mesh, name, key.public))
    return base64.b64encode(made or b"").decode()


def candidate(
    name: str,
    key: WireGuardPrivateKey | None,
    *,
    certificate: Certificate | None = None,
    boot: str = "boot",
    uid: str = "w",
    address: str = "10.189.0.1",
    **status: Any,
) -> Candidate:
    spec = {
        "meshRef": {"name": "demo", "uid": "uid"},
        "nodeName": name,
        "overlayIP": address,
        "machine": boot,
        "certificate": certificate.to_base64() if certificate is not None else "",
    }
    if key is not None:
        status = {"publicKey": str(key.public), "keyProof": proof(name, key), "machine": boot, **status}
    member = MemberFacts(
        name=f"demo.{name}",
        uid=uid,
        deleting=False,
        owner_uid="uid",
        label="demo",
        spec=WesherNodeSpec.model_validate(spec),
        address=ip_address(address),
        status=WesherNodeStatus.model_validate(status),
        created_at=NOW,
    )
    node = NodeFacts(name, {}, (), (), (), uid="n", ready=True, machine=(boot, "machine", "system"))
    return Candidate(
        member=member, node=node, name=name, address=ip_address(address), location="", machine=boot
    )


def judged(*candidates: Candidate, ledger: Ledger | None = None, now: datetime = NOW) -> dict[str, Verdict]:
    return judge_all(candidates, ledger or Ledger(), OURS, now=now)


def certified(name: str, key: WireGuardPrivateKey, **more: Any) -> tuple[Candidate, Ledger]:
    """Return a node as it is after it was certified, and the ledger."""
    before = candidate(name, key, **more)
    issued = OURS.issue(before.subject(key.public), serial=MS)
    after = candidate(name, key, certificate=issued, **more)
    return after, Ledger({name: Issued(str(key.public), incarnation(after))})


def test_a_node_that_has_not_reported_gets_none() -> None:
    verdict = judged(candidate("a", None))["a"]
    assert (verdict.reason, verdict.issue) == ("NotReported", None)


def test_a_proven_key_of_a_new_node_is_certified() -> None:
    verdict = judged(candidate("a", A))["a"]
    assert verdict.reason == ""
    assert verdict.issue is not None
    assert verdict.issue.key == str(A.public)


@pytest.mark.parametrize(
    "given",
    [
        "no base64",
        "AAAA",
        proof("b", A),
        proof("a", A, mesh="another"),
        proof("a", OTHER),
    ],
)
def test_without_the_right_proof_none_is_issued(given: str) -> None:
    verdict = judged(candidate("a", A, keyProof=given))["a"]
    assert (verdict.reason, verdict.issue) == ("KeyProof", None)


@pytest.mark.parametrize("key", ["no key", "AAAA"])
def test_a_public_key_that_cannot_be_read_counts_as_none(key: str) -> None:
    assert judged(candidate("a", A, publicKey=key))["a"].reason == "NotReported"


def test_an_agent_of_an_older_release_is_waited_for_and_keeps_what_it_has() -> None:
    """It reports no proof: while agents are brought up to a release, that is nothing to warn of."""
    assert judged(candidate("a", A, keyProof=""))["a"].reason == "NotReported"
    node, ledger = certified("a", A, keyProof="")
    verdict = judged(node, ledger=ledger)["a"]
    assert (verdict.reason, verdict.issue) == ("NotReported", None)
    assert verdict.certificate is not None


def test_a_public_key_of_small_order_is_never_proven() -> None:
    zero = base64.b64encode(bytes(32)).decode()
    assert judged(candidate("a", A, publicKey=zero))["a"].reason == "KeyProof"


def test_a_valid_certificate_stays_until_its_renewal_is_due() -> None:
    node, ledger = certified("a", A)
    verdict = judged(node, ledger=ledger)["a"]
    assert (verdict.reason, verdict.issue, verdict.proven) == ("", None, None)
    assert verdict.renewal is not None
    assert judged(node, ledger=ledger, now=verdict.renewal)["a"].issue is not None


def test_renewals_are_spread_over_the_last_five_per_cent_of_two_thirds_of_the_life() -> None:
    """Later than that, agents would think a certificate expired that the operator had yet to renew."""
    due = {renewal(OURS.issue(candidate("a", A).subject(A.public), serial=MS + n)) - NOW for n in range(200)}
    assert timedelta(days=19) <= min(due) < timedelta(days=19.2)
    assert timedelta(days=19.8) < max(due) <= timedelta(days=DEFAULT_HOURS / 24 - GRACE_DAYS, seconds=1)


def test_another_address_is_certified_at_once_for_the_same_key() -> None:
    node, ledger = certified("a", A)
    moved = replace(node, address=ip_address("10.189.0.9"))
    assert judged(moved, ledger=ledger)["a"].issue is not None


def test_a_changed_key_is_refused_and_the_former_certificate_stays() -> None:
    node, ledger = certified("a", A)
    changed = replace(node, member=replace(node.member, status=candidate("a", OTHER).member.status))
    verdict = judged(changed, ledger=ledger)["a"]
    assert (verdict.reason, verdict.issue) == ("KeyChanged", None)


@pytest.mark.parametrize("more", [{"boot": "second"}, {"uid": "made again"}])
def test_a_changed_key_is_certified_after_a_reboot_or_for_a_new_wesher_node(more: dict[str, str]) -> None:
    _, ledger = certified("a", A)
    verdict = judged(candidate("a", OTHER, **more), ledger=ledger)["a"]
    assert verdict.issue is not None
    assert verdict.issue.key == str(OTHER.public)


def test_a_reboot_is_noted_when_the_agent_has_reported_from_it() -> None:
    """Otherwise the licence to change the key would last until the next renewal."""
    node, ledger = certified("a", A)
    again = replace(node, node=replace(node.node, machine=("second", "machine", "system")), machine="second")
    assert judged(again, ledger=ledger)["a"].proven is None  # the report is from before
    status = again.member.status.model_copy(update={"machine": "second"})
    reported = replace(again, member=replace(again.member, status=status))
    proven = judged(reported, ledger=ledger)["a"].proven
    assert proven is not None
    noted = ledger.with_entries({"a": proven}, ["a"])
    changed = replace(reported, member=replace(reported.member, status=candidate("a", OTHER).member.status))
    assert judged(changed, ledger=noted)["a"].reason == "KeyChanged"


def test_of_two_nodes_with_one_key_the_one_that_has_it_keeps_it() -> None:
    node, ledger = certified("a", A)
    verdicts = judged(node, candidate("b", A), ledger=ledger)
    assert verdicts["a"].reason == ""
    assert (verdicts["b"].reason, verdicts["b"].issue) == ("KeyInUse", None)
    both_new = judged(candidate("a", A), candidate("b", A))
    assert [verdict.issue is not None for verdict in both_new.values()].count(True) == 1


def test_the_key_of_a_node_that_is_gone_may_be_certified_under_another_name() -> None:
    _, ledger = certified("a", A)
    assert judged(candidate("b", A), ledger=ledger)["b"].issue is not None


def test_without_the_ledger_the_certificates_say_which_keys_were_certified() -> None:
    node, _ = certified("a", A)
    assert judged(node)["a"].reason == ""
    changed = replace(node, member=replace(node.member, status=candidate("a", OTHER).member.status))
    assert judged(changed)["a"].reason == "KeyChanged"
    assert judged(node, candidate("b", A))["b"].reason == "KeyInUse"


def test_a_node_that_gets_another_member_name_keeps_its_key() -> None:
    """As all do when spec.clusterName is edited."""
    node, ledger = certified("a", A)
    renamed = replace(node, name="a.east")
    assert judged(renamed, ledger=ledger)["a.east"].issue is not None


def test_serials_rise_whatever_the_clock_does() -> None:
    def issued(serial: int) -> Certificate:
        return OURS.issue(candidate("a", A).subject(A.public), serial=serial)

    assert next_serial([], NOW) == MS
    assert next_serial([issued(MS), issued(MS + 5)], NOW) == MS + 6
    assert next_serial([issued(MS - 5)], NOW) == MS
    # What a hand wrote decades ahead does not count: agents refuse it.
    assert next_serial([issued(2**47)], NOW) == MS


def test_the_ledger_is_read_as_it_was_written_and_nonsense_is_nobody() -> None:
    _, ledger = certified("a", A)
    facts = ObjectFacts("demo-issued", {"data": {"issued.json": ledger.to_json()}})
    assert Ledger.of(facts) == ledger
    assert Ledger.of(None) == Ledger()
    for text in ("", "no JSON", "[]", "null", "5", '"a"'):
        assert Ledger.of(ObjectFacts("demo-issued", {"data": {"issued.json": text}})) == Ledger()


@pytest.mark.parametrize(
    "damaged",
    [
        1,
        None,
        [],
        {},
        {"key": "x"},
        {"incarnation": "x"},
        {"key": 5, "incarnation": "x"},
        {"key": "x", "incarnation": None},
    ],
)
def test_a_damaged_entry_of_the_ledger_costs_no_other(damaged: Any) -> None:
    _, ledger = certified("a", A)
    text = json.dumps({"damaged": damaged, **json.loads(ledger.to_json())})
    assert Ledger.of(ObjectFacts("demo-issued", {"data": {"issued.json": text}})) == ledger


def test_a_ledger_from_a_backup_does_not_take_a_certified_key_for_a_changed_one() -> None:
    """Between the backup and now, an administrator admitted another key."""
    node, _ = certified("a", A)
    older = Ledger({"a": Issued(str(OTHER.public), incarnation(node))})
    verdict = judged(node, ledger=older)["a"]
    assert (verdict.reason, verdict.certificate is not None) == ("", True)
    assert verdict.proven is not None
    assert verdict.proven.key == str(A.public)
    # Nor does it give the key to another node.
    assert judged(node, candidate("b", A), ledger=older)["b"].reason == "KeyInUse"


def test_a_node_that_reports_the_key_of_another_does_not_hold_it_when_the_ledger_is_lost() -> None:
    """Its certificate is for its own key; by time of creation it would come first."""
    thief, _ = certified("a", A)
    thief = replace(thief, member=replace(thief.member, status=candidate("a", B).member.status))
    victim, _ = certified("b", B)
    verdicts = judged(thief, victim)
    assert verdicts["b"].reason == ""
    assert verdicts["a"].reason == "KeyInUse"


def test_the_ledger_fits_into_a_config_map_and_forgets_those_that_are_gone_first() -> None:
    entry = Issued(str(A.public), "0" * 12)
    many = Ledger({f"gone-{number}-{'x' * 200}": entry for number in range(5000)})
    cut = many.with_entries({"a": entry}, ["b"])
    assert len(cut.to_json()) <= MAX_LEDGER_BYTES
    assert "a" in cut.entries
    assert f"gone-4999-{'x' * 200}" in cut.entries
    assert f"gone-0-{'x' * 200}" not in cut.entries


@pytest.mark.parametrize(
    ("seconds", "problem"),
    [(0, False), (60, False), (-60, False), (61, True), (-61, True), (10 * 365 * 86400, True)],
)
def test_a_clock_more_than_a_minute_off_signs_nothing(seconds: int, problem: bool) -> None:  # noqa: FBT001
    found = clock_obstacle(NOW + timedelta(seconds=seconds), NOW)
    assert (found is not None) == problem
    assert found is None or found.reason == "ClockDiffers"


def test_an_unknown_time_of_the_api_server_signs_nothing() -> None:
    assert clock_obstacle(NOW, None) is not None


def test_days_left_change_at_midnight_for_all() -> None:
    issued = OURS.issue(candidate("a", A).subject(A.public), serial=MS)
    assert days_left(issued, NOW) == 30
    midnight = next_midnight(NOW)
    assert midnight == datetime(2026, 11, 23, tzinfo=UTC)
    assert days_left(issued, midnight - timedelta(seconds=1)) == 30
    assert days_left(issued, midnight) == 29
    assert days_left(issued, NOW + timedelta(days=99)) == 0
    assert days_left(None, NOW) == 0


def test_conditions_say_what_keeps_a_certificate_from_being_issued() -> None:
    off = Obstacle("NodeRestrictionOff", "the policy is missing")
    waiting, refused = Verdict(reason=""), Verdict(reason="KeyChanged", message="why")
    issued = Verdict(reason="", certificate=OURS.issue(candidate("a", A).subject(A.public), serial=MS))

    def told(verdict: Verdict, obstacle: Obstacle | None = None, now: datetime = NOW) -> tuple[str, str]:
        condition = node_condition(verdict, obstacle, now)
        return condition.status, condition.reason

    assert told(issued) == told(issued, off) == ("True", "Issued")
    assert told(waiting, off) == ("False", "NodeRestrictionOff")
    assert told(refused) == ("False", "KeyChanged")
    assert told(issued, off, NOW + timedelta(days=23)) == ("True", "CertificateExpires")

    def of_mesh(**more: Any) -> tuple[str, str]:
        given: dict[str, Any] = {"verdicts": {"a": issued}, "obstacle": None, "waiting": (), "now": NOW}
        condition = mesh_condition(**{**given, **more})
        return condition.status, condition.reason

    assert of_mesh() == ("True", "AllCertified")
    assert of_mesh(waiting=["b"]) == ("Unknown", "WaitingForAgents")
    assert of_mesh(obstacle=off) == ("False", "NodeRestrictionOff")
    assert of_mesh(verdicts={"a": issued, "b": refused}) == ("False", "KeyChanged")
    assert of_mesh(now=NOW + timedelta(days=24)) == ("False", "CertificateExpires")


def test_other_networks_bring_another_certificate_at_once() -> None:
    after, ledger = certified("a", A)
    verdict = judged(replace(after, networks=(ip_network("192.0.2.1/32"),)), ledger=ledger)["a"]
    assert (verdict.reason, verdict.certificate) == ("", None)
    assert verdict.issue is not None


def test_a_key_stays_certified_when_networks_change_and_the_ledger_is_lost() -> None:
    """The WesherNode says which networks its certificate lists."""
    before = replace(candidate("a", A), networks=(ip_network("192.0.2.1/32"),))
    issued = OURS.issue(before.subject(A.public), serial=MS)
    after = candidate("a", A, certificate=issued)
    spec = after.member.spec.model_copy(update={"routes": ["192.0.2.1/32"]})
    after = replace(after, member=replace(after.member, spec=spec))
    moved = replace(after, networks=(ip_network("192.0.2.9/32"),))
    assert judged(moved)["a"].reason == ""
    assert judged(moved)["a"].issue is not None
    assert judged(replace(after, networks=before.networks))["a"].certificate == issued
