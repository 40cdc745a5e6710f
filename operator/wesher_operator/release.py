"""Which of two releases is newer; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from wesher_common.names import RELEASE_ANNOTATION

_RELEASE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})*)(.*)\Z")


def release_of(definition: Mapping[str, Any] | None) -> str:
    """Return the release that wrote a CustomResourceDefinition; empty if it does not say, or for None."""
    annotations = (definition or {"metadata": {}})["metadata"].get("annotations") or {}
    return str(annotations.get(RELEASE_ANNOTATION, ""))


def is_newer(release: str, other: str) -> bool:
    """Tell whether a release came after another; text that names no release came before all."""
    return _order(release) > _order(other)


def _order(release: str) -> tuple[tuple[int, ...], bool, str]:
    match = _RELEASE.match(release)
    if match is None:
        return (), False, ""
    numbers, suffix = match.groups()
    # 1.0rc1 comes before 1.0.
    return tuple(int(number) for number in numbers.split(".")), not suffix, suffix
