"""What the operator has given this node, as the member uses it.

The WesherNode that carries it, with its uid and its conditions, is `kube.node_spec`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from wesher_common.certificate import Certificate
from wesher_common.overlay import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A node's place in its mesh."""

    overlay_address: IPAddress | None = None
    """None while the operator has not given one."""
    advertise_address: IPAddress | None = None
    """What members elsewhere dial; None leaves the choice to the host's addresses."""
    location: str = ""
    routes: tuple[IPNetwork, ...] = ()
    certificate: Certificate | None = None
    """Of this node, by the mesh's authority."""
