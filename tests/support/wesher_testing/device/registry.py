"""A chapter of stories about devices, which `device.cases` puts together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wesher_agent.wireguard.backend import BackendKind
from wesher_testing.device.harness import Carrier

Story = Callable[[Carrier], Any]
"""It may return figures worth printing."""


class Chapter:
    """Stories that belong together, by name, in the order they are told."""

    def __init__(self) -> None:
        self.stories: dict[str, Story] = {}
        self.for_one: dict[str, BackendKind] = {}
        """Those that make sense for one backend."""

    def story(self, story: Story) -> Story:
        """Add a story that both backends must pass."""
        self.stories[story.__name__] = story
        return story

    def only(self, kind: BackendKind) -> Callable[[Story], Story]:
        """Add a story that only one backend must pass."""

        def mark(story: Story) -> Story:
            self.for_one[story.__name__] = kind
            return self.story(story)

        return mark
