"""Which nodes belong to a mesh, which have left it, and what is remembered of those.

Pure. A Node that was deleted leaves at once; one that is merely unselected when the
DaemonSet controller ends its agent, which then sees that it is to clean up, else
after `UNSELECTED_GRACE`, since taints are sometimes edited in two steps. Who left
stands in the mesh document's ``removed`` for `REMOVED_FOR` or until it returns, and
its address is held back for `HELD_BACK_FOR`, so that nobody who has not heard of it
sends to a stranger. The one who had it gets it again.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

from wesher_common.conditions import rfc3339
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_operator.reconcile.facts import NodeFacts, ObjectFacts
from wesher_operator.reconcile.node_affinity import fits
from wesher_operator.resources.mesh import Toleration, WesherMeshSpec
from wesher_operator.taints import Taint

UNSELECTED_GRACE = timedelta(seconds=60)
HELD_BACK_FOR = timedelta(hours=1)
REMOVED_FOR = timedelta(hours=24)
RELEASED_FILE = "released.json"
MAX_REMOVED, MAX_HELD_BACK = 1500, 1000
"""Entries: however long the names are, these fit into a ConfigMap's 1 MiB. The oldest go first."""

# What the DaemonSet controller lets every agent tolerate, since a node's agent must run before these end
# (`AddOrUpdateDaemonPodTolerations`; the last for pods with the host's network).
_ALWAYS_TOLERATED = frozenset(
    {
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
        ("node.kubernetes.io/network-unavailable", "NoSchedule"),
    }
)


def selected(
    spec: WesherMeshSpec, nodes: Iterable[NodeFacts], running: Container[str], *, shut_out: str = ""
) -> list[NodeFacts]:
    """Return the nodes on which the DaemonSet controller runs an agent, or lets one run on, by name.

    Args:
        spec: of the mesh.
        nodes: all there are.
        running: names of those that have an agent's pod, which only a NoExecute taint ends.
        shut_out: a label that keeps a Node out, whatever its value.

    """
    return sorted(
        (
            node
            for node in nodes
            if fits(spec, node)
            and shut_out not in node.labels
            and all(
                tolerated(taint, spec.tolerations) or (taint.effect == "NoSchedule" and node.name in running)
                for taint in node.taints
            )
        ),
        key=lambda node: node.name,
    )


def tolerated(taint: Taint, tolerations: Iterable[Toleration]) -> bool:
    """Tell whether agents with these tolerations run on a node with a taint."""
    if taint.effect == "PreferNoSchedule" or (taint.key, taint.effect) in _ALWAYS_TOLERATED:
        return True
    return any(
        toleration.effect in {"", taint.effect}
        and (
            (toleration.operator == "Exists" and toleration.key in {"", taint.key})
            or (toleration.key == taint.key and toleration.value == taint.value)
        )
        for toleration in tolerations
    )


@dataclass(frozen=True, slots=True)
class Departures:
    """Which nodes leave a mesh."""

    now: tuple[str, ...]
    """These leave at once."""
    waiting: dict[str, datetime]
    """These are unselected since then, and leave when they stay so."""

    @property
    def grace_ends(self) -> datetime | None:
        """When the first of those waiting leaves."""
        return min(self.waiting.values()) + UNSELECTED_GRACE if self.waiting else None


def departures(
    members: Iterable[str],
    desired: Container[str],
    existing: Container[str],
    ending: Container[str],
    waiting: Mapping[str, datetime],
    *,
    now: datetime,
) -> Departures:
    """Tell which members leave.

    Args:
        members: names of the nodes that have a WesherNode.
        desired: names of the nodes that should have one.
        existing: names of the Nodes there are.
        ending: names of the nodes whose agent was told to end.
        waiting: what the last call returned as such.
        now: the time.

    """
    leaving, still = [], {}
    for node in members:
        if node in desired:
            continue
        since = waiting.get(node, now)
        if node not in existing or node in ending or now - since >= UNSELECTED_GRACE:
            leaving.append(node)
        else:
            still[node] = since
    return Departures(tuple(leaving), still)


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Why an address is not given to just anybody."""

    until: datetime
    name: str
    """The member that had it, and gets it again when it returns; empty where that was not kept."""


@dataclass(frozen=True, slots=True)
class Released:
    """What a mesh remembers of members that left, kept in ConfigMap ``<mesh>-released``."""

    addresses: Mapping[IPAddress, HeldBack] = field(default_factory=dict)
    """Held back, for all but one."""
    names: Mapping[str, datetime] = field(default_factory=dict)
    """Member names, removed until then."""

    @classmethod
    def of(cls, config_map: ObjectFacts | None) -> Released:
        """Read the ConfigMap as it stands; one that is absent holds nothing."""
        data = (config_map.body.get("data") or {}) if config_map is not None else {}
        return cls.from_json(data.get(RELEASED_FILE, ""))

    @classmethod
    def from_json(cls, text: str) -> Released:
        """Read what `to_json` wrote; what cannot be read counts as nothing."""
        try:
            content: dict[str, Any] = json.loads(text)
            holders = content.get("holders", {})
            return cls(
                {
                    ip_address(k): HeldBack(_moment(v), str(holders.get(k, "")))
                    for k, v in content["addresses"].items()
                },
                {str(k): _moment(v) for k, v in content["names"].items()},
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return cls()

    def to_json(self) -> str:
        """Return the ConfigMap's text."""
        content = {
            "addresses": {str(key): rfc3339(held.until) for key, held in self.addresses.items()},
            "holders": {str(key): held.name for key, held in self.addresses.items()},
            "names": {key: rfc3339(until) for key, until in self.names.items()},
        }
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    def after(
        self,
        leaving: Iterable[tuple[str, IPAddress]],
        present: Iterable[str],
        placed: Container[str] = (),
        *,
        now: datetime,
    ) -> Released:
        """Return the memory once members left and others are (back) in the mesh.

        Args:
            leaving: member names and addresses that go now.
            present: member names that belong to the mesh.
            placed: those of them that have their address, and so need none kept for them.
            now: drops what has been remembered long enough.

        """
        leaving, back = list(leaving), set(present)
        addresses = {
            key: held for key, held in self.addresses.items() if held.until > now and held.name not in placed
        }
        names = {key: until for key, until in self.names.items() if until > now and key not in back}
        for name, address in leaving:
            # One that is being deleted already keeps its time.
            addresses.setdefault(address, HeldBack(now + HELD_BACK_FOR, name))
            if name not in back:
                names.setdefault(name, now + REMOVED_FOR)
        return Released(
            dict(sorted(addresses.items(), key=lambda entry: entry[1].until)[-MAX_HELD_BACK:]),
            dict(sorted(names.items(), key=lambda entry: entry[1])[-MAX_REMOVED:]),
        )

    @property
    def next_expiry(self) -> datetime | None:
        """When the first entry is to be dropped."""
        return min((*(held.until for held in self.addresses.values()), *self.names.values()), default=None)

    def kept_for(self, name: str, network: IPNetwork) -> IPAddress | None:
        """Return the address that is held back for a member, provided it lies in ``network``."""
        return next(
            (address for address, held in self.addresses.items() if held.name == name and address in network),
            None,
        )


def _moment(text: str) -> datetime:
    """Read a time; one that a hand wrote without a zone is meant as ours are."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
