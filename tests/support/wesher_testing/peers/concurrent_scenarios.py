"""Runs slow scenarios of one module all at once, and reports each as a test of its own.

What takes a minute of waiting in each of twenty meshes takes little more in all
of them together. A module has a fixture that runs those of its scenarios that
were selected, and one test that asks for each outcome.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

import pytest

Scenario = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Outcomes:
    """How each scenario that was run ended."""

    errors: Mapping[str, BaseException | None]
    seconds: Mapping[str, float]

    def require(self, scenario: str) -> None:
        """Pass when the scenario did; else raise what it raised."""
        print(f"{scenario}: {self.seconds[scenario]:.1f} s")
        if error := self.errors[scenario]:
            raise error


def selected(request: pytest.FixtureRequest, parameter: str) -> list[str]:
    """Return the values of a parameter among the tests of this module that are to run."""
    values = []
    for item in request.session.items:
        callspec = getattr(item, "callspec", None)
        if item.path == request.path and callspec is not None and parameter in callspec.params:
            values.append(callspec.params[parameter])
    return list(dict.fromkeys(values))


def run_side_by_side(scenarios: Mapping[str, Scenario], names: Iterable[str]) -> Outcomes:
    """Run scenarios concurrently on one event loop, each to its own end."""
    seconds: dict[str, float] = {}

    async def timed(name: str) -> None:
        began = time.monotonic()
        try:
            await scenarios[name]()
        finally:
            seconds[name] = time.monotonic() - began

    async def all_of_them() -> dict[str, BaseException | None]:
        chosen = list(names)
        ended = await asyncio.gather(*map(timed, chosen), return_exceptions=True)
        return dict(zip(chosen, ended, strict=True))

    return Outcomes(asyncio.run(all_of_them()), seconds)
