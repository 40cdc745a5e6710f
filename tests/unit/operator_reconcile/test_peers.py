"""Which machine outside Kubernetes gets which certificate."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest

from wesher_common.certificate import Authority, Certificate, Kind
from wesher_common.conditions import rfc3339
from wesher_common.enrolment import enrol
from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey
from wesher_operator.reconcile.authority import Issued, Ledger, Obstacle, renewal
from wesher_operator.reconcile.facts import MemberFacts, MeshFacts, PeerFacts
from wesher_operator.reconcile.invites import admission
from wesher_operator.reconcile.peer_situation import (
    Sighting,
    Situation,
    is_certified_member,
    sightings,
)
from wesher_operator.reconcile.peer_status import status_of
from wesher_operator.reconcile.peers import Verdict, judge_all, living
from wesher_operator.resources.node import OutsiderReport, WesherNodeSpec, WesherNodeStatus
from wesher_operator.resources.peer import WesherPeerSpec, WesherPeerStatus

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MS = round(NOW.timestamp() * 1000)
OURS, FORMER = Authority(bytes(range(32))), Authority(bytes(range(1, 33)))
SEED = bytes(range(2, 34))
ADDRESS = ip_address("10.189.0.9")
MESH = MeshFacts("demo", "uid", 1, "", deleting=False, spec=None, problem="", status={})


def private(seed: str) -> WireGuardPrivateKey:
    return WireGuardPrivateKey.from_random(hashlib.sha256(seed.encode()).digest())


A, B, NODE = private("a"), private("b"), private("node")


def peer(name: str = "laptop", *, status: WesherPeerStatus | None = None, **spec: Any) -> PeerFacts:
    content = {"meshRef": {"name": "demo"}, **spec}
    return PeerFacts(
        name=f"demo.{name}",
        uid=f"uid-{name}",
        deleting=False,
        spec=WesherPeerSpec.model_validate(content),
        status=status or WesherPeerStatus(),
        created_at=NOW,
    )


def invited(name: str = "laptop", *, hours: float = 1, **more: Any) -> PeerFacts:
    until = rfc3339(NOW + timedelta(hours=hours))
    return peer(name, enrolKey=str(Authority(SEED).key), enrolUntil=until, **more)


def by_key(key: WireGuardPrivateKey, name: str = "laptop", **more: Any) -> PeerFacts:
    return peer(name, publicKey=str(key.public), **more)


def seen(
    name: str = "laptop",
    key: WireGuardPrivateKey = A,
    *,
    enrolled: bool = False,
    seed: bytes = SEED,
    ago: float = 0,
    **more: Any,
) -> Sighting:
    proof = enrol(seed, mesh_uid="uid", name=name, key=key.public) if enrolled else b""
    content = {"serial": 0, "ring": "", **more}
    at = NOW - timedelta(seconds=ago)
    return Sighting(name=name, key=key.public, enrolment=proof, seen_at=at, **content)


def situation(*found: Sighting, now: datetime = NOW, **more: Any) -> Situation:
    by_name: dict[str, list[Sighting]] = {}
    for each in found:
        by_name.setdefault(each.name, []).append(each)
    content = {
        "mesh": MESH,
        "cluster_name": "",
        "nodes": {"node"},
        "ledger": Ledger(),
        "signer": OURS,
        "authorities": (OURS.key,),
        **more,
    }
    return Situation(sightings=by_name, now=now, **content)


def judged(peers: list[PeerFacts], where: Situation) -> dict[str, Verdict]:
    addresses = {each.name: ADDRESS for each in peers}
    return judge_all(peers, where, addresses, {})


def judge(one: PeerFacts, where: Situation) -> Verdict:
    return judged([one], where)[one.name]


def reason(verdict: Verdict) -> str:
    return verdict.problem.reason if verdict.problem is not None else ""


def certified(one: PeerFacts, key: WireGuardPrivateKey, authority: Authority = OURS) -> PeerFacts:
    """Return a machine as it is after it was certified."""
    subject = Verdict(name=one.machine, key=key.public, address=ADDRESS).subject
    assert subject is not None
    issued = authority.issue(subject, serial=MS, kind=Kind.PEER)
    status = WesherPeerStatus(
        public_key=str(key.public),
        overlay_ip=str(ADDRESS),
        certificate=issued.to_base64(),
        serial=issued.serial,
    )
    return replace(one, status=status)


def ledger(one: PeerFacts, key: WireGuardPrivateKey) -> Ledger:
    return Ledger({one.machine: Issued(str(key.public), admission(one))})


def test_a_key_that_an_administrator_vouches_for_is_certified_unseen() -> None:
    verdict = judge(by_key(A), situation())
    assert verdict.issue == Issued(str(A.public), admission(by_key(A)))
    assert verdict.subject is not None
    assert (verdict.subject.public_key, verdict.subject.address) == (A.public, ADDRESS)


def test_an_invite_admits_the_key_that_comes_with_its_signature() -> None:
    assert reason(judge(invited(), situation())) == "NotEnrolled"
    assert reason(judge(invited(), situation(seen()))) == "NotEnrolled"
    verdict = judge(invited(), situation(seen(enrolled=True)))
    assert verdict.issue is not None
    assert verdict.key == A.public


def test_the_member_name_with_the_cluster_name_is_what_an_invited_machine_signs() -> None:
    where = situation(seen("laptop.east", enrolled=True), cluster_name="east")
    verdict = judge(invited(), where)
    assert (verdict.name, verdict.key) == ("laptop.east", A.public)
    assert judge(invited(), situation(seen(enrolled=True), cluster_name="east")).issue is None


def test_the_signature_is_not_one_for_another_key_or_mesh() -> None:
    stolen = replace(seen(key=B), enrolment=seen(enrolled=True).enrolment)
    assert reason(judge(invited(), situation(stolen))) == "InviteDiffers"
    other_mesh = replace(MESH, uid="another")
    assert judge(invited(), situation(seen(enrolled=True), mesh=other_mesh)).issue is None


@pytest.mark.parametrize("lost", [False, True])
def test_an_invite_that_was_used_admits_no_other_key(*, lost: bool) -> None:
    """Also if the ledger was lost: then the WesherPeer's own status says which key it was."""
    one = certified(invited(), A)
    known = Ledger() if lost else ledger(one, A)
    verdict = judge(one, situation(seen(key=B, enrolled=True), ledger=known))
    assert (reason(verdict), verdict.key) == ("InviteUsed", A.public)
    assert verdict.certificate is not None
    assert verdict.issue is None
    # Without a file, the command refuses to show keys on a terminal.
    assert verdict.problem is not None
    assert " --output " in verdict.problem.message.partition("kubectl wesher invite")[2]


def test_the_ledger_decides_which_key_used_an_invite_where_the_status_was_lost() -> None:
    verdict = judge(invited(), situation(seen(key=B, enrolled=True), ledger=ledger(invited(), A)))
    assert (reason(verdict), verdict.key) == ("InviteUsed", A.public)
    assert verdict.issue is not None


def test_a_used_invite_is_renewed_long_after_its_end() -> None:
    one = certified(invited(), A)
    current = Certificate.from_base64(one.status.certificate)
    assert current is not None
    due = renewal(current)
    known = ledger(one, A)
    assert judge(one, situation(ledger=known, now=due - timedelta(seconds=1))).issue is None
    assert judge(one, situation(ledger=known, now=due)).issue == known.entries["laptop"]


def test_a_second_machine_with_the_key_name_does_not_hold_up_a_renewal() -> None:
    """Otherwise each holder of the cluster key could let a certificate expire."""
    one = certified(by_key(A), A)
    now = NOW + timedelta(days=25)
    verdict = judge(one, situation(seen(key=B, ago=-86400 * 25), ledger=ledger(one, A), now=now))
    assert reason(verdict) == "KeyChanged"
    assert verdict.issue is not None


def test_a_new_wesher_peer_of_the_same_name_admits_another_key() -> None:
    former = replace(invited(), uid="deleted")
    verdict = judge(invited(), situation(seen(key=B, enrolled=True), ledger=ledger(former, A)))
    assert (reason(verdict), verdict.key) == ("", B.public)
    assert verdict.issue is not None


def test_an_invite_ends() -> None:
    late = NOW + timedelta(hours=1, seconds=1)
    for found in ((), (seen(enrolled=True),)):
        verdict = judge(invited(), situation(*found, now=late))
        assert (reason(verdict), verdict.issue) == ("InviteExpired", None)
    assert str(A.public) in (verdict.problem.message if verdict.problem else "")
    at_once = judge(invited(), situation(now=late - timedelta(seconds=1)))
    assert (reason(at_once), at_once.again) == ("NotEnrolled", late - timedelta(seconds=1))


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        (rfc3339(NOW + timedelta(days=7)), "NotEnrolled"),
        (rfc3339(NOW + timedelta(days=7, seconds=1)), "InviteTooLong"),
        ("9999-12-31T23:59:59-12:00", "InvalidSpec"),
        ("tomorrow", "InvalidSpec"),
    ],
)
def test_the_end_of_an_invite_is_at_most_seven_days_after_its_creation(until: str, expected: str) -> None:
    one = peer(enrolKey=str(Authority(SEED).key), enrolUntil=until)
    assert reason(judge(one, situation())) == expected


def test_an_invite_that_comes_under_another_name_is_told() -> None:
    found = situation(seen("phone", enrolled=True))
    verdict = judge(invited(), found)
    assert reason(verdict) == "InviteOtherName"
    assert "named phone" in (verdict.problem.message if verdict.problem else "")


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (by_key(A, "node"), "NameInUse"),
        (by_key(A, "localhost"), "NameNotAllowed"),
        (by_key(A, "10.0.0.1"), "NameNotAllowed"),
        (by_key(A, "a" * 64), "NameNotAllowed"),
        (peer(publicKey=str(A.public), meshRef={"name": "demo", "uid": "former"}), "MeshReplaced"),
        (peer(publicKey=str(WireGuardPublicKey(bytes(32)))), "InvalidSpec"),
        (peer(publicKey="abc"), "InvalidSpec"),
        (peer(enrolKey="abc", enrolUntil=rfc3339(NOW)), "InvalidSpec"),
    ],
)
def test_what_cannot_be_certified_is_named(one: PeerFacts, expected: str) -> None:
    verdict = judge(one, situation(seen(enrolled=True)))
    assert (reason(verdict), verdict.issue) == (expected, None)


def test_a_key_is_certified_for_one_member_and_the_older_machine_is_first() -> None:
    of_node = Ledger({"node": Issued(str(NODE.public), "x")})
    assert reason(judge(by_key(NODE), situation(ledger=of_node))) == "KeyInUse"
    older = replace(by_key(A, "z"), created_at=NOW - timedelta(days=1))
    verdicts = judged([by_key(A, "b"), older], situation())
    assert verdicts["demo.z"].issue is not None
    assert reason(verdicts["demo.b"]) == "KeyInUse"


def test_a_key_of_a_member_that_is_gone_is_free() -> None:
    gone = Ledger({"former": Issued(str(A.public), "x")})
    assert judge(by_key(A), situation(ledger=gone)).issue is not None


@pytest.mark.parametrize("change", ["address", "key", "name", "authority", "kind"])
def test_a_certificate_for_something_else_is_replaced(change: str) -> None:
    one = certified(by_key(A), A)
    where = situation(ledger=ledger(one, A))
    if change == "address":
        verdict = judge_all([one], where, {one.name: ip_address("10.189.0.10")}, {})[one.name]
    elif change == "key":
        verdict = judge(by_key(B, status=one.status), where)
    elif change == "name":
        verdict = judge(one, replace(where, cluster_name="east"))
    elif change == "authority":
        verdict = judge(certified(by_key(A), A, FORMER), where)
    else:
        found = Certificate.from_base64(one.status.certificate)
        assert found is not None
        subject = Verdict(name="laptop", key=A.public, address=ADDRESS).subject
        assert subject is not None
        text = OURS.issue(subject, serial=MS, kind=Kind.NODE).to_base64()
        verdict = judge(replace(one, status=one.status.model_copy(update={"certificate": text})), where)
    assert (verdict.certificate, verdict.issue is not None) == (None, True)


def test_the_certificate_of_a_former_authority_counts_until_it_is_replaced() -> None:
    one = certified(by_key(A), A, FORMER)
    where = situation(ledger=ledger(one, A), authorities=(OURS.key, FORMER.key))
    verdict = judge(one, where)
    assert verdict.certificate is not None
    assert verdict.issue is not None
    lost = judge(one, replace(where, signer=None))
    assert lost.certificate is not None


def told(
    one: PeerFacts, verdict: Verdict, where: Situation, obstacle: Obstacle | None = None
) -> tuple[str, str]:
    (entry,) = status_of(one, verdict, where, obstacle)["conditions"]
    return entry["status"], entry["reason"]


def test_the_status_says_what_holds_up_a_certificate_and_when_one_expires() -> None:
    one, where = by_key(A), situation()
    fresh = replace(judge(one, where), issue=None)
    assert told(one, fresh, where) == ("Unknown", "Issuing")
    lost = Obstacle("AuthorityLost", "gone")
    assert told(one, fresh, where, lost) == ("False", "AuthorityLost")
    done = certified(one, A)
    assert told(done, judge(done, where), where) == ("True", "Issued")
    late = situation(now=NOW + timedelta(days=23))
    assert told(done, judge(done, late), late, lost) == ("True", "CertificateExpires")
    assert status_of(done, judge(done, late), late, lost)["certificateDays"] == 7


def test_last_seen_is_written_once_an_hour_and_with_each_change_of_the_ring() -> None:
    def after(one: PeerFacts, *found: Sighting) -> PeerFacts:
        where = situation(*found)
        return replace(
            one, status=WesherPeerStatus.model_validate(status_of(one, judge(one, where), where, None))
        )

    first = after(by_key(A), seen(ring="5a", ago=7000))
    assert (first.status.ring, first.status.last_seen) == ("5a", rfc3339(NOW - timedelta(seconds=7000)))
    assert after(first, seen(ring="5a", ago=3500)).status.last_seen == first.status.last_seen
    assert after(first, seen(ring="5a", ago=3300)).status.last_seen == rfc3339(NOW - timedelta(seconds=3300))
    changed = after(first, seen(ring="5b", ago=3500))
    assert (changed.status.ring, changed.status.last_seen) == ("5b", rfc3339(NOW - timedelta(seconds=3500)))
    assert after(first).status.last_seen == first.status.last_seen
    assert after(first, seen(key=B, ring="5b")).status.last_seen == first.status.last_seen


def test_living_machines_are_those_that_stand_for_a_member() -> None:
    found = living([by_key(A), by_key(B, "node"), by_key(B, "tablet")], situation(cluster_name=""))
    assert list(found) == ["laptop", "tablet"]


def member(*outsiders: dict[str, Any], ago: float = 0) -> MemberFacts:
    spec = {"meshRef": {"name": "demo", "uid": "uid"}, "nodeName": "n", "overlayIP": "10.189.0.1"}
    reports = [OutsiderReport.model_validate(each) for each in outsiders]
    return MemberFacts(
        name="demo.n",
        uid="w",
        deleting=False,
        owner_uid="uid",
        label="demo",
        spec=WesherNodeSpec.model_validate(spec),
        address=ip_address("10.189.0.1"),
        status=WesherNodeStatus(outsiders=reports),
        reported_at=NOW - timedelta(seconds=ago),
    )


def test_the_newest_report_of_a_machine_is_first_and_what_cannot_be_read_is_left_out() -> None:
    proof = base64.b64encode(bytes(64)).decode()
    good = {"publicKey": str(A.public), "enrolment": proof, "certificateSerial": 7, "ringID": "5a"}
    bad = {"publicKey": "x", "enrolment": "é", "ringID": "zz"}
    found = sightings([member({"name": "laptop", **bad}, ago=5), member({"name": "laptop", **good})], now=NOW)
    newest, oldest = found["laptop"]
    assert (newest.key, newest.enrolment, newest.serial, newest.ring) == (A.public, bytes(64), 7, "5a")
    assert (oldest.key, oldest.enrolment, oldest.serial, oldest.ring) == (None, b"", 0, "")


def test_a_report_from_the_future_is_no_newer_than_one_of_now() -> None:
    lie = member({"name": "laptop", "publicKey": str(A.public)}, ago=-86400)
    (only,) = sightings([lie], now=NOW)["laptop"]
    assert only.seen_at == NOW


@pytest.mark.parametrize("said", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"])
def test_a_machine_that_was_last_seen_at_an_impossible_time_is_judged_all_the_same(said: str) -> None:
    one = certified(by_key(A), A)
    one = replace(one, status=one.status.model_copy(update={"last_seen": said}))
    where = situation(seen(serial=1))
    assert status_of(one, judge(one, where), where, None)["lastSeen"] in {said, rfc3339(NOW)}


def test_a_certified_member_announces_a_certificate_with_the_certified_key() -> None:
    one = certified(by_key(A), A)
    assert is_certified_member(seen(serial=1), one)
    assert not is_certified_member(seen(), one)
    assert not is_certified_member(seen(key=B, serial=1), one)
    assert not is_certified_member(seen(serial=1), by_key(A))
    assert not is_certified_member(seen(serial=1), None)
