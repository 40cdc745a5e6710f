"""The pages of `docs/reference` say what the tables say from which they are made."""

from __future__ import annotations

import re
from types import ModuleType

import pytest

import chart_values_page
import custom_resources_page
import exit_codes_page

PAGES = (chart_values_page, custom_resources_page, exit_codes_page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.__name__)
def test_each_page_is_up_to_date(page: ModuleType) -> None:
    """Run `make generate` when this fails."""
    assert page.PAGE.read_text() == page.text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.__name__)
def test_each_row_says_what_it_means(page: ModuleType) -> None:
    rows = [line for line in page.text().splitlines() if line.startswith("|")]
    assert len(rows) > 20
    assert [row for row in rows if re.search(r"\| \|$", row)] == []


def test_each_default_of_the_chart_is_on_its_page() -> None:
    page = chart_values_page.text()
    values = chart_values_page.comments_of(chart_values_page.VALUES.read_text())
    sections = {path.rpartition(".")[0] for path in values}
    given = [path for path in values if path not in sections and ".requests." not in path]
    assert len(given) > 30
    assert [path for path in given if f"| `{path}` |" not in page] == []
