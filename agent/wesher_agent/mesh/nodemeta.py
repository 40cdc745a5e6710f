"""What a member says of itself in its gossip metadata.

Go wesher's ``nodeMeta`` (``cluster/node.go``), read and written, and our further
fields, which Go members ignore. `gob` owns the encoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

from wesher_agent.mesh.device import Endpoint
from wesher_common.keys import WireGuardPublicKey
from wesher_common.overlay import IPAddress, IPNetwork

META_VERSION = 1
MAX_META = 512
"""Bytes; memberlist's ``MetaMaxSize``."""


class Flag(IntFlag):
    """Bits of the field ``Fl``."""

    IN_KUBERNETES = 1
    BEHIND_NAT = 2
    MOVABLE = 4
    """The overlay address may change to settle a clash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeMeta:
    """One member's metadata."""

    overlay_address: IPAddress | None
    public_key: WireGuardPublicKey | None
    version: int = 0
    """0 is a Go member; ours is `META_VERSION`."""
    internal_address: IPAddress | None = None
    """Underlay address for members of the same location, when it is not the gossip address."""
    wireguard_endpoint: Endpoint | None = None
    """When it is not the gossip address and the common port."""
    location: str = ""
    networks: tuple[IPNetwork, ...] = ()
    """Further overlay addresses and routes."""
    flags: Flag = Flag(0)

    def encode(self) -> bytes:
        """Return the gob; byte for byte Go wesher's when only its two fields are set.

        Raises:
            InvalidSpec: longer than memberlist's 512 bytes, or a location too long.

        """
        raise NotImplementedError

    @classmethod
    def decode(cls, data: bytes) -> NodeMeta:
        """Read a member's metadata.

        Raises:
            PeerMisbehaved: it is none, or of wesher 0.2 (``metadata-of-wesher-0.2``).

        """
        raise NotImplementedError
