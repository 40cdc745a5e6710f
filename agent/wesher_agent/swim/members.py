"""What is known of each member."""

from __future__ import annotations

from dataclasses import dataclass

from wesher_agent.swim.address import Address
from wesher_agent.wire.messages import State, Versions


DEFAULT_VERSIONS = Versions()
"""Protocol 2 of [1, 5], as memberlist 0.6 speaks it, and no delegate."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member as this engine believes it to be."""

    name: str
    address: Address
    meta: bytes
    incarnation: int
    state: State
    versions: Versions
    state_change: float
    """When ``state`` was entered, on the engine's clock."""

    @property
    def is_gone(self) -> bool:
        """Whether it is dead or has left (`state.go`, DeadOrLeft)."""
        return self.state >= State.DEAD


@dataclass(frozen=True, slots=True)
class LocalNode:
    """This member as it presents itself."""

    name: str
    address: Address
    """Where others reach it, which need not be where it listens."""
    meta: bytes = b""
    versions: Versions = DEFAULT_VERSIONS
