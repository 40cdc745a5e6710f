"""Which files the documentation site holds, for mkdocs, which calls this as a hook; see ``mkdocs.yml``.

Pages keep their place in the repository, so that a link leads to the same page on the site.
Without a hook, mkdocs takes only the files of one folder.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).resolve().parents[1]
PARTS = ("*.md", "docs/**/*", "deploy/**/*")
"""Patterns of the files: pages, and what pages link to."""


def site_files() -> list[str]:
    """Return the paths of the files, relative to the repository."""
    found = {path for part in PARTS for path in REPOSITORY.glob(part) if path.is_file()}
    return sorted(path.relative_to(REPOSITORY).as_posix() for path in found)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace each pattern of the navigation with its pages."""
    named = set(_texts(config.nav))
    unnamed = [path for path in site_files() if path.endswith(".md") and path not in named]
    config.nav = _filled(config.nav, unnamed)
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Return the theme's files and those of the site."""
    folder = Path(config.docs_dir)
    theirs = (file for file in files if not Path(file.abs_src_path or "").is_relative_to(folder))
    ours = (File.generated(config, path, abs_src_path=str(REPOSITORY / path)) for path in site_files())
    return Files([*theirs, *ours])


def _texts(entry: Any) -> list[str]:
    match entry:
        case str():
            return [entry]
        case dict():
            return _texts([*entry.values()])
        case _:
            return [text for each in entry for text in _texts(each)]


def _filled(entries: Any, unnamed: list[str]) -> list[Any]:
    """Return entries with each pattern replaced by the pages that match it, which are taken from the list."""
    filled: list[Any] = []
    for entry in entries:
        if isinstance(entry, dict):
            filled += [{title: _filled(inner, unnamed) for title, inner in entry.items()}]
        elif "*" in entry:
            taken = [path for path in unnamed if PurePosixPath(path).match(entry)]
            unnamed[:] = [path for path in unnamed if path not in taken]
            filled += taken
        else:
            filled.append(entry)
    return filled
