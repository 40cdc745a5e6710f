"""``deploy/wesher.yaml``: the chart, rendered for those who use no Helm.

``make generate`` renders it. A digest of the chart in its head tells without Helm
whether it is up to date.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from wesher_testing.cluster.helm import CHART, HelmVersion, run_helm
from wesher_testing.run.toolbox import REPOSITORY

RENDERED = REPOSITORY / "deploy/wesher.yaml"
_RENDER = (
    "helm template wesher charts/wesher --namespace wesher-system --no-hooks"
    " --set mesh.create=false,image.repository=registry.example.com/wesher"
)


def head() -> str:
    """Return the lines that a rendering of the chart as it stands begins with."""
    digest = hashlib.sha256()
    sources = [CHART / "Chart.yaml", CHART / "values.yaml", *sorted((CHART / "templates").rglob("*"))]
    for source in (path for path in sources if path.is_file() and path.name != "NOTES.txt"):
        digest.update(f"{source.relative_to(CHART)}\0".encode() + source.read_bytes() + b"\0")
    return f"# Rendered by: {_RENDER}\n# of a chart with digest {digest.hexdigest()[:16]}, by make generate\n"


def text(version: HelmVersion = 3) -> str:
    """Return what the file should say, as that Helm renders it."""
    words = [str(CHART) if word == "charts/wesher" else word for word in _RENDER.split()[1:]]
    with tempfile.TemporaryDirectory() as home:
        return head() + run_helm(version, *words, "--kube-version=1.34", home=Path(home))


def main() -> None:
    """Render the chart into ``deploy/``."""
    RENDERED.write_text(text())


if __name__ == "__main__":
    main()
