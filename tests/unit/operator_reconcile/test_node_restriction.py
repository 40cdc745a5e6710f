"""When the admission policy counts as in force."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from wesher_operator.reconcile.node_restriction import policy_name, weakness

MANIFESTS = Path(__file__).parents[3] / "deploy/wesher.yaml"
ACCOUNT = "wesher-agent"
Object = dict[str, Any]


def shipped(kind: str) -> Object:
    found: list[Object] = [each for each in yaml.safe_load_all(MANIFESTS.read_text()) if each]
    (only,) = [each for each in found if each["kind"] == kind]
    return only


POLICY, BINDING = (
    shipped(kind) for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
)


def told(policy: Object | None, binding: Object | None, **other: str) -> str:
    return weakness(policy, binding, **{"namespace": "wesher-system", "service_account": ACCOUNT, **other})


def test_what_the_chart_installs_is_in_force() -> None:
    assert POLICY["metadata"]["name"] == policy_name(ACCOUNT)
    assert told(POLICY, BINDING) == ""


def test_the_values_that_the_api_server_fills_in_change_nothing() -> None:
    stored = deepcopy(POLICY)
    filled = {"matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {}}
    stored["spec"]["matchConstraints"].update(filled)
    stored["spec"]["matchConstraints"]["resourceRules"][0]["scope"] = "*"
    assert told(stored, BINDING) == ""


def test_without_policy_or_binding_it_is_not() -> None:
    assert "is missing" in told(None, BINDING)
    assert "is missing" in told(POLICY, None)


def test_it_must_be_about_these_agents() -> None:
    assert "was changed" in told(POLICY, BINDING, namespace="elsewhere")


Change = Callable[[Object, Object], Any]
CHANGES: dict[str, Change] = {
    "ignored failures": lambda policy, _: policy.update(failurePolicy="Ignore"),
    "another condition": lambda policy, _: policy["matchConditions"].append(
        {"name": "x", "expression": "false"}
    ),
    "a parameter": lambda policy, _: policy.update(paramKind={"kind": "ConfigMap", "apiVersion": "v1"}),
    "another node": lambda policy, _: policy["variables"][0].update(expression='"a"'),
    "no validations": lambda policy, _: policy.update(validations=policy["validations"][:1]),
    "no status": lambda policy, _: policy["matchConstraints"]["resourceRules"][0].update(
        resources=["weshernodes"]
    ),
    "no updates": lambda policy, _: policy["matchConstraints"]["resourceRules"][0].update(
        operations=["CREATE"]
    ),
    "some names": lambda policy, _: policy["matchConstraints"]["resourceRules"][0].update(
        resourceNames=["demo.a"]
    ),
    "an exception": lambda policy, _: policy["matchConstraints"].update(excludeResourceRules=[{}]),
    "a selector": lambda policy, _: policy["matchConstraints"].update(
        objectSelector={"matchLabels": {"a": "b"}}
    ),
    "only an audit": lambda _, binding: binding.update(validationActions=["Audit"]),
    "another policy": lambda _, binding: binding.update(policyName="another"),
    "some resources": lambda _, binding: binding.update(matchResources={"namespaceSelector": {}}),
    "parameters": lambda _, binding: binding.update(paramRef={"name": "x"}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_that_weakens_it_is_seen(change: Change) -> None:
    policy, binding = deepcopy(POLICY), deepcopy(BINDING)
    change(policy["spec"], binding["spec"])
    assert "was changed" in told(policy, binding)
