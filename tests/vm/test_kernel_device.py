"""The kernel's WireGuard under our kernel backend, in a VM: one boot, then each story as a test."""

from __future__ import annotations

import sys

import pytest

from wesher_testing.device_stories import names
from wesher_testing.vm import Told, tell_in_vm

_STORIES = names("Kernel")
_LONGEST = 250.0


@pytest.fixture(scope="session")
def told(request: pytest.FixtureRequest) -> Told:
    wanted = {item.callspec.params["story"] for item in request.session.items if hasattr(item, "callspec")}
    return tell_in_vm([name for name in _STORIES if name in wanted], timeout=_LONGEST)


@pytest.mark.parametrize("story", _STORIES)
def test_in_the_kernel(story: str, told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = told.stories.get(story, {"failure": f"not reached within {_LONGEST:.0f} s"})
    if "failure" in outcome:
        pytest.fail(outcome["failure"], pytrace=False)
    with capsys.disabled():
        for what, seconds in (outcome["figures"] or {}).items():
            sys.stdout.write(f"\n  {what}: {seconds * 1000:.1f} ms")
