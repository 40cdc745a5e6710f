"""The pages of `docs/reference` say what the tables say from which they are made."""

from __future__ import annotations

from types import ModuleType

import pytest

import exit_codes_page

PAGES = (exit_codes_page,)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.__name__)
def test_each_page_is_up_to_date(page: ModuleType) -> None:
    """Run `make generate` when this fails."""
    assert page.PAGE.read_text() == page.text()
