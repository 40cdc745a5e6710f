"""The memory of links for devices that never carry anything."""

from __future__ import annotations

from pathlib import Path

from wesher_agent.files.link_memory import LinkMemory

NO_LINKS = LinkMemory(Path("/nonexistent"), "wgnone")
