"""Which authorities agents trust while one replaces another, and which one signs."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from wesher_common.certificate import Authority, AuthorityKey, Subject
from wesher_common.keys import WireGuardPublicKey
from wesher_common.mesh_document import IdentitySettings, MeshDocument
from wesher_operator.authority_entries import DROPS, FORMER_SEED, REPLACES, SEED
from wesher_operator.reconcile.authorities import Agent, Authorities, AuthoritySecret, decide
from wesher_operator.resources.node import WesherNodeSpec, WesherNodeStatus

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MS = round(NOW.timestamp() * 1000)
OLD, NEW, THIRD = (Authority(hashlib.sha256(name.encode()).digest()) for name in ("old", "new", "third"))


def document(*authorities: Authority) -> MeshDocument:
    network = ip_network("10.189.0.0/16")
    identity = IdentitySettings(authorities=tuple(each.key for each in authorities))
    return MeshDocument(name="demo", uid="uid", overlay=network, allocation=network, identity=identity)


def agent(
    name: str,
    by: Authority | None = OLD,
    *,
    read: MeshDocument | None = None,
    ready: bool = True,
    serial: int = MS,
    **status: Any,
) -> Agent:
    """Return an agent that announces its certificate and has proven its key, by default."""
    certificate = ""
    if by is not None:
        key = WireGuardPublicKey(hashlib.sha256(name.encode()).digest())
        subject = Subject(name=name, public_key=key, address=ip_address("10.189.0.1"))
        certificate = by.issue(subject, serial=serial).to_base64()
    spec = {
        "meshRef": {"name": "demo", "uid": "uid"},
        "nodeName": name,
        "overlayIP": "10.189.0.1",
        "certificate": certificate,
        "serial": serial if by is not None else 0,
    }
    said = {
        "keyProof": "proof",
        "certificateSerial": spec["serial"],
        "configHash": read.config_hash if read is not None else "",
        **status,
    }
    return Agent(
        name, WesherNodeSpec.model_validate(spec), WesherNodeStatus.model_validate(said), is_ready=ready
    )


def decided(
    secret: AuthoritySecret | None, published: MeshDocument | None, *agents: Agent, now: datetime = NOW
) -> Authorities:
    identity = published.identity if published is not None else None
    keys = identity.authorities if identity is not None else ()
    return decide(secret, keys, agents, published, secret_name="demo-authority", now=now)  # noqa: S106 - a name


REPLACING = AuthoritySecret(current=NEW, former=OLD, replaces=OLD.key)
DROPPING = AuthoritySecret(current=NEW, drops=OLD.key)
LOST = AuthoritySecret(current=NEW, replaces=OLD.key)


def keys(*authorities: Authority) -> tuple[AuthorityKey, ...]:
    return tuple(each.key for each in authorities)


def outcome(found: Authorities) -> tuple[tuple[AuthorityKey, ...], Authority | None]:
    assert not found.problem
    return found.trusted, found.signer


def test_a_mesh_has_one_authority_which_signs() -> None:
    found = decided(AuthoritySecret(current=OLD), document(OLD), agent("a", read=document(OLD)))
    assert outcome(found) == (keys(OLD), OLD)
    assert (found.change, found.proof_key) == ("", OLD.proof_key)


def test_first_agents_trust_both_and_the_former_one_signs() -> None:
    found = decided(REPLACING, document(OLD), agent("a", read=document(OLD)))
    assert outcome(found) == (keys(NEW, OLD), OLD)
    assert found.proof_key == OLD.proof_key
    assert "a" in found.change


def test_the_new_one_signs_once_each_agent_on_a_ready_node_trusts_it() -> None:
    both = document(NEW, OLD)
    late = agent("b", read=document(OLD))
    waiting = decided(REPLACING, both, agent("a", read=both), late)
    assert outcome(waiting) == (keys(NEW, OLD), OLD)
    assert "waiting until these agents trust it: b" in waiting.change
    done = decided(REPLACING, both, agent("a", read=both), agent("b", read=both))
    assert outcome(done) == (keys(NEW, OLD), NEW)
    assert done.proof_key == NEW.proof_key
    assert "still in use: a, b" in done.change


@pytest.mark.parametrize("other", [{"ready": False}, {"keyProof": ""}])
def test_neither_an_absent_agent_nor_one_without_certificates_is_waited_for(other: dict[str, Any]) -> None:
    both = document(NEW, OLD)
    found = decided(REPLACING, both, agent("a", read=both), agent("b", read=document(OLD), **other))
    assert found.signer == NEW


def test_there_is_no_way_back_once_the_new_one_has_signed() -> None:
    """Any change of mesh.json makes agents be late again."""
    both = document(NEW, OLD)
    found = decided(REPLACING, both, agent("a", NEW, read=document(OLD)), agent("b", read=document(OLD)))
    assert outcome(found) == (keys(NEW, OLD), NEW)


def test_the_former_one_is_dropped_when_no_agent_announces_a_certificate_of_it() -> None:
    both = document(NEW, OLD)
    unannounced = agent("b", NEW, serial=MS + 5, certificateSerial=MS)
    assert outcome(decided(REPLACING, both, agent("a", NEW), unannounced)) == (keys(NEW, OLD), NEW)
    assert outcome(decided(REPLACING, both, agent("a", NEW), agent("b", NEW))) == (keys(NEW), NEW)


def test_a_machine_that_is_off_keeps_the_former_one_until_its_certificate_has_expired() -> None:
    both = document(NEW, OLD)
    off = agent("b", NEW, serial=MS + 5, certificateSerial=MS, ready=False)
    for by, kept in ((timedelta(days=29), keys(NEW, OLD)), (timedelta(days=31), keys(NEW))):
        assert decided(REPLACING, both, agent("a", NEW), off, now=NOW + by).trusted == kept
    unsigned = agent("b", OLD, ready=False)
    assert decided(REPLACING, both, agent("a", NEW), unsigned).trusted == keys(NEW, OLD)
    assert decided(REPLACING, both, unsigned, now=NOW + timedelta(days=31)).trusted == keys(NEW)


def test_a_stolen_authority_is_dropped_at_once() -> None:
    for published in (document(OLD), document(NEW, OLD), document(NEW)):
        found = decided(DROPPING, published, agent("a", read=document(OLD)))
        assert outcome(found) == (keys(NEW), NEW)
        assert OLD.key in found.known


def test_a_lost_authority_is_replaced_and_nothing_is_signed_until_agents_trust_the_new_one() -> None:
    first = decided(LOST, document(OLD), agent("a", read=document(OLD)))
    assert outcome(first) == (keys(NEW, OLD), None)
    assert first.proof_key == NEW.proof_key
    both = document(NEW, OLD)
    assert outcome(decided(LOST, both, agent("a", read=both))) == (keys(NEW, OLD), NEW)


def test_a_secret_from_a_backup_before_the_replacement_ends_it_the_other_way() -> None:
    restored = AuthoritySecret(current=OLD)
    both = document(NEW, OLD)
    begun = decided(restored, both, agent("a", NEW, read=both), agent("b", OLD, read=both))
    assert outcome(begun) == (keys(OLD, NEW), OLD)
    assert outcome(decided(restored, document(OLD, NEW), agent("a"), agent("b"))) == (keys(OLD), OLD)


def test_a_secret_from_a_backup_after_the_replacement_is_not_taken() -> None:
    found = decided(AuthoritySecret(current=OLD), document(NEW), agent("a", NEW))
    assert (found.trusted, found.signer) == (keys(NEW), None)
    assert str(OLD.key) in found.problem
    assert str(NEW.key) in found.problem


def test_agents_never_trust_more_than_two() -> None:
    """As where the Secret is lost during a replacement: the one with more certificates stays."""
    again = AuthoritySecret(current=THIRD, replaces=NEW.key)
    both = document(NEW, OLD)
    found = decided(again, both, agent("a", NEW), agent("b", OLD), agent("c", OLD))
    assert found.trusted == keys(THIRD, OLD)


def test_without_a_secret_agents_keep_what_they_trust() -> None:
    found = decided(None, document(NEW, OLD), agent("a"))
    assert (found.trusted, found.signer, found.problem) == (
        keys(NEW, OLD),
        None,
        "Secret demo-authority is missing",
    )


def entry(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


SEED_TEXT = base64.b64encode(NEW.seed).decode()


def test_the_secret_is_read_as_it_was_written() -> None:
    old_seed = base64.b64encode(OLD.seed).decode()
    data = {SEED: entry(f"{SEED_TEXT}\n"), FORMER_SEED: entry(old_seed), REPLACES: entry(str(OLD.key))}
    assert AuthoritySecret.from_data(data) == REPLACING
    assert AuthoritySecret.from_data({SEED: entry(SEED_TEXT), DROPS: entry(str(OLD.key))}) == DROPPING


@pytest.mark.parametrize("name", [SEED, FORMER_SEED, REPLACES, DROPS])
@pytest.mark.parametrize("value", ["", "?", entry(""), entry("AAAA"), entry("no base64"), "/w=="])
def test_an_entry_of_the_secret_that_cannot_be_read_is_named_and_its_value_is_not(
    name: str, value: str
) -> None:
    data = {SEED: entry(SEED_TEXT), name: value}
    found = AuthoritySecret.from_data(data)
    assert found.current is None
    assert found.problem.startswith(f"{name}: ") or found.problem.startswith(f"{name} ")
    if name in {SEED, FORMER_SEED}:
        assert "AAAA" not in found.problem
    assert decided(found, document(OLD), agent("a")).trusted == keys(OLD)


@pytest.mark.parametrize("name", [REPLACES, DROPS])
def test_an_authority_does_not_replace_itself(name: str) -> None:
    found = AuthoritySecret.from_data({SEED: entry(SEED_TEXT), name: entry(str(NEW.key))})
    assert found.problem.startswith(f"{name}: must name another authority")


def test_a_secret_without_a_seed_says_so() -> None:
    assert AuthoritySecret.from_data({}).problem == "has no entry seed"
