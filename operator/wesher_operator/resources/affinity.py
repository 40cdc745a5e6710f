"""Node affinity, as in core/v1: the part of it by which a DaemonSet's Nodes are chosen.

Preferences, and affinity to pods, choose nothing there: each pod of a DaemonSet has its Node already.
Which Nodes an affinity selects is `reconcile.node_affinity`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from wesher_operator.resources import rules
from wesher_operator.resources.parts import MAX_DNS_NAME, Resource

_MAX_KEY = 317
"""Characters of a label's key: a DNS name, `/` and 63 more."""
_MAX_VALUES, _MAX_REQUIREMENTS, _MAX_TERMS = 32, 16, 8


class LabelRequirement(Resource):
    """What a Node's labels must say (core/v1 NodeSelectorRequirement)."""

    model_config = ConfigDict(json_schema_extra=rules.NODE_REQUIREMENT)

    key: str = Field(max_length=_MAX_KEY, json_schema_extra=rules.LABEL_KEY)
    """Label key."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """How the label is compared with the values; `NotIn` and `DoesNotExist` match a Node without it."""
    values: list[Annotated[str, Field(max_length=63)]] = Field([], max_length=_MAX_VALUES)
    """`In` and `NotIn` need at least one value, `Gt` and `Lt` one whole number, the others none."""


class FieldRequirement(Resource):
    """What a Node's fields must say (core/v1 NodeSelectorRequirement)."""

    key: Literal["metadata.name"]
    """The only field that Kubernetes supports here."""
    operator: Literal["In", "NotIn"]
    """How the name is compared."""
    values: list[Annotated[str, Field(max_length=MAX_DNS_NAME)]] = Field(min_length=1, max_length=1)
    """One Node's name."""


class NodeSelectorTerm(Resource):
    """A Node matches if it meets every requirement; no Node matches a term without any."""

    match_expressions: list[LabelRequirement] = Field([], max_length=_MAX_REQUIREMENTS)
    """Requirements on the Node's labels."""
    match_fields: list[FieldRequirement] = Field([], max_length=_MAX_REQUIREMENTS)
    """Requirements on the Node's fields."""


class NodeSelector(Resource):
    """Which Nodes may run agents (core/v1 NodeSelector)."""

    node_selector_terms: list[NodeSelectorTerm] = Field(min_length=1, max_length=_MAX_TERMS)
    """A Node matches if it matches any term."""


class NodeAffinity(Resource):
    """Which Nodes may run agents, by labels and names."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    """The Nodes that match; every Node when absent. An agent stops when its Node no longer matches."""


class Affinity(Resource):
    """Which Nodes may run agents (core/v1 Affinity, node affinity only)."""

    node_affinity: NodeAffinity | None = None
    """Affinity to Nodes."""


def _none_of(labels: dict[str, str]) -> Affinity:
    requirements = [
        LabelRequirement(key=key, operator="NotIn", values=[value]) for key, value in labels.items()
    ]
    terms = NodeSelector(node_selector_terms=[NodeSelectorTerm(match_expressions=requirements)])
    return Affinity(node_affinity=NodeAffinity(required_during_scheduling_ignored_during_execution=terms))


NO_VIRTUAL_NODES = _none_of(
    {
        # EKS: as the DaemonSets of its own CNI and of kube-proxy do.
        "eks.amazonaws.com/compute-type": "fargate",
        # virtual-kubelet itself, and with it the virtual nodes of AKS, ACK and Admiralty.
        "type": "virtual-kubelet",
        # AKS: virtual nodes on Azure Container Instances, second version.
        "virtualization": "virtualnode2",
        "liqo.io/type": "virtual-node",
    }
)
"""Every Node but those that stand for a service which runs single pods: no agent can run there."""
