from __future__ import annotations

from wesher_testing import chart_schema, plain_manifests


def test_the_plain_manifests_are_the_chart_as_it_stands() -> None:
    """Run `python -m wesher_testing.plain_manifests` from tests/support when this fails."""
    assert plain_manifests.RENDERED.read_text().startswith(plain_manifests.head())


def test_the_charts_schema_knows_the_mesh_as_the_models_do() -> None:
    """Run `python -m wesher_testing.chart_schema` from tests/support when this fails."""
    assert chart_schema.SCHEMA.read_text() == chart_schema.text()
