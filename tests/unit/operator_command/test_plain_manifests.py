from __future__ import annotations

from wesher_testing.plain_manifests import RENDERED, head


def test_the_plain_manifests_are_the_chart_as_it_stands() -> None:
    """Run `python -m wesher_testing.plain_manifests` from tests/support when this fails."""
    assert RENDERED.read_text().startswith(head())
