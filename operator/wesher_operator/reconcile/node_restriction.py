"""Whether the cluster ties each agent's token to the WesherNode of its own Node; pure.

Without the admission policy, one agent's token writes the status of every WesherNode: a thief
of it could have another key certified under each node's name. The chart makes the policy;
here is what it must say to be in force.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wesher_common.names import GROUP

_CONSTRAINTS = {
    "resourceRules": [
        {
            "apiGroups": [GROUP],
            "apiVersions": ["*"],
            "resources": ["weshernodes", "weshernodes/status"],
            "operations": ["CREATE", "UPDATE", "DELETE"],
        }
    ]
}
_NODE = (
    'has(request.userInfo.extra) && "authentication.kubernetes.io/node-name" in request.userInfo.extra '
    '? request.userInfo.extra["authentication.kubernetes.io/node-name"][0] : ""'
)
_VALIDATIONS = ('variables.node != ""', "oldObject != null && variables.node == oldObject.spec.nodeName")


def policy_name(service_account: str) -> str:
    """Return the name that the chart gives the policy and its binding."""
    return f"{service_account}-own-node"


def weakness(
    policy: Mapping[str, Any] | None,
    binding: Mapping[str, Any] | None,
    *,
    namespace: str,
    service_account: str,
) -> str:
    """Return why the restriction is not in force; empty if it is.

    Args:
        policy: the ValidatingAdmissionPolicy; None if there is none.
        binding: its ValidatingAdmissionPolicyBinding.
        namespace: of the agents.
        service_account: of the agents.

    """
    name = policy_name(service_account)
    if policy is None:
        return f"ValidatingAdmissionPolicy {name} is missing"
    if binding is None:
        return f"ValidatingAdmissionPolicyBinding {name} is missing"
    spec, bound = policy.get("spec") or {}, binding.get("spec") or {}
    agent = f'request.userInfo.username == "system:serviceaccount:{namespace}:{service_account}"'
    constraints = spec.get("matchConstraints") or {}
    is_whole = (
        spec.get("failurePolicy", "Fail") == "Fail"
        and not spec.get("paramKind")
        and _covers(constraints)
        and [_words(each.get("expression")) for each in spec.get("matchConditions") or []] == [_words(agent)]
        and {each.get("name"): _words(each.get("expression")) for each in spec.get("variables") or []}
        == {"node": _words(_NODE)}
        and {_words(text) for text in _VALIDATIONS}
        <= {_words(each.get("expression")) for each in spec.get("validations") or []}
    )
    if not is_whole:
        return f"ValidatingAdmissionPolicy {name} was changed"
    if (
        bound.get("policyName") != name
        or "Deny" not in (bound.get("validationActions") or [])
        or bound.get("matchResources")
        or bound.get("paramRef")
    ):
        return f"ValidatingAdmissionPolicyBinding {name} was changed"
    return ""


def _covers(constraints: Mapping[str, Any]) -> bool:
    """Tell whether a policy looks at every write of a WesherNode."""
    narrowing = ("excludeResourceRules", "namespaceSelector", "objectSelector")
    rules = [
        {key: rule.get(key) for key in wanted}
        for rule in constraints.get("resourceRules") or []
        for wanted in _CONSTRAINTS["resourceRules"]
        if not rule.get("resourceNames") and rule.get("scope", "*") == "*"
    ]
    return not any(constraints.get(key) for key in narrowing) and all(
        wanted in rules for wanted in _CONSTRAINTS["resourceRules"]
    )


def _words(expression: object) -> str:
    """Return an expression with single blanks: YAML may have folded it in another place."""
    return " ".join(str(expression).split())
