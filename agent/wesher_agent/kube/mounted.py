"""The mounted directory of a Kubernetes agent: key ring, mesh.json and news, read again on change; nudges."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from wesher_common.errors import InvalidSpec, PeerMisbehaved
from wesher_common.event_logger import EventLogger
from wesher_common.keys import KeyRing
from wesher_common.mesh_document import FILE_NAME, MeshDocument
from wesher_common.names import NUDGE_FILE
from wesher_common.news import NEWS_FILE, NewsKind, unpack_news

log = EventLogger("wesher.agent")

KEY_FILE, ACCEPTED_FILE = "cluster-key", "accepted-keys"
POLL_SECONDS = 2.0

Signature = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Mounted:
    """What the directory holds."""

    document: MeshDocument
    ring: KeyRing
    news: tuple[tuple[NewsKind, bytes], ...] = ()
    """None of an older operator; of a damaged file, those that were there before."""


class MountedDirectory:
    """A directory that the kubelet keeps up to date by swapping a symbolic link."""

    def __init__(self, directory: Path) -> None:
        self.problem = ""
        """Why what it holds now cannot be used; empty when it is used."""
        self._directory = directory
        self._usable_news: tuple[tuple[NewsKind, bytes], ...] = ()
        """The last ones that were not damaged."""
        self._news_problem = ""
        """What was wrong with the news when they were last read."""
        self._read_at: Signature | None = None
        self._nudge = self._nudge_text()

    def has_changed(self) -> bool:
        """Tell whether key ring, mesh.json or news have changed since they were last read."""
        return self._signature() != self._read_at

    def take_nudge(self) -> bool:
        """Tell whether the operator has written something new into our pod's annotation since last asked."""
        former, self._nudge = self._nudge, self._nudge_text()
        return self._nudge != former

    def read(self) -> Mounted:
        """Read key ring, mesh.json and news. Damaged news are logged, and keep neither of the others back.

        Raises:
            InvalidSpec: naming the file, and the key in it.

        """
        content = None
        # A swap while reading would mix two key rings, of which a key could be missing.
        while content is None or self.has_changed():
            self._read_at = self._signature()
            document = MeshDocument.from_json(self._text(FILE_NAME))
            accepted = self._text(ACCEPTED_FILE) if (self._directory / ACCEPTED_FILE).exists() else ""
            ring = KeyRing.from_files(self._text(KEY_FILE), accepted)
            content = Mounted(document, ring, self._news())
        return content

    async def watch(
        self,
        take: Callable[[Mounted], Awaitable[None]],
        *,
        on_change: Callable[[], None],
        on_nudge: Callable[[], None],
    ) -> None:
        """Check the files until cancelled.

        Args:
            take: takes what the directory holds, each time it is another and can be used. Where it raises
                InvalidSpec, this host cannot apply it now, and it is given again at the next look.
            on_change: called after each change, be it usable or not.
            on_nudge: called when the operator has something new to be asked for.

        """
        known = self._read_at
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if self.take_nudge():
                on_nudge()
            if not self.has_changed():
                continue
            try:
                content = self.read()
            except InvalidSpec as error:
                self._reject(error)
            else:
                # What this host cannot apply is given again without a change.
                if self._read_at != known:
                    log.debug("mounted files changed", mesh=content.document.name)
                known = self._read_at
                try:
                    await take(content)
                except InvalidSpec as error:
                    self._read_at = None
                    self._reject(error)
                else:
                    self.problem = ""
            on_change()

    def _reject(self, error: InvalidSpec) -> None:
        if self.problem != str(error):
            log.error("mounted files rejected: keeping the previous ones", error=error)
        self.problem = str(error)

    def _news(self) -> tuple[tuple[NewsKind, bytes], ...]:
        problem, news = "", self._usable_news
        try:
            news = (*unpack_news((self._directory / NEWS_FILE).read_bytes()),)
        except FileNotFoundError:
            news = ()
        except OSError as error:
            problem = error.strerror or str(error)
        except PeerMisbehaved as error:
            problem = error.reason
        if problem and problem != self._news_problem:
            log.error("mounted news rejected: keeping the previous ones", error=problem)
        self._news_problem, self._usable_news = problem, news
        return news

    def _nudge_text(self) -> str:
        # A pod that an older operator made has no such file.
        try:
            return (self._directory / NUDGE_FILE).read_text()
        except (OSError, UnicodeError):
            return ""

    def _text(self, name: str) -> str:
        path = self._directory / name
        try:
            return path.read_text()
        except FileNotFoundError as error:
            raise InvalidSpec(name, f"is missing in {self._directory}") from error
        except (OSError, UnicodeError) as error:
            raise InvalidSpec(name, f"cannot be read in {self._directory}") from error

    def _signature(self) -> Signature:
        found: list[tuple[int, int, int] | None] = []
        for name in (FILE_NAME, KEY_FILE, ACCEPTED_FILE, NEWS_FILE):
            try:
                status = (self._directory / name).stat()
            except OSError:
                found.append(None)
            else:
                found.append((status.st_mtime_ns, status.st_ino, status.st_size))
        return tuple(found)
