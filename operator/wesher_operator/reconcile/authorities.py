"""Which authorities the agents of a mesh trust, and which one signs; pure.

A mesh has one authority, and two while one replaces the other. The Secret ``<mesh>-authority`` says
what an administrator wants. The rest follows from what is there: the authorities in mesh.json, the
certificates in the WesherNodes and what agents report. Nothing is remembered, so an operator that was
killed, or a Secret that was restored from a backup, needs no special case.

A replacement has three phases. Agents trust both authorities, and the former one signs. Once every
agent on a Ready Node has that mesh.json, the new one signs and each node gets another certificate. The
former one is dropped when no agent announces a certificate of it any more.

Left to others: reading and writing (`certifier`), what a certificate says (`authority`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from wesher_common.certificate import DEFAULT_HOURS, Authority, AuthorityKey, Certificate
from wesher_common.errors import InvalidSpec
from wesher_common.keys import WireGuardPrivateKey
from wesher_common.mesh_document import MAX_AUTHORITIES, MeshDocument
from wesher_common.report import SHOWN_NAMES
from wesher_operator.authority_entries import DROPS, FORMER_SEED, REPLACES, SEED
from wesher_operator.resources.node import WesherNodeSpec, WesherNodeStatus

_LIFE_MS = DEFAULT_HOURS * 3_600_000
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthoritySecret:
    """The Secret ``<mesh>-authority``."""

    current: Authority | None = None
    """None where `problem` says why."""
    problem: str = ""
    """Which entry breaks which rule."""
    former: Authority | None = None
    replaces: AuthorityKey | None = None
    drops: AuthorityKey | None = None

    @classmethod
    def from_data(cls, data: Mapping[str, str]) -> AuthoritySecret:
        """Read the Secret's ``data``."""
        if SEED not in data:
            return cls(problem=f"has no entry {SEED}")
        try:
            current = _entry(data, SEED, _seed)
            replaces, drops = _entry(data, REPLACES, _public_key), _entry(data, DROPS, _public_key)
            former = _entry(data, FORMER_SEED, _seed)
        except InvalidSpec as error:
            return cls(problem=str(error))
        if current is not None and current.key in {replaces, drops}:
            entry = REPLACES if current.key == replaces else DROPS
            return cls(problem=f"{entry}: must name another authority than the entry {SEED} holds")
        return cls(current=current, former=former, replaces=replaces, drops=drops)


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent that may hold a certificate."""

    name: str
    """Member name."""
    spec: WesherNodeSpec
    status: WesherNodeStatus
    is_ready: bool
    """Whether its Node is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorities:
    """What was decided for a mesh."""

    trusted: tuple[AuthorityKey, ...] = ()
    """What mesh.json lists, the newest first."""
    known: tuple[AuthorityKey, ...] = ()
    """Those whose certificates the nodes may have, dropped ones too."""
    signer: Authority | None = None
    """None while no certificate can be issued."""
    signers: tuple[Authority, ...] = ()
    """Each trusted authority whose private key is at hand: revocations are signed with all of them."""
    proof_key: WireGuardPrivateKey | None = None
    problem: str = ""
    """Why there is no authority to sign with; empty if there is one, or will be."""
    change: str = ""
    """How far a replacement has come; empty while there is none."""


def decide(
    secret: AuthoritySecret | None,
    keys: tuple[AuthorityKey, ...],
    agents: Sequence[Agent],
    published: MeshDocument | None,
    *,
    secret_name: str,
    now: datetime,
) -> Authorities:
    """Decide which authorities agents trust, and which one signs.

    Args:
        secret: as it stands; None if it is missing.
        keys: the authorities that agents trust now; none in a new mesh.
        agents: of every WesherNode of the mesh.
        published: mesh.json as agents have it.
        secret_name: for messages.
        now: the time.

    """
    current = secret.current if secret is not None else None
    problem = _problem(secret, keys, secret_name)
    if secret is None or current is None or problem:
        return Authorities(trusted=keys, known=keys, problem=problem)
    known = _distinct(current.key, secret.replaces, secret.drops, *keys)
    in_use = {key: _holders(key, agents, now) for key in keys if key not in {current.key, secret.drops}}
    waiting = [] if secret.drops is not None else _waiting(current.key, agents, published)
    if any(in_use.values()) and waiting:
        signer = secret.former if secret.former is not None and secret.former.key in in_use else None
    else:
        signer = current
    # While the former one signs, its next certificate may be its first.
    kept = [key for key in in_use if in_use[key] or (signer is not None and key == signer.key)]
    kept.sort(key=lambda key: -len(in_use[key]))
    trusted = (current.key, *kept)[:MAX_AUTHORITIES]
    return Authorities(
        trusted=trusted,
        known=known,
        signer=signer,
        signers=tuple(each for each in (current, secret.former) if each is not None and each.key in trusted),
        proof_key=(signer or current).proof_key,
        change=_change(trusted[1:], in_use, waiting if signer is not current else ()),
    )


def _problem(secret: AuthoritySecret | None, keys: Sequence[AuthorityKey], name: str) -> str:
    """Return why the Secret holds no authority that mesh.json may list; empty if it does."""
    if secret is None:
        return f"Secret {name} is missing"
    if secret.current is None:
        return f"Secret {name}: {secret.problem}"
    # Another key without a word about the one it replaces may be another mesh's, or an old backup.
    if keys and not {secret.current.key, secret.replaces, secret.drops} & set(keys):
        return f"Secret {name} holds the authority {secret.current.key}, but agents trust {keys[0]}"
    return ""


def _waiting(current: AuthorityKey, agents: Iterable[Agent], published: MeshDocument | None) -> list[str]:
    """Return the names of the agents on Ready Nodes that do not trust an authority yet.

    Once it has signed for one node there is no way back: the agent of that node announces it.
    """
    agents = list(agents)
    if any(_authority_of(agent) == current.id for agent in agents):
        return []
    identity = published.identity if published is not None else None
    config_hash = (
        published.config_hash
        if published is not None and identity and current in identity.authorities
        else None
    )
    return [
        agent.name
        for agent in agents
        # An agent of a release without certificates proves no key, and refuses no certificate.
        if agent.is_ready and agent.status.key_proof and agent.status.config_hash != config_hash
    ]


def _holders(key: AuthorityKey, agents: Iterable[Agent], now: datetime) -> list[str]:
    """Return the names of the agents that may announce a valid certificate of an authority."""
    moment = round(now.timestamp() * 1000)
    return [agent.name for agent in agents if _may_hold(key, agent, moment)]


def _may_hold(key: AuthorityKey, agent: Agent, moment: int) -> bool:
    certificate = Certificate.from_base64(agent.spec.certificate)
    if certificate is not None and certificate.authority == key.id:
        return certificate.expires > moment
    announced = agent.status.certificate_serial
    # It has not taken its present certificate, and nothing says which authority signed its former one.
    return announced > 0 and announced != agent.spec.serial and announced + _LIFE_MS > moment


def _authority_of(agent: Agent) -> bytes:
    certificate = Certificate.from_base64(agent.spec.certificate)
    return certificate.authority if certificate is not None else b""


def _change(
    former: Sequence[AuthorityKey], in_use: Mapping[AuthorityKey, Sequence[str]], waiting: Sequence[str]
) -> str:
    if not former:
        return ""
    if waiting:
        return f"a new authority replaces {former[0]}: waiting until these agents trust it: {_named(waiting)}"
    holders = in_use[former[0]]
    return f"a new authority replaces {former[0]}, whose certificates are still in use: {_named(holders)}"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(sorted(names)[:SHOWN_NAMES]) + more


def _entry(data: Mapping[str, str], name: str, read: Callable[[str, str], _T]) -> _T | None:
    """Return an entry; None where it is absent.

    Raises:
        InvalidSpec: it cannot be read.

    """
    if name not in data:
        return None
    try:
        return read(base64.b64decode(data[name], validate=True).decode("ascii").strip(), name)
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidSpec(name, "must be standard base64 of 32 bytes") from error


def _seed(text: str, name: str) -> Authority:
    # An error must not show the value.
    try:
        return Authority(base64.b64decode(text, validate=True))
    except (ValueError, InvalidSpec):
        raise InvalidSpec(name, "must be standard base64 of 32 bytes") from None


def _public_key(text: str, name: str) -> AuthorityKey:
    return AuthorityKey.from_base64(text, field_name=name)


def _distinct(*keys: AuthorityKey | None) -> tuple[AuthorityKey, ...]:
    return tuple(dict.fromkeys(key for key in keys if key is not None))
