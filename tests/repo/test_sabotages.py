"""Each sabotage of ``tests/sabotage.py`` fits the code: a moved line is noticed before the long run."""

from __future__ import annotations

import runpy
from typing import Any

import pytest

from wesher_testing.run.named_tests import names_in
from wesher_testing.run.toolbox import REPOSITORY

SABOTAGES: dict[str, Any] = runpy.run_path(str(REPOSITORY / "tests/sabotage.py"))["SABOTAGES"]


@pytest.mark.parametrize("name", SABOTAGES)
def test_its_line_is_in_the_code_once_and_its_test_exists(name: str) -> None:
    sabotage = SABOTAGES[name]
    assert (REPOSITORY / sabotage.file).read_text().count(sabotage.old) == 1
    path, _, test = sabotage.test.removeprefix("tests/").partition("::")
    assert test.partition("[")[0] in names_in(path)
