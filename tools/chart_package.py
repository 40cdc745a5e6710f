"""The chart as one file, as ``helm package`` writes it, but the same from the same sources."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
_CHART = REPOSITORY / "charts/wesher"


def name(version: str) -> str:
    """Return what the file of a release is called; Helm finds it by this name."""
    return f"wesher-{version}.tgz"


def make(target: Path, *, home: str, sources: Sequence[str], epoch: int) -> None:
    """Make the file.

    Args:
        target: the file.
        home: URL of the project; empty if it names none.
        sources: URLs of its source code.
        epoch: seconds since 1970 that everything in it is dated.

    """
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(path for path in _CHART.rglob("*") if path.is_file()):
            content = path.read_bytes()
            if path.name == "Chart.yaml":
                places = {"home": home, "sources": [*sources]}
                known = {key: value for key, value in places.items() if value}
                content += yaml.safe_dump(known).encode() if known else b""
            entry = tarfile.TarInfo(f"wesher/{path.relative_to(_CHART)}")
            entry.size, entry.mtime, entry.mode = len(content), epoch, 0o644
            archive.addfile(entry, io.BytesIO(content))
    target.write_bytes(gzip.compress(written.getvalue(), mtime=epoch))
