"""A mesh of whole agents on the kernel's WireGuard, in a VM: each story as a test."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wesher_testing.device.mesh_cases import STORIES


@pytest.mark.parametrize("story", STORIES)
def test_a_mesh_in_the_kernel(
    story: str, check: Callable[[str], list[str]], say: Callable[[str], None]
) -> None:
    for figure in check(story):
        say(figure)
