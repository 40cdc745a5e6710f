"""One boot of the VM for the whole ring: every story asked for is told in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wesher_testing.device import cases, mesh_cases
from wesher_testing.device.vm import Told, tell_in_vm

_LONGEST = 900.0
"""Seconds: about two minutes on two cores that have nothing else to do."""

Check = Callable[[str], list[str]]


@pytest.fixture(scope="session")
def told(request: pytest.FixtureRequest) -> Told:
    """Return what came out of the VM."""
    wanted = {item.callspec.params["story"] for item in request.session.items if hasattr(item, "callspec")}
    stories = [*cases.names("Kernel"), *mesh_cases.STORIES]
    return tell_in_vm([name for name in stories if name in wanted], timeout=_LONGEST)


@pytest.fixture
def check(told: Told) -> Check:
    """Return what fails the test with a story's failure, and returns its figures."""

    def check_story(story: str) -> list[str]:
        outcome = told.stories.get(story, {"failure": f"not reached within {_LONGEST:.0f} s"})
        if "failure" in outcome:
            pytest.fail(outcome["failure"], pytrace=False)
        figures = (outcome["figures"] or {}).items()
        return [f"{what}: {seconds * 1000:.1f} ms" for what, seconds in figures]

    return check_story
