"""What `kubectl wesher doctor` asks for on behalf of the operator and of agents."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from wesher_operator.kubectl.doctor import AGENT_RIGHTS, Right, operator_rights

MANIFESTS = Path(__file__).parents[3] / "deploy/wesher.yaml"


def granted(account: str) -> set[tuple[str, str, str, str]]:
    """Return verb, API group, resource and name of everything that the chart allows an account."""
    documents: list[dict[str, Any]] = [each for each in yaml.safe_load_all(MANIFESTS.read_text()) if each]
    return {
        (verb, group, resource, name)
        for document in documents
        if document["kind"] in {"Role", "ClusterRole"} and document["metadata"]["name"].startswith(account)
        for rule in document["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


def asked(rights: Iterable[Right]) -> set[tuple[str, str, str, str]]:
    return {(right.verb, right.group, right.resource, right.name) for right in rights}


def test_the_doctor_asks_for_every_right_that_the_chart_gives() -> None:
    """Where roles are made by other hands, it must find what they forgot."""
    assert asked(AGENT_RIGHTS) == granted("wesher-agent")
    given = granted("wesher-operator")
    # What it may list it may get, and it does so with these alone.
    unused = {right for right in given if right[0] == "get" and ("list", *right[1:]) in given}
    unused -= {
        ("get", "", "secrets", ""),
        ("get", "", "configmaps", ""),
        ("get", "wesher.dev", "weshermeshes", ""),
    }
    assert asked(operator_rights("wesher-agent", manages_definitions=True)) == given - unused


def test_an_operator_that_leaves_the_definitions_alone_needs_no_right_to_them() -> None:
    """The chart gives none with crds.manage=false."""
    rights = operator_rights("vpn-agent", manages_definitions=False)
    assert not [right for right in rights if right.resource == "customresourcedefinitions"]
    assert {right.name for right in rights} == {"", "wesher-operator", "vpn-agent-own-node"}
