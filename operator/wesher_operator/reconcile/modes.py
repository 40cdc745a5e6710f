"""Who gets a tunnel in a mesh: its mode, and whether members without a certificate are cut off yet.

Pure. Going from all members to certified ones only happens once every agent on a Ready Node has its
certificate; going back happens only when ``spec.identity`` says ``Open``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wesher_common.mesh_document import IdentityMode, IdentitySettings, MeshDocument, MetadataForm
from wesher_common.report import SHOWN_NAMES
from wesher_operator.reconcile.facts import MemberFacts, MeshFacts, NodeFacts, ObjectFacts

MODE_ENTRY = "mode"
"""Of the ConfigMap ``<mesh>-issued``. An operator of a release without certificates removes
``status.identity`` when it writes the status, and leaves this ConfigMap as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """What was decided for a mesh."""

    mode: IdentityMode
    bound: bool
    form: MetadataForm
    certified: int
    """Of the agents on Ready Nodes, how many announce their certificate."""
    of: int
    """How many agents on Ready Nodes there are."""
    uncertified: tuple[str, ...]
    """Names of the others."""
    waiting_for: tuple[str, ...]
    """Members that a Verified mesh waits for."""
    cut_off: tuple[str, ...]
    """Members that lose their tunnels by this decision."""


def kept_mode(mesh: MeshFacts, config_map: ObjectFacts | None) -> IdentityMode | None:
    """Return the mode that was kept beside the ledger; None if there is none, or it is an earlier mesh's."""
    body = config_map.body if config_map is not None else {}
    owners = (body.get("metadata") or {}).get("ownerReferences") or []
    if mesh.uid not in {owner.get("uid") for owner in owners}:
        return None
    return _mode((body.get("data") or {}).get(MODE_ENTRY))


def _mode(text: object) -> IdentityMode | None:
    return "Open" if text == "Open" else "Verified" if text == "Verified" else None


def mode_of(
    wanted: IdentityMode | None, status: Mapping[str, Any], kept: IdentityMode | None = None
) -> IdentityMode:
    """Return a mesh's mode.

    An unset ``spec.identity`` follows the status, or what was kept where the status says nothing. A mesh
    that no operator has seen before is Verified; one that a release without certificates made, which has
    a key and no mode, is Open.

    Args:
        wanted: ``spec.identity``.
        status: of the mesh, as last written.
        kept: see `kept_mode`.

    """
    known = wanted or _mode((status.get("identity") or {}).get("mode")) or kept
    if known is not None:
        return known
    return "Open" if (status.get("key") or {}).get("id") else "Verified"


def decide(
    wanted: IdentityMode | None,
    status: Mapping[str, Any],
    published: MeshDocument | None,
    agents: Iterable[tuple[str, NodeFacts, MemberFacts | None]],
    external: Iterable[str],
    *,
    kept: IdentityMode | None = None,
    keeps_gob: bool = False,
) -> Mode:
    """Decide a mesh's mode and whether it is bound.

    Args:
        wanted: ``spec.identity``.
        status: of the mesh, as last written.
        published: mesh.json as agents have it.
        agents: member name, Node and WesherNode of each node that should have an agent.
        external: names of external members; none of them has a certificate.
        kept: see `kept_mode`.
        keeps_gob: whether an agent could not read the compact form a short time ago.

    """
    agents, external = list(agents), sorted(external)
    mode = mode_of(wanted, status, kept)
    ready = [(name, member) for name, node, member in agents if node.ready]
    missing = tuple(name for name, member in ready if not _has_announced(member))
    waiting = tuple(name for name, member in ready if not _is_done(member, published))
    before = published.identity if published is not None else None
    if published is not None and before is None:
        # Of an operator without certificates. The nodes have none now, so each would be cut off.
        was_bound = False
    else:
        was_bound = (before is not None and before.mode == "Verified" and before.bound) or bool(
            (status.get("identity") or {}).get("bound")
        )
    blocking: Sequence[str] = waiting if wanted == "Verified" else (*waiting, *external)
    # The first agents of a mesh have not come yet where no Node is Ready.
    bound = mode == "Verified" and (was_bound or (bool(ready) and not blocking))
    # The status is written last: until it says so, the Event may not have been sent.
    is_new = bound and not (status.get("identity") or {}).get("bound")
    others = [name for name, node, member in agents if not node.ready and not _has_announced(member)]
    # An agent of an older release proves no key, and reads no other form.
    reads_compact = all(
        member is None or member.reported_at is None or member.status.key_proof for _, _, member in agents
    )
    return Mode(
        mode=mode,
        bound=bound,
        form="Compact" if bound and reads_compact and not keeps_gob else "Gob",
        certified=len(ready) - len(missing),
        of=len(ready),
        uncertified=missing,
        waiting_for=tuple(blocking)[:SHOWN_NAMES] if mode == "Verified" and not bound else (),
        cut_off=(*others, *external) if is_new else (),
    )


def _has_announced(member: MemberFacts | None) -> bool:
    return (
        member is not None
        and member.spec.serial > 0
        and member.status.certificate_serial == member.spec.serial
    )


def _is_done(member: MemberFacts | None, published: MeshDocument | None) -> bool:
    return (
        member is not None
        and published is not None
        and published.identity is not None
        and _has_announced(member)
        and member.status.config_hash == published.config_hash
    )


def settings(mode: Mode, before: IdentitySettings) -> IdentitySettings:
    """Return what mesh.json says about identity; ``before`` has the keys."""
    return IdentitySettings(
        mode=mode.mode,
        bound=mode.bound,
        form=mode.form,
        authorities=before.authorities,
        proof_key=before.proof_key,
        trusted=before.trusted,
    )
