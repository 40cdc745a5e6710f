"""Which Nodes a mesh's `nodeSelector` and `affinity` select.

Pure. The same as the DaemonSet controller decides, by
k8s.io/component-helpers/scheduling/corev1/nodeaffinity (`GetRequiredNodeAffinity`).
Left to others: taints (`membership`).
"""

from __future__ import annotations

import re

from wesher_operator.reconcile.facts import NodeFacts
from wesher_operator.resources.affinity import (
    Affinity,
    FieldRequirement,
    LabelRequirement,
    NodeAffinity,
    NodeSelector,
    NodeSelectorTerm,
)
from wesher_operator.resources.mesh import WesherMeshSpec

_WHOLE_NUMBER = re.compile(r"[0-9]+\Z")
_MOST = 2**63 - 1


def without_label(affinity: Affinity, label: str) -> Affinity:
    """Return an affinity that selects the same Nodes, except those that have the label."""
    absent = LabelRequirement(key=label, operator="DoesNotExist")
    wanted = affinity.node_affinity
    required = wanted.required_during_scheduling_ignored_during_execution if wanted is not None else None
    if required is None:
        terms = [NodeSelectorTerm(match_expressions=[absent])]
    else:
        terms = [
            # An empty term selects no Node, and would select nearly all with this requirement.
            term.model_copy(update={"match_expressions": [*term.match_expressions, absent]})
            if term.match_expressions or term.match_fields
            else term
            for term in required.node_selector_terms
        ]
    selector = NodeSelector(node_selector_terms=terms)
    return Affinity(node_affinity=NodeAffinity(required_during_scheduling_ignored_during_execution=selector))


def fits(spec: WesherMeshSpec, node: NodeFacts) -> bool:
    """Tell whether a mesh's agent may run on a Node, as far as its labels and name decide."""
    if any(node.labels.get(key) != value for key, value in spec.node_selector.items()):
        return False
    affinity = spec.affinity.node_affinity
    required = affinity.required_during_scheduling_ignored_during_execution if affinity is not None else None
    return required is None or any(_matches(term, node) for term in required.node_selector_terms)


def _matches(term: NodeSelectorTerm, node: NodeFacts) -> bool:
    if not term.match_expressions and not term.match_fields:
        return False
    return all(_meets(node, wanted) for wanted in term.match_expressions) and all(
        _is_named(node, wanted) for wanted in term.match_fields
    )


def _is_named(node: NodeFacts, wanted: FieldRequirement) -> bool:
    return (node.name in wanted.values) is (wanted.operator == "In")


def _meets(node: NodeFacts, wanted: LabelRequirement) -> bool:
    label = node.labels.get(wanted.key)
    match wanted.operator:
        case "In":
            return label is not None and label in wanted.values
        case "NotIn":
            return label is None or label not in wanted.values
        case "Exists":
            return label is not None
        case "DoesNotExist":
            return label is None
        case "Gt" | "Lt":
            numbers = [_number(text) for text in (label or "", *wanted.values)]
            return _is_greater(*numbers) if wanted.operator == "Gt" else _is_greater(*reversed(numbers))


def _is_greater(one: int | None = None, other: int | None = None) -> bool:
    return one is not None and other is not None and one > other


def _number(text: str) -> int | None:
    """Read a whole number; None where it is not one, or has more than 64 bits. A label cannot have a sign."""
    if not _WHOLE_NUMBER.match(text):
        return None
    number = int(text)
    return number if number <= _MOST else None
