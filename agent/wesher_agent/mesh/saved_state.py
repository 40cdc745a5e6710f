"""What a member keeps for its next start, as a value.

Its text is `files.state_format`'s; where the file lies, `files.state`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from wesher_agent.mesh.device import Endpoint
from wesher_agent.mesh.former_addresses import FormerAddress
from wesher_agent.mesh.identity import SavedTrust
from wesher_agent.mesh.place import Place
from wesher_agent.mesh.roster import SavedMember
from wesher_agent.swim.address import Address
from wesher_agent.swim.members import MAX_INCARNATION
from wesher_agent.swim.tombstones import Tombstone
from wesher_common.certificate import Certificate
from wesher_common.join_file import JoinFile
from wesher_common.keys import KeyRing, WireGuardPrivateKey, WireGuardPublicKey
from wesher_common.mesh_document import MeshDocument
from wesher_common.overlay import IPAddress, IPNetwork

INCARNATION_ROOM = 2**16
"""An incarnation this close to the last one is not used: more refutations than many months bring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """The state of a member; everything may be missing."""

    key_ring: KeyRing | None = None
    nodes: tuple[SavedMember, ...] = ()
    private_key: WireGuardPrivateKey | None = field(default=None, repr=False)
    name: str = ""
    """The name it gossiped under; the addresses and ``incarnation`` belong to that name."""
    gossip_address: Address | None = None
    """What other members dialled."""
    overlay_address: IPAddress | None = None
    advertise_address: IPAddress | None = None
    """As given by the operator, like the next two: for a start without an API server."""
    location: str = ""
    routes: tuple[IPNetwork, ...] = ()
    certificate: Certificate | None = None
    trust: tuple[SavedTrust, ...] = ()
    """What is known of the authorities, so that no wrong clock makes an old certificate valid."""
    incarnation: int = 0
    """The member's last incarnation."""
    tombstones: tuple[Tombstone, ...] = ()
    """Members that were gone, whose old news must not be believed."""
    endpoints: Mapping[WireGuardPublicKey, Endpoint] = field(default_factory=dict)
    """Where the last handshake with each member proved it to be: gossip may say something else."""
    former_addresses: tuple[FormerAddress, ...] = ()
    """Overlay addresses of members that are gone, to which nothing must leave in clear."""
    carried: frozenset[IPNetwork] = frozenset()
    """Its certified networks that the other members have had the time to learn of: a restart goes on sending
    from them through the tunnels."""
    mesh: MeshDocument | None = None
    """Only in Kubernetes: the mesh it was a member of."""
    joined: JoinFile | None = None
    """Only of an invited machine: what it was invited with, and the key ring that it has now."""
    invite_problem: str = ""
    """Why that could not be read; empty if it could, or if there is none."""
    unknown: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Keys of another release, written back unchanged."""

    @property
    def place(self) -> Place | None:
        """What the operator had given; None outside Kubernetes without a certificate."""
        if self.mesh is None and self.certificate is None:
            return None
        return Place(
            overlay_address=self.overlay_address,
            advertise_address=self.advertise_address,
            location=self.location,
            routes=self.routes,
            certificate=self.certificate,
        )

    def kept_for(self, document: MeshDocument) -> SavedState:
        """Return the part that counts in a mesh: of another mesh only what belongs to this machine."""
        if self.mesh is None or self.mesh.uid == document.uid:
            return self
        return self.of_this_machine()

    def under_name(self, name: str) -> SavedState:
        """Return the state for this member under a name: the others learn that it left a former one.

        Its first state exchange has both, so no tunnel is away in between.
        """
        if name == self.name:
            return self
        former = (
            (Tombstone(name=self.name, incarnation=self.incarnation, address=self.gossip_address, left=True),)
            if self.gossip_address is not None
            else ()
        )
        return replace(self, name=name, tombstones=(*self.tombstones, *former))

    def of_this_machine(self) -> SavedState:
        """Return the part that belongs to this machine, whichever mesh it joins."""
        return SavedState(private_key=self.private_key, incarnation=self.incarnation)


def first_incarnation(*, wall_clock: float, saved: int) -> int:
    """Return an incarnation above any this name has used, even if the saved one was lost.

    An incarnation near the last one was forced on this member, or comes from a wrong
    clock. It is ignored: otherwise every later run would start where it can refute
    nothing. If others hold the member there, they say so, and it refutes them.
    """
    likely = [n for n in (int(wall_clock), saved + 1) if n < MAX_INCARNATION - INCARNATION_ROOM]
    return max(1, *likely) if likely else 1
