"""The state file: what an agent must still know after a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wesher_agent.mesh.roster import SavedMember
from wesher_common.keys import KeyRing, WireGuardPrivateKey
from wesher_common.mesh_document import MeshDocument
from wesher_common.overlay import IPAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Its content; every field may be missing."""

    key_ring: KeyRing | None = None
    nodes: tuple[SavedMember, ...] = ()
    private_key: WireGuardPrivateKey | None = None
    name: str = ""
    """Under which we gossiped; ``overlay_address`` counts for this name only."""
    overlay_address: IPAddress | None = None
    incarnation: int = 0
    """The last one of our own."""
    mesh: MeshDocument | None = None
    unknown: Mapping[str, Any] = field(default_factory=dict)
    """Keys of a newer release, written back as they were."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of reading a state file."""

    state: State
    warnings: tuple[str, ...] = ()
    """One line each: where a broken file was set aside, and each field that was lost."""


class StateFile:
    """``/var/lib/wesher/<interface>.json``."""

    def __init__(self, path: Path) -> None:
        raise NotImplementedError

    def lock(self) -> None:
        """Keep others from this file until the process ends or `unlock`.

        Raises:
            InvalidSpec: another agent holds it.

        """
        raise NotImplementedError

    def unlock(self) -> None:
        """Let go of the lock."""
        raise NotImplementedError

    def load(self) -> Loaded:
        """Read it, or ``state.json`` beside it (wesher before 0.3), or start empty."""
        raise NotImplementedError

    def save(self, state: State) -> None:
        """Replace it.

        Raises:
            CannotWrite: warn once and run on from memory.

        """
        raise NotImplementedError
