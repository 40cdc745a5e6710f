"""``WesherNode.status`` as a value, and its form for the API server; pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wesher_agent.kube.node_spec import Object
from wesher_common.conditions import Condition, carry_over, rfc3339
from wesher_common.report import MAX_OUTSIDERS, MAX_UNREACHABLE

MAX_MESSAGE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCounts:
    """What this node sees of the others."""

    known: int
    alive: int
    suspect: int
    failed: int
    handshake: int
    """Of those, how many have a session that lives."""
    unreachable: tuple[str, ...]
    """Names, sorted: failed members and those whose last probe got no answer."""

    def to_dict(self) -> dict[str, Any]:
        """Return the form the API server takes."""
        return {
            "known": self.known,
            "alive": self.alive,
            "suspect": self.suspect,
            "failed": self.failed,
            "handshake": self.handshake,
            "summary": f"{self.handshake}/{self.known}",
            "unreachable": list(self.unreachable[:MAX_UNREACHABLE]),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Outsider:
    """A member that is no node of this cluster."""

    name: str
    address: str
    endpoint: str
    kind: str
    public_key: str

    def to_dict(self) -> dict[str, Any]:
        """Return the form the API server takes."""
        return {
            "name": self.name,
            "address": self.address,
            "endpoint": self.endpoint,
            "kind": self.kind,
            "publicKey": self.public_key,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """Everything an agent reports of itself."""

    observed_generation: int
    conditions: tuple[Condition, ...]
    public_key: str
    endpoint: str
    key_ids: tuple[str, ...]
    primary_key_id: str
    config_hash: str
    agent_version: str
    wireguard_mode: str
    mtu: int
    peers: PeerCounts
    view_hash: str
    outsiders: tuple[Outsider, ...]

    @property
    def is_undecided(self) -> bool:
        """Whether it cannot be told yet if this node is ready; lasts seconds after a start."""
        return any(c.type == "Ready" and c.status == "Unknown" for c in self.conditions)

    @property
    def own(self) -> Hashable:
        """The part that is about this node itself."""
        return (
            self.observed_generation,
            tuple((c.type, c.status, c.reason) for c in self.conditions),
            self.public_key,
            self.endpoint,
            self.key_ids,
            self.primary_key_id,
            self.config_hash,
            self.wireguard_mode,
            self.mtu,
        )

    @property
    def view(self) -> Hashable:
        """The part that is about others."""
        return self.view_hash, self.peers, self.outsiders, tuple(c.message for c in self.conditions)

    def to_dict(self, observed: Sequence[Object], *, now: datetime) -> dict[str, Any]:
        """Return the form the API server takes.

        Args:
            observed: the conditions as last reported, for their transition times.
            now: the time of this report.

        """
        conditions = carry_over(self.conditions, observed, now=now)
        for condition in conditions:
            condition["message"] = condition["message"][:MAX_MESSAGE]
        return {
            "observedGeneration": self.observed_generation,
            "conditions": conditions,
            "publicKey": self.public_key,
            "endpoint": self.endpoint,
            "keyIDs": list(self.key_ids),
            "primaryKeyID": self.primary_key_id,
            "configHash": self.config_hash,
            "agentVersion": self.agent_version,
            "wireguardMode": self.wireguard_mode,
            "mtu": self.mtu,
            "peers": self.peers.to_dict(),
            "viewHash": self.view_hash,
            "outsiders": [outsider.to_dict() for outsider in self.outsiders[:MAX_OUTSIDERS]],
            "lastReportTime": rfc3339(now),
        }
