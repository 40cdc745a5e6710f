"""SECURITY.md lists the operator's rights as the chart grants them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from wesher_testing.run.named_tests import names_in

REPOSITORY = Path(__file__).parents[2]
ACCOUNT = "wesher-operator"


class Right(NamedTuple):
    """One rule of a role."""

    where: str
    resources: frozenset[str]
    names: frozenset[str]
    verbs: frozenset[str]


def documented() -> Counter[Right]:
    """Return the rows of the table."""
    found: Counter[Right] = Counter()
    for line in (REPOSITORY / "SECURITY.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or len(cells) != 4 or cells[0] in {"where", "---"}:
            continue
        where, on, verbs, allows = cells
        assert allows, line
        resources, _, names = on.partition(" named ")
        quoted = [frozenset(re.findall(r"`([^`]+)`", text)) for text in (resources, names)]
        found[Right(where.strip("`"), *quoted, frozenset(verbs.split(", ")))] += 1
    return found


def granted() -> Counter[Right]:
    """Return the rules of all roles that the operator's account is bound to."""
    documents: list[dict[str, Any]] = [
        each for each in yaml.safe_load_all((REPOSITORY / "deploy/wesher.yaml").read_text()) if each
    ]
    roles = {
        (each["kind"], each["metadata"].get("namespace", "cluster"), each["metadata"]["name"]): each["rules"]
        for each in documents
        if each["kind"] in {"Role", "ClusterRole"}
    }
    (own,) = [
        each["metadata"]["namespace"]
        for each in documents
        if (each["kind"], each["metadata"]["name"]) == ("ServiceAccount", ACCOUNT)
    ]
    found: Counter[Right] = Counter()
    for each in documents:
        if ACCOUNT not in [subject["name"] for subject in each.get("subjects", [])]:
            continue
        where = each["metadata"].get("namespace", "cluster")
        for rule in roles[each["roleRef"]["kind"], where, each["roleRef"]["name"]]:
            kinds = [frozenset(rule.get(key, ())) for key in ("resources", "resourceNames", "verbs")]
            found[Right("its namespace" if where == own else where, *kinds)] += 1
    return found


def test_each_rule_of_the_operators_roles_has_its_row_and_each_row_its_rule() -> None:
    assert documented() - granted() == Counter()
    assert granted() - documented() == Counter()
    assert granted().total() > 10


def test_each_attack_has_its_row_with_a_test_that_exists() -> None:
    page = (REPOSITORY / "SECURITY.md").read_text()
    attacks = [line for line in page.splitlines() if line.count("|") == 6]  # noqa: PLR2004 - of 5 columns
    rows = [line for line in attacks if "::" in line]
    assert len(rows) > 15
    assert len(attacks) == len(rows) + 4, "each row but two headings, of two lines each, names a test"
    named = [path.partition("::") for line in rows for path in re.findall(r"`([\w/]+\.py::\w+)`", line)]
    assert [f"{path}::{name}" for path, _, name in named if name not in names_in(path)] == []
    assert len(named) >= len(rows)
