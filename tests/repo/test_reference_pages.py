"""The pages of `docs/reference` say what the tables say from which they are made."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from types import ModuleType

import pytest

import chart_values_page
import conditions_page
import custom_resources_page
import exit_codes_page
import json_output_page
from wesher_operator.resources.mesh import WesherMeshStatus
from wesher_operator.resources.node import WesherNodeStatus
from wesher_operator.resources.peer import WesherPeerStatus
from wesher_testing.run.toolbox import REPOSITORY

PAGES = (chart_values_page, conditions_page, custom_resources_page, exit_codes_page, json_output_page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.__name__)
def test_each_page_is_up_to_date(page: ModuleType) -> None:
    """Run `make generate` when this fails."""
    assert page.PAGE.read_text() == page.text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.__name__)
def test_each_row_says_what_it_means(page: ModuleType) -> None:
    rows = [line for line in page.text().splitlines() if line.startswith("|")]
    assert len(rows) > 15
    assert [row for row in rows if re.search(r"\| \|$", row)] == []


def said_in(folder: str) -> Iterator[tuple[str, str, str]]:
    """Yield type, status and reason of each condition that the code of a folder makes of literals."""
    for path in (REPOSITORY / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Name("Condition"),
                    args=[
                        ast.Constant(str() as kind),
                        ast.Constant(str() as status),
                        ast.Constant(str() as reason),
                        *_,
                    ],
                ):
                    yield kind, status, reason


@pytest.mark.parametrize(
    ("folder", "conditions"),
    [("agent/wesher_agent", conditions_page.NODE), ("operator/wesher_operator", conditions_page.MESH)],
)
def test_each_condition_that_the_code_makes_is_on_the_page(
    folder: str, conditions: dict[str, conditions_page.Reasons]
) -> None:
    said = set(said_in(folder))
    assert len(said) > 10
    assert [each for each in said if each[2] not in conditions[each[0]].get(each[1], ())] == []


def test_each_reason_on_the_page_of_conditions_is_given_by_the_code_and_none_is_left_out() -> None:
    paths = [path for name in ("agent", "operator") for path in (REPOSITORY / name).rglob("*.py")]
    code = "\n".join(path.read_text() for path in paths)
    tables = (conditions_page.MESH, conditions_page.NODE, conditions_page.PEER)
    kinds = [kind for each in tables for kind in each.values()]
    listed = {reason for reasons in kinds for given in reasons.values() for reason in given}
    listed |= {*conditions_page.MEMBER}
    assert sorted(reason for reason in listed if f'"{reason}"' not in code) == []
    sections = {section for each in conditions_page.SECTIONS.values() for section in each}
    explained = {reason for section in sections for reason in conditions_page.explained(section)}
    assert len(explained) > 30
    assert {*conditions_page.GOOD} | explained == listed


def test_the_custom_resources_name_the_conditions_that_are_on_the_page() -> None:
    for status, conditions in (
        (WesherMeshStatus, conditions_page.MESH),
        (WesherNodeStatus, conditions_page.NODE),
        (WesherPeerStatus, conditions_page.PEER),
    ):
        description = status.model_fields["conditions"].description or ""
        assert [kind for kind in conditions if not re.search(rf"\b{kind}\b", description)] == []


def test_each_default_of_the_chart_is_on_its_page() -> None:
    page = chart_values_page.text()
    values = chart_values_page.comments_of(chart_values_page.VALUES.read_text())
    sections = {path.rpartition(".")[0] for path in values}
    wholes = (".requests.", ".affinity.")
    given = [path for path in values if path not in sections and not any(part in path for part in wholes)]
    given.append("operator.affinity")
    assert len(given) > 30
    assert [path for path in given if f"| `{path}` |" not in page] == []
