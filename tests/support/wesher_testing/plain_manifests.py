"""``deploy/wesher.yaml``: the chart, rendered for those who use no Helm.

``python -m wesher_testing.plain_manifests`` renders it anew and needs ``helm`` on
PATH. That it is in step is told without Helm, by a digest of the chart in its head.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from wesher_testing.toolbox import REPOSITORY, system_program

CHART = REPOSITORY / "charts/wesher"
RENDERED = REPOSITORY / "deploy/wesher.yaml"
_RENDER = "helm template wesher charts/wesher --namespace wesher-system --set mesh.create=false"


def head() -> str:
    """Return the lines that a rendering of the chart as it stands begins with."""
    digest = hashlib.sha256()
    sources = [CHART / "Chart.yaml", CHART / "values.yaml", *sorted((CHART / "templates").iterdir())]
    for source in (path for path in sources if path.name != "NOTES.txt"):
        digest.update(f"{source.relative_to(CHART)}\0".encode() + source.read_bytes() + b"\0")
    return (
        f"# Rendered by: {_RENDER}\n"
        f"# of a chart with digest {digest.hexdigest()[:16]}, by python -m wesher_testing.plain_manifests\n"
    )


def main() -> None:
    """Render the chart into ``deploy/``."""
    helm: Path = system_program("helm")
    rendered = subprocess.run(
        [helm, *_RENDER.split()[1:], "--kube-version=1.32"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    RENDERED.write_text(head() + rendered.stdout)


if __name__ == "__main__":
    main()
