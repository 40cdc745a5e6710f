"""What a member asks its shell to do; the shell answers with the input named in each.

Values only. The real shell is `runtime.agent`, the simulator's is a virtual agent.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wesher_agent.mesh.desired import Desired
from wesher_agent.mesh.saved_state import SavedState
from wesher_common.keys import WireGuardPublicKey
from wesher_common.mesh_document import MeshDocument, WireGuardSettings
from wesher_common.overlay import IPAddress
from wesher_common.seeds import SeedAddress


@dataclass(frozen=True, slots=True)
class Listen:
    """Listen on UDP and TCP there, and nowhere else; answer with `MeshMember.listening`."""

    addresses: tuple[IPAddress, ...]
    port: int


@dataclass(frozen=True, slots=True)
class Apply:
    """Bring device and hosts file to the desired state; answer with `MeshMember.applied`."""

    desired: Desired
    document: MeshDocument
    """The mesh that it was made for: which backend may be used, and what the hosts file holds."""


@dataclass(frozen=True, slots=True)
class Save:
    """Write the state; answer with `MeshMember.saved`."""

    state: SavedState = field(repr=False)


@dataclass(frozen=True, slots=True)
class Resolve:
    """Look a seed's name up; answer with `MeshMember.resolved`."""

    seed: SeedAddress


@dataclass(frozen=True, slots=True)
class Report:
    """The view changed: the status may have to be reported."""


@dataclass(frozen=True, slots=True)
class AskForPlace:
    """This node may have been removed from its mesh: ask the API server."""


@dataclass(frozen=True, slots=True)
class Left:
    """The others know that this member is gone for good. The last output."""

    forgets_state: bool
    """Whether to delete the state file with its keys. Outside Kubernetes it stays unless the user
    asks for it, as with the Go program, so that the next start finds the mesh."""


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """`MeshMember.rekey` is done: the state file has the new key, and a restart follows."""

    key: WireGuardPublicKey
    problem: str
    """Why it could not be saved, so that the former key stays; empty if it was."""


@dataclass(frozen=True, slots=True)
class Restart:
    """End, and keep the membership for the agent that goes on. The last output."""

    former: WireGuardSettings
    following: WireGuardSettings
    """The settings that the next agent starts with."""
    is_rekeyed: bool = False
    """Whether the next agent has another WireGuard key."""

    def keeps_device(self, kind: str) -> bool:
        """Tell whether the device is left to the next agent, which adopts it, or takes it away itself.

        Args:
            kind: ``Kernel`` or ``Userspace``; one interface name cannot belong to both.

        """
        if self.is_rekeyed:
            return False
        return (
            self.former == self.following
            # A device under another name stays until the next agent has all that it needs for its own.
            or self.former.interface != self.following.interface
            or self.following.mode in {"Auto", kind}
        )


Output = Listen | Apply | Save | Resolve | Report | AskForPlace | Rekeyed | Left | Restart
