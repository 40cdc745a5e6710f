"""``make release``: everything that is published, in one folder with its checksums.

The checksums are written last and only for a whole release, so a folder without them is not one.
What needs no image comes first: it can be built on a machine that cannot have the base images.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import agent_tree
import bill_of_materials
import chart_package
import debian_package
import one_file

REPOSITORY = Path(__file__).resolve().parents[1]
SUMS = "SHA256SUMS"
_BUILD_IMAGE = REPOSITORY / "scripts/build-image"


@dataclass(frozen=True, slots=True)
class Project:
    """What ``pyproject.toml`` says of the project."""

    version: str
    description: str
    authors: str
    urls: dict[str, str]

    @classmethod
    def read(cls) -> Project:
        """Read it."""
        told: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
        names = ", ".join(each["name"] for each in told["authors"])
        return cls(told["version"], told["description"], names, told.get("urls", {}))

    @property
    def home(self) -> str:
        """The project's URL; empty if none is known."""
        return self.urls.get("Homepage", "")


def main(arguments: list[str]) -> int:
    """Make a release; return the exit status."""
    parser = argparse.ArgumentParser(prog="release.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--directory", type=Path, default=REPOSITORY / "dist", help="where everything goes")
    parser.add_argument(
        "--stand-in-for-tests",
        action="store_true",
        help="take any base images, sources and changelog: the result is for tests and must not be published",
    )
    parser.add_argument("builder_flags", nargs="*", help="for scripts/build-image, after --")
    given = parser.parse_args(arguments)
    directory, project, epoch = given.directory, Project.read(), _epoch()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / SUMS).unlink(missing_ok=True)
    try:
        made = _without_image(directory, project, epoch)
        if not given.stand_in_for_tests and (lacking := _lacking(project, given.builder_flags)):
            _say(*lacking, f"{directory} has no release: it lacks the images and {SUMS}")
            return 1
        made += _images(directory, project.version, given.builder_flags, release=not given.stand_in_for_tests)
    except subprocess.CalledProcessError as error:
        # The program has said why.
        _say(f"{Path(error.cmd[0]).name} failed: {directory} holds no whole release")
        return 1
    except (FileNotFoundError, ValueError) as error:
        _say(str(error))
        return 1
    lines = [
        f"{hashlib.sha256((directory / name).read_bytes()).hexdigest()}  {name}\n" for name in sorted(made)
    ]
    (directory / SUMS).write_text("".join(lines))
    print("".join(lines), end="")  # noqa: T201 - the answer of a command
    if given.stand_in_for_tests:
        _say("for tests only: not built from the base images of a release")
    return 0


def _without_image(directory: Path, project: Project, epoch: int) -> list[str]:
    """Make what needs no image; return the names of the files."""
    about = debian_package.About(project.version, project.description, project.authors, project.home)
    with tempfile.TemporaryDirectory() as scratch:
        build = [sys.executable, "-m", "hatchling", "build", "--directory", scratch]
        subprocess.run(build, cwd=REPOSITORY, env=_dated(epoch), check=True, stdout=subprocess.DEVNULL)
        (wheel,) = Path(scratch).glob("*.whl")
        (sources,) = Path(scratch).glob("*.tar.gz")
        made = [wheel.name, sources.name]
        for each in (wheel, sources):
            shutil.copy(each, directory)
        tree = Path(scratch) / "tree"
        agent_tree.make(tree, wheel)
        one_file.make(directory / one_file.name(project.version), tree, epoch)
        package = Path(scratch) / debian_package.name(project.version)
        debian_package.make(package, tree, about, epoch)
        shutil.copy(package, directory)
        made += [one_file.name(project.version), package.name]
    chart = directory / chart_package.name(project.version)
    sources_urls = [url for label, url in project.urls.items() if label in {"Source", "Repository"}]
    chart_package.make(chart, home=project.home, sources=sources_urls, epoch=epoch)
    made.append(chart.name)
    for part in bill_of_materials.PARTS:
        bill = directory / bill_of_materials.name(part, project.version)
        bill_of_materials.make(bill, part, project.version, epoch)
        made.append(bill.name)
    return made


def _lacking(project: Project, flags: list[str]) -> list[str]:
    """Return what a release lacks, a line each."""
    check = [str(_BUILD_IMAGE), "--check-release", _image(project.version), *flags]
    checked = subprocess.run(check, check=False, capture_output=True, text=True)
    lacking = checked.stderr.splitlines() if checked.returncode else []
    if not project.home:
        lacking.append(
            "a release names its home: add [project.urls] with Homepage and Source to pyproject.toml"
        )
    if f"## {project.version} " not in (REPOSITORY / "CHANGELOG.md").read_text():
        lacking.append(f"CHANGELOG.md has no {project.version}: make changelog")
    if _git("status", "--porcelain"):
        lacking.append("the checkout has changes that are not committed: commit them")
    return lacking


def _images(directory: Path, version: str, flags: list[str], *, release: bool) -> list[str]:
    """Build both images and write each into an archive; return the names of the files."""
    command = [str(_BUILD_IMAGE), *(["--release"] if release else []), _image(version), *flags]
    subprocess.run(command, check=True, stdout=sys.stderr)
    made = []
    for published in ("wesher", "wesher-operator"):
        archive = directory / f"{published}-{version}-image.tar"
        # docker-archive: refuses a file that exists.
        archive.unlink(missing_ok=True)
        save = [str(REPOSITORY / "scripts/save-image"), _image(version, published), str(archive)]
        subprocess.run(save, check=True, stdout=subprocess.DEVNULL)
        made.append(archive.name)
    return made


def _image(version: str, published: str = "wesher") -> str:
    """Return an image's name. No registry has it, so nobody pulls another image in its place."""
    return f"localhost/{published}:{version}"


def _epoch() -> int:
    """Return the date of everything in a release: that of the last commit, or ``$SOURCE_DATE_EPOCH``."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct"))


def _dated(epoch: int) -> dict[str, str]:
    return {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}


def _git(*words: str) -> str:
    said = subprocess.run(["git", *words], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return said.stdout.strip()


def _say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)  # noqa: T201 - the answer of a command


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
