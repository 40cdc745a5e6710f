"""The release before this one, from the history of the repository: its sources, chart and images."""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass
from pathlib import Path

from wesher_testing.cluster.image import Image, image_of
from wesher_testing.run.cache import ToolUnavailable, kept
from wesher_testing.run.toolbox import REPOSITORY

COMMIT = "403a5aa1ee08ef243f0ba0ba5eb0a740e41c46d2"
"""The last one without certificates."""
VERSION = "0.0.9"
"""What it calls itself here: its files have the version of this release, which is not published yet."""


@dataclass(frozen=True, slots=True)
class EarlierRelease:
    """See the module."""

    tree: Path
    """Its files, which must not be changed."""
    image: Image

    @property
    def chart(self) -> Path:
        """Its chart."""
        return self.tree / "charts/wesher"


@functools.cache
def is_in_history() -> bool:
    """Whether this clone has the commit; a shallow one has not, and `git fetch --unshallow` brings it."""
    asked = ["git", "cat-file", "-e", f"{COMMIT}^{{commit}}"]
    return subprocess.run(asked, cwd=REPOSITORY, capture_output=True, check=False).returncode == 0


@functools.cache
def earlier_release() -> EarlierRelease:
    """Return it, with images that are built if necessary.

    Raises:
        ToolUnavailable: its commit is not in the history, or its images cannot be built.

    """

    def unpack(target: Path) -> None:
        target.mkdir()
        archive = subprocess.run(
            ["git", "-c", "tar.umask=0022", "archive", COMMIT],
            cwd=REPOSITORY,
            capture_output=True,
            check=False,
        )
        if archive.returncode:
            said = archive.stderr.decode(errors="replace").strip()
            raise ToolUnavailable(
                f"commit {COMMIT[:7]}, the release to upgrade from, is missing ({said}): "
                "run git fetch --unshallow"
            )
        subprocess.run(["tar", "-x"], cwd=target, input=archive.stdout, check=True)
        version = target / "common/wesher_common/version.py"
        version.write_text(version.read_text().replace('"0.1.0"', f'"{VERSION}"'))

    tree = kept(f"earlier-release/{COMMIT[:12]}-{VERSION}", unpack)
    return EarlierRelease(tree, image_of(tree))
