"""Which of two releases is newer."""

from __future__ import annotations

from itertools import pairwise

import pytest

from wesher_operator.release import is_newer, release_of

IN_ORDER = ["", "0.1.0.dev3", "0.1.0", "0.2.0rc1", "0.2.0", "0.10.0", "1.0.0"]


@pytest.mark.parametrize(("former", "later"), tuple(pairwise(IN_ORDER)))
def test_releases_have_an_order(former: str, later: str) -> None:
    assert is_newer(later, former)
    assert not is_newer(former, later)
    assert not is_newer(later, later)


def test_text_that_is_no_release_comes_before_all() -> None:
    assert is_newer("0.0.1", "main")
    assert not is_newer("main", "")


def test_a_definition_that_says_nothing_has_no_release() -> None:
    assert release_of(None) == release_of({"metadata": {}}) == ""
