"""The short form of a test, which each run takes, and the long one of ``make soak``."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")


def soaking(short: T, long: T) -> T:
    """Return the short form's measure, or the long one's when ``WESHER_SOAK`` is set."""
    return long if os.environ.get("WESHER_SOAK") else short
