"""Every link in the documentation leads somewhere, both on GitHub and on the site that `make docs` builds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

from wesher_testing.run.toolbox import REPOSITORY, repository_files

_CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_TARGETS = (
    re.compile(r"\]\(<?([^)>\s]+)"),  # [text](target), ![text](target "title")
    re.compile(r"^ *\[[^\]]+\]: *(\S+)", re.MULTILINE),  # [label]: target
    re.compile(r"(?:href|src|srcset)=\"([^\"\s]+)"),
)
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_ANCHOR = re.compile(r"<a (?:id|name)=\"([^\"]+)\"")
_PATH_IN_TEXT = re.compile(r"(?<![\w/.-])docs/[\w/-]+\.md(?:#[\w-]+)?")


def links_of(page: Path) -> Iterator[str]:
    text = _CODE.sub("", page.read_text())
    for pattern in _TARGETS:
        yield from pattern.findall(text)


def anchors_of(page: Path) -> set[str]:
    """Return what `#…` can name on a page, by GitHub's rule for headings."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    seen: Counter[str] = Counter()
    found = set(_ANCHOR.findall(text))
    for heading in _HEADING.findall(text):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def leads_nowhere(page: Path, link: str) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return False
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.exists() or not target.is_relative_to(REPOSITORY):
        return True
    return bool(parts.fragment) and (target.suffix != ".md" or parts.fragment not in anchors_of(target))


def test_every_relative_link_of_a_page_leads_to_a_file_and_a_heading() -> None:
    pages = repository_files("*.md")
    links = [(page.relative_to(REPOSITORY).as_posix(), link) for page in pages for link in links_of(page)]
    assert len(links) > 20
    assert [(page, link) for page, link in links if leads_nowhere(REPOSITORY / page, link)] == []


def test_every_page_that_a_file_names_by_its_path_exists() -> None:
    """A log line, a comment or a chart value may say `docs/logs.md`."""
    lost = []
    for path in repository_files(":!tests/repo", ":!changelog.d", ":!*.lock"):
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        named = _PATH_IN_TEXT.findall(text)
        lost += [(path.name, each) for each in named if leads_nowhere(REPOSITORY / "README.md", each)]
    assert lost == []


class _Page(HTMLParser):
    """What a page of the site links to, and what a browser fetches to show it."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.blocks: Counter[str] = Counter()
        """How many lists, tables and blocks of code it has."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.blocks[tag] += tag in {"ol", "ul", "li", "td", "pre"}
        values = {name: value for name, value in attrs if value}
        is_fetched = tag in {"script", "img", "source"} or (
            tag == "link" and values.get("rel") != "canonical"
        )
        for name in ("href", "src"):
            if name in values:
                (self.fetched if is_fetched else self.links).append(values[name])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the site, as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [Path(sys.executable).parent / "mkdocs", "build", "--site-dir", folder],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_the_site_is_whole_and_shows_each_page_without_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert site / "index.html" in pages
    assert site / "docs/troubleshooting/index.html" in pages
    lost, foreign = [], []
    for path in pages:
        page = _Page()
        page.feed(path.read_text())
        foreign += [(path.name, each) for each in page.fetched if urlsplit(each).netloc]
        # The page for addresses that do not exist is shown at any depth, so its links begin at the root.
        folder = site if path.name == "404.html" else path.parent
        for each in (*page.links, *page.fetched):
            parts = urlsplit(each)
            if parts.scheme or parts.netloc or not parts.path:
                continue
            target = folder / unquote(parts.path).removeprefix("/")
            if not (target / "index.html" if target.is_dir() else target).is_file():
                lost.append((path.relative_to(site).as_posix(), each))
    assert (lost, foreign) == ([], [])


def test_every_page_of_the_documentation_is_on_the_site(site: Path) -> None:
    pages = [page.relative_to(REPOSITORY) for page in repository_files(":(glob)*.md", "docs/*.md")]
    lacking = [
        page for page in pages if page.name != "README.md" and not (site / page.with_suffix("")).is_dir()
    ]
    assert lacking == []


def test_the_site_lays_out_each_page_as_github_does(site: Path) -> None:
    """For mkdocs, only text that is indented by four belongs to the item of a list above it."""
    github = MarkdownIt("commonmark").enable("table")
    differing = []
    for page in repository_files(":(glob)*.md", "docs/*.md"):
        place = page.relative_to(REPOSITORY)
        folder = site / (place.parent if page.name == "README.md" else place.with_suffix(""))
        there, here = _Page(), _Page()
        there.feed(github.render(page.read_text()))
        here.feed((folder / "index.html").read_text().partition("<article")[2].partition("</article>")[0])
        if +there.blocks != +here.blocks:
            differing.append((place.as_posix(), +there.blocks, +here.blocks))
    assert differing == []
