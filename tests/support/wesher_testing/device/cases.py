"""What every WireGuard device of ours must do, told as stories that both backends pass.

Run where the device is: on this machine for user space, in a VM for the kernel's
WireGuard. `tell` runs one story in a world of its own; the rings show each as a
test.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from wesher_agent.wireguard.backend import BackendKind
from wesher_testing.device import backend_cases, carrying_cases, change_cases, coexistence_cases
from wesher_testing.device.harness import Carrier
from wesher_testing.device.private_hosts import in_private_world

_STORY_TIMEOUT = 180.0
_CHAPTERS = (change_cases.CHAPTER, coexistence_cases.CHAPTER, carrying_cases.CHAPTER, backend_cases.CHAPTER)


def names(kind: BackendKind) -> list[str]:
    """Return the stories that a backend must pass, in the order they are told."""
    return [
        name for chapter in _CHAPTERS for name in chapter.stories if chapter.for_one.get(name, kind) == kind
    ]


def tell(name: str, carrier: Carrier) -> Any:
    """Run one story in a world of its own and return its figures.

    Raises:
        StoryFailed: it did not go as it should.

    """
    story = next(chapter.stories[name] for chapter in _CHAPTERS if name in chapter.stories)
    return in_private_world(partial(story, carrier), timeout=_STORY_TIMEOUT)
