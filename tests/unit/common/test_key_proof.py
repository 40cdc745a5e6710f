"""The proof that an agent has its WireGuard key, from both sides."""

import json
from pathlib import Path

from wesher_common.certificate import Authority
from wesher_common.key_proof import key_proof, proof_statement
from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey

VECTORS = json.loads((Path(__file__).parent / "identity_vectors.json").read_text())
AGENT = WireGuardPrivateKey(bytes.fromhex(VECTORS["wireguard_private"]))
OPERATOR = WireGuardPrivateKey(bytes.fromhex(VECTORS["proof_private"]))
STATEMENT = bytes.fromhex(VECTORS["proof_statement"])


def test_the_proof_is_the_vectors_and_the_same_from_both_sides() -> None:
    assert proof_statement("mesh-uid", "node-17", AGENT.public) == STATEMENT
    wanted = bytes.fromhex(VECTORS["proof"])
    assert key_proof(AGENT, OPERATOR.public, STATEMENT) == wanted
    assert key_proof(OPERATOR, AGENT.public, STATEMENT) == wanted


def test_another_node_another_mesh_or_another_key_has_another_proof() -> None:
    proof = key_proof(OPERATOR, AGENT.public, STATEMENT)
    for mesh, node in (("mesh-uid", "node-18"), ("other", "node-17")):
        assert key_proof(AGENT, OPERATOR.public, proof_statement(mesh, node, AGENT.public)) != proof
    thief = WireGuardPrivateKey(bytes(range(32)))
    assert key_proof(thief, OPERATOR.public, STATEMENT) != proof


def test_a_public_key_that_makes_every_proof_the_same_proves_nothing() -> None:
    """RFC 7748: with a point of small order every private key gives a shared secret of zero."""
    assert key_proof(OPERATOR, WireGuardPublicKey(bytes(32)), STATEMENT) is None
    assert key_proof(OPERATOR, WireGuardPublicKey(bytes([1]) + bytes(31)), STATEMENT) is None


def test_the_operators_key_for_proofs_comes_from_the_authoritys_and_is_another() -> None:
    authority = Authority(bytes.fromhex(VECTORS["authority_seed"]))
    again = Authority(bytes.fromhex(VECTORS["authority_seed"]))
    assert authority.proof_key.public == again.proof_key.public
    assert authority.proof_key.secret != authority.seed
    assert authority.proof_key.public != Authority(bytes(32)).proof_key.public
