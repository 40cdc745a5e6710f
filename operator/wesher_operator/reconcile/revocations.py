"""Whose certificates were revoked, and which nodes stay out of a mesh.

Pure. A name is revoked when its node left the mesh: all its certificates up to that second are void. A
node that returns under the same name gets a certificate with a later serial. Two kinds of nodes do not:
one whose Node has the label `wesher_common.names.out_label`, until the label is removed; and one that a
statement names which this operator did not sign, such as after a restore from a backup. Both are
*barred* until an administrator readmits them.

Kept in ConfigMap ``<mesh>-revoked``, which is written before the statement that says so is published and
before a WesherNode is deleted. So a crash loses no revocation.

Left to others: the statement and the news file (`news`), reading and writing (`revoker`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from wesher_common.certificate import MAX_HOURS, name_hash
from wesher_operator.reconcile.facts import ObjectFacts

REVOKED_FILE = "revoked.json"
KEPT_SECONDS = MAX_HOURS * 3600
"""How long an item is of use: no certificate is valid for longer."""
MAX_BARRED = 400
"""Nodes that stay out; the oldest go first, and at this number a label adds no more. With the names, which
are fewer and shorter than the ledger, they fit into a ConfigMap."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """A name whose node left the mesh."""

    second: int
    """Unix time up to which its certificates are void."""
    gone: bool
    """Whether it has been away since."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Why a node stays out of the mesh."""

    second: int
    """Unix time up to which its certificates are void."""
    node: str = ""
    """UID of the Node that has the label; empty where a statement names it that was not ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """What there is in a mesh now."""

    names: Collection[str]
    """Member names that are not revoked: of nodes that belong to the mesh or have not left it yet."""
    incarnations: Collection[str]
    """Theirs, as the ledger has them: after an edit of ``clusterName`` the former name is still in use."""
    issued: Mapping[str, str]
    """The ledger: incarnation by member name."""
    nodes: Mapping[str, tuple[str, bool]]
    """By name of each Node: its UID, and whether it has the label."""
    admitted: Collection[str] = ()
    """Names of nodes that an administrator has readmitted."""


@dataclass(frozen=True)
class Revocations:
    """What is remembered of one mesh."""

    names: Mapping[str, Revoked] = field(default_factory=dict)
    """By member name."""
    barred: Mapping[str, Bar] = field(default_factory=dict)
    """By name of the node, which an edit of ``clusterName`` does not change."""

    @classmethod
    def of(cls, config_map: ObjectFacts | None) -> Revocations:
        """Read the ConfigMap as it stands; one that is absent, or cannot be read, has no names.

        Then the published statement still has those of the last 90 days.
        """
        data = (config_map.body.get("data") or {}) if config_map is not None else {}
        try:
            content: dict[str, Any] = json.loads(data.get(REVOKED_FILE, "{}"))
            return cls(
                {
                    str(name): Revoked(int(entry["second"]), bool(entry["gone"]))
                    for name, entry in content.get("names", {}).items()
                },
                {
                    str(name): Bar(int(entry["second"]), str(entry["node"]))
                    for name, entry in content.get("barred", {}).items()
                },
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()

    def to_json(self) -> str:
        """Return the ConfigMap's text."""
        content = {
            "names": {
                name: {"second": entry.second, "gone": entry.gone} for name, entry in self.names.items()
            },
            "barred": {
                name: {"second": entry.second, "node": entry.node} for name, entry in self.barred.items()
            },
        }
        return json.dumps(content, separators=(",", ":"), sort_keys=True) + "\n"

    def after(
        self, present: Present, published: Mapping[bytes, int], *, second: int, taken: Mapping[str, int]
    ) -> Revocations:
        """Return the memory after a look at the mesh.

        Args:
            present: what there is.
            published: items of the statement in the news file, by name hash.
            second: up to which certificates are void that are revoked now: after each that was issued.
            taken: nodes that a newer statement names than the published one, with its seconds.

        """
        names = {
            name: Revoked(entry.second, gone=entry.gone and name not in present.names)
            for name, entry in self.names.items()
            # What the statement has, and no certificate can be issued to now, is remembered there.
            if name in present.issued
            or name in present.names
            or published.get(name_hash(name), -1) < entry.second
        }
        for name, incarnation in present.issued.items():
            is_here = name in present.names or incarnation in present.incarnations
            if not is_here and not (name in names and names[name].gone):
                names[name] = Revoked(second, gone=True)
        oldest = second - KEPT_SECONDS
        names = {name: entry for name, entry in names.items() if entry.gone or entry.second > oldest}
        bars = sorted(
            self._bars(present, second, taken).items(), key=lambda entry: (entry[1].second, entry[0])
        )
        return Revocations(names, dict(bars[-MAX_BARRED:]))

    def void(self, published: Mapping[bytes, int], name: str, node: str) -> int:
        """Return the second up to which the certificates of a member are void; 0 if none is."""
        entry, bar = self.names.get(name), self.barred.get(node)
        return max(
            published.get(name_hash(name), 0),
            entry.second if entry is not None else 0,
            bar.second if bar is not None else 0,
        )

    def items(self, name_of: Callable[[str], str]) -> dict[bytes, int]:
        """Return the items that a statement has to have, by name hash.

        Args:
            name_of: returns the member name of a node, for those that are barred.

        """
        items: dict[bytes, int] = {}
        entries = [(name, entry.second) for name, entry in self.names.items()]
        entries += [(name_of(node), bar.second) for node, bar in self.barred.items()]
        for name, second in entries:
            items[name_hash(name)] = max(second, items.get(name_hash(name), 0))
        return items

    def _bars(self, present: Present, second: int, taken: Mapping[str, int]) -> dict[str, Bar]:
        bars = dict(self.barred)
        for name, moment in taken.items():
            bars[name] = Bar(moment, bars[name].node if name in bars else "")
        for name in present.admitted:
            bars.pop(name, None)
        for name, (uid, is_out) in present.nodes.items():
            bar = bars.get(name)
            if is_out and (bar is None or bar.node != uid):
                # One more would push another labelled one out, which the next look would add again.
                if bar is not None or len(bars) < MAX_BARRED:
                    bars[name] = Bar(second, uid)
            elif not is_out and bar is not None and bar.node == uid:
                # A Node that was made again under the same name has another UID: its label was not removed.
                del bars[name]
        return bars


def added(before: Revocations, after: Revocations) -> tuple[list[str], list[str]]:
    """Return the names of the members that were revoked by a look, and of the nodes that were barred."""
    return (
        sorted(name for name, entry in after.names.items() if entry.gone and before.names.get(name) != entry),
        sorted(name for name, bar in after.barred.items() if before.barred.get(name) != bar),
    )


def void_items(*parts: Mapping[bytes, int]) -> dict[bytes, int]:
    """Return the union of items: of one name the later second."""
    union: dict[bytes, int] = {}
    for part in parts:
        for name, second in part.items():
            union[name] = max(second, union.get(name, 0))
    return union


def without_old(items: Mapping[bytes, int], now: int) -> dict[bytes, int]:
    """Return the items that are of use at a Unix time, in seconds."""
    return {name: second for name, second in items.items() if second > now - KEPT_SECONDS}
