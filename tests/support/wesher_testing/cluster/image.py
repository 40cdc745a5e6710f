"""Container images for tests: the project's own from its Dockerfile, and a pod's pause image.

Built by buildah without a container engine. Nothing is pulled: the base images that
the Dockerfile names are replaced by one stand-in, a Debian with Python in it, and
the machine's Go is lent to the stage that compiles. Archives and buildah's layers
lie in the cache, so a changed source costs seconds.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wesher_testing.run.cache import cache_dir, kept, run_reported
from wesher_testing.run.toolbox import REPOSITORY, go, go_binary, system_program

_RELEASE = "bookworm"
_PACKAGES = ("ca-certificates", "python3", "python3-pip")
_STAND_IN = f"localhost/wesher-stand-in:{_RELEASE}"
_EPOCH = 1767225600
"""Seconds since 1970 that everything in the small images is dated."""
_STALE = 3600.0
"""Seconds after which an archive of other sources is nobody's any more."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image in a file."""

    name: str
    """What pods call it; its tag follows its content."""
    archive: Path
    """As ``docker save`` writes it: containerd, k3s, kind, docker and podman read it."""

    @property
    def operator(self) -> Image:
        """The operator's image beside the agent's, as ``scripts/build-image`` and the chart name it."""
        repository, _, tag = self.name.rpartition(":")
        return Image(f"{repository}-operator:{tag}", self.archive)


@functools.cache
def wesher_image() -> Image:
    """Return the agent's image of this checkout, in one archive with the operator's.

    Both are built when their sources have changed.

    Raises:
        ToolUnavailable: buildah or debootstrap is absent or failed; the text says which.

    """
    return image_of(REPOSITORY)


def image_of(tree: Path) -> Image:
    """Return the agent's image of a copy of this repository, as `wesher_image`.

    Raises:
        ToolUnavailable: buildah or debootstrap is absent or failed; the text says which.

    """
    name = f"localhost/wesher:{_digest_of(_sources(tree), tree)}"

    def build(target: Path) -> None:
        flags = builder_flags()
        # The archives are large: those of older sources go when new ones come.
        for archive in target.parent.parent.glob("wesher-*.tar"):
            if time.time() - archive.stat().st_mtime > _STALE:
                archive.unlink()
        # By what ``make image`` runs, with its layers and its date.
        run_reported(
            f"building images {name} and {Image(name, target).operator.name.rpartition('/')[2]}",
            [str(tree / "scripts/build-image"), name, *flags],
            env=builder_environment(),
        )
        with tempfile.TemporaryDirectory(dir=target.parent) as directory:
            archives: list[Path] = []
            for image in (name, Image(name, target).operator.name):
                archives.append(Path(directory) / f"{len(archives)}.tar")
                _write_archive(image, archives[-1])
            _merge(archives, target)

    return Image(name, kept(f"images/{name.rpartition('/')[2].replace(':', '-')}.tar", build))


def builder_flags() -> list[str]:
    """Return what ``scripts/build-image`` is given to build on the stand-in, which is made if necessary.

    Raises:
        ToolUnavailable: buildah or debootstrap is absent or failed; the text says which.

    """
    _make_stand_in()
    goroot = subprocess.run([go(), "env", "GOROOT"], capture_output=True, text=True, check=True)
    return [
        *_usual_options(),
        *("--build-arg", f"GO_IMAGE={_STAND_IN}", "--build-arg", f"PYTHON_IMAGE={_STAND_IN}"),
        *("--volume", f"{goroot.stdout.strip()}:/usr/local/go:ro"),
        # What the machine trusts and which package index it asks hold inside as well.
        *_lent("/etc/ssl/certs", "/etc/pip.conf"),
    ]


@functools.cache
def pause_image() -> Image:
    """Return the image of the container that holds a pod's namespaces."""
    program = go_binary(REPOSITORY / "tests/support/go/pause", ".", "pause")
    name = f"localhost/pause:{_digest_of([program])}"

    def build(target: Path) -> None:
        with tempfile.TemporaryDirectory() as context:
            shutil.copy(program, context)
            recipe = Path(context) / "Dockerfile"
            recipe.write_text('FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT ["/pause"]\n')
            _build(name, Path(context))
        _write_archive(name, target)

    return Image(name, kept(f"images/{name.rpartition('/')[2].replace(':', '-')}.tar", build))


def _sources(tree: Path) -> Iterator[Path]:
    """Return every file that the Dockerfile may see, and what decides how it is built."""
    yield tree / "Dockerfile"
    yield tree / ".dockerignore"
    yield tree / "scripts/build-image"
    yield Path(__file__)
    for line in (tree / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            entry = tree / line[1:]
            yield from (entry.rglob("*") if entry.is_dir() else [entry])


def _digest_of(paths: Iterator[Path] | Sequence[Path], tree: Path = REPOSITORY) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in paths if path.is_file() and "__pycache__" not in path.parts):
        if path.is_relative_to(tree):
            digest.update(f"{path.relative_to(tree)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _make_stand_in() -> None:
    """Put the stand-in for the base images into buildah's storage unless it is there."""
    if _buildah_says("images", "--quiet", "--filter", f"reference={_STAND_IN}"):
        return
    root = small_debian()
    with tempfile.TemporaryDirectory() as directory:
        recipe = Path(directory) / "Dockerfile"
        recipe.write_text(
            "FROM scratch\nCOPY . /\n"
            "ENV PATH=/usr/local/go/bin:/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin\n"
        )
        _build(_STAND_IN, root, "--file", str(recipe))


def small_debian() -> Path:
    """Return the files of a minimal Debian with Python, which must not be changed.

    Raises:
        ToolUnavailable: debootstrap is absent or failed.

    """

    def bootstrap(target: Path) -> None:
        include = f"--include={','.join(_PACKAGES)}"
        command = [str(system_program("debootstrap")), "--variant=minbase", include, _RELEASE, str(target)]
        run_reported("building a small Debian to replace the base images", command)
        for needless in ("etc/hostname", "etc/resolv.conf", "var/lib/apt/lists", "var/cache/apt", "var/log"):
            path = target / needless
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    return kept(f"debian-{_RELEASE}/stand-in", bootstrap)


def _build(name: str, context: Path, *options: str) -> None:
    run_reported(
        f"building image {name}",
        [
            *(str(system_program("buildah")), "build", *_usual_options()),
            *("--layers", "--timestamp", str(_EPOCH), *options, "--tag", name, str(context)),
        ],
        env=builder_environment(),
    )


def _usual_options() -> list[str]:
    """Return what makes buildah build without an engine and without a registry."""
    return [
        *("--isolation", "chroot", "--network", "host", "--pull=never", "--quiet"),
        # buildah takes the first only with layers.
        *("--force-rm", "--platform", f"linux/{_architecture()}"),
    ]


def _write_archive(name: str, target: Path) -> None:
    push = [str(system_program("buildah")), "push", "--quiet", name, f"docker-archive:{target}:{name}"]
    run_reported(f"writing {name} into an archive", push, env=builder_environment())


def _merge(archives: Sequence[Path], target: Path) -> None:
    """Make one archive of several, with each layer once."""
    manifest: list[Any] = []
    names: set[str] = set()
    with tarfile.open(target, "w") as merged:
        for archive in archives:
            with tarfile.open(archive) as one:
                for entry in one:
                    content = one.extractfile(entry) if entry.isfile() else None
                    if entry.name == "manifest.json" and content is not None:
                        manifest += json.load(content)
                    elif entry.name not in names | {"repositories"}:
                        names.add(entry.name)
                        merged.addfile(entry, content)
        text = json.dumps(manifest).encode()
        head = tarfile.TarInfo("manifest.json")
        head.size = len(text)
        merged.addfile(head, io.BytesIO(text))


def _buildah_says(*arguments: str) -> str:
    command = [str(system_program("buildah")), *arguments]
    return subprocess.run(
        command, env=builder_environment(), capture_output=True, text=True, check=True
    ).stdout


def builder_environment() -> dict[str, str]:
    """Return the environment in which buildah keeps its images in the cache."""
    storage = cache_dir() / "buildah"
    storage.mkdir(parents=True, exist_ok=True)
    configuration = storage / "storage.conf"
    configuration.write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{storage}/layers"\nrunroot = "{storage}/run"\n'
        # Otherwise a mount of the layers' directory stays after buildah has ended.
        '[storage.options.overlay]\nskip_mount_home = "true"\n'
    )
    return {**os.environ, "CONTAINERS_STORAGE_CONF": str(configuration)}


def _lent(*places: str) -> Iterator[str]:
    for place in places:
        if Path(place).exists():
            yield from ("--volume", f"{place}:{place}:ro")


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
