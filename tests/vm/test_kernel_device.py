"""The kernel's WireGuard under our kernel backend, in a VM: each story as a test."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wesher_testing.device.cases import names


@pytest.mark.parametrize("story", names("Kernel"))
def test_in_the_kernel(story: str, check: Callable[[str], list[str]], say: Callable[[str], None]) -> None:
    for figure in check(story):
        say(figure)
