"""What the demo says: stages with their times, the commands behind them, their results."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class ClaimFailed(Exception):  # noqa: N818 - reads as the fact it states
    """Something that the demo claims turned out false; the text says what."""


FAILURES = (ClaimFailed, RuntimeError, subprocess.SubprocessError)
"""What a stage may raise when the demo does not work; `Narrator.failure` shows it."""


class Narrator:
    """Speaks to a newcomer who watches the terminal."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._stages = 0
        self._bold, self._dim, self._plain = (
            ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("",) * 3
        )
        self.claims = 0

    @contextmanager
    def stage(self, title: str, why: str = "") -> Iterator[None]:
        """Announce a stage, and when it ends tell how long it took."""
        self._stages += 1
        began = time.monotonic()
        self._say(f"\n{self._bold}━━ {self._stages}. {title}{self._plain}")
        if why:
            self.paragraph(why)
        yield
        self._say(f"{self._dim}   {time.monotonic() - began:.1f} s{self._plain}")

    def paragraph(self, text: str) -> None:
        """Say something that may take more than a line."""
        self._say(
            textwrap.fill(
                text,
                100,
                initial_indent="   ",
                subsequent_indent="   ",
                break_long_words=False,
                break_on_hyphens=False,
            )
        )

    def command(self, text: str) -> None:
        """Show a command as it could be typed."""
        self._say(f"   {self._bold}$ {text}{self._plain}")

    def output(self, text: str) -> None:
        """Show what a command printed."""
        self._say(textwrap.indent(text.rstrip(), "     "))

    def note(self, text: str) -> None:
        """Tell something on the way."""
        self._say(f"   {text}")

    def claim(self, text: str, holds: object) -> None:
        """State something and require that it is so.

        Raises:
            ClaimFailed: it is not.

        """
        if not holds:
            raise ClaimFailed(text)
        self.claims += 1
        self._say(f"   ✓ {text}")

    def eventually(self, text: str, holds: Callable[[], object], *, within: float) -> None:
        """State something that becomes so within some seconds; it is looked at once more after them.

        Raises:
            ClaimFailed: it does not.

        """
        began = time.monotonic()
        is_last = False
        while not holds():
            if is_last:
                raise ClaimFailed(f"{text} (waited {within:.0f} s)")
            time.sleep(0.2)
            is_last = time.monotonic() - began > within
        self.claim(f"{text} ({time.monotonic() - began:.1f} s)", holds=True)

    @property
    def elapsed(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._began

    def headline(self, text: str) -> None:
        """Say something that stands out."""
        self._say(f"\n{self._bold}━━ {text}{self._plain}")

    def verdict(self, text: str) -> None:
        """Say the last word, and how long it all took."""
        self.headline(f"{text} ({self.elapsed:.0f} s)")

    def failure(self, error: BaseException, logs: Iterable[Path]) -> None:
        """Show how a demo failed, with the end of each log."""
        for log in logs:
            self.note(f"the end of {log.name}:")
            self.output(tail(log))
        self.verdict(f"FAILED: {error}")

    def _say(self, text: str) -> None:
        print(text, flush=True)


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
