"""What `kubectl wesher doctor` asks for on behalf of the operator and of agents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from wesher_operator.kubectl.doctor import AGENT_RIGHTS, OPERATOR_RIGHTS

MANIFESTS = Path(__file__).parents[3] / "deploy/wesher.yaml"
NOT_ASKED = {"leases", "customresourcedefinitions", "events"}
"""It looks whether one leads and of which release the definitions are; and Events are no need."""


def granted(account: str) -> set[tuple[str, str, str]]:
    """Return verb, API group and resource of everything that the chart allows an account."""
    documents: list[dict[str, Any]] = [each for each in yaml.safe_load_all(MANIFESTS.read_text()) if each]
    return {
        (verb, group, resource)
        for document in documents
        if document["kind"] in {"Role", "ClusterRole"} and document["metadata"]["name"].startswith(account)
        for rule in document["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if resource not in NOT_ASKED
    }


def test_the_doctor_asks_for_every_right_that_the_chart_gives() -> None:
    """Where roles are made by other hands, it must find what they forgot."""
    assert set(AGENT_RIGHTS) == granted("wesher-agent")
    # What it may list it may get, and it does so with Secrets alone.
    needed = {right for right in granted("wesher-operator") if right[0] != "get" or right[2] == "secrets"}
    assert set(OPERATOR_RIGHTS) == needed
