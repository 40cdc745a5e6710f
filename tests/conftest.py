"""What holds for every test: what some need of the machine, why one is skipped, and what was measured."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from wesher_testing.run import figures, toolbox

# How long an input takes says how busy the machine is.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")

_NEEDS = {
    "needs_root": lambda: None if os.geteuid() == 0 else "needs root",
    "needs_tun": lambda: None if Path("/dev/net/tun").exists() else "needs /dev/net/tun",
}


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers by which a test says what it needs of the machine."""
    config.addinivalue_line("markers", "needs_root: makes namespaces, devices or mounts")
    config.addinivalue_line("markers", "needs_tun: makes user-space WireGuard devices")


def pytest_report_header() -> str:
    """Say which cache is in use, since a stale one is a usual suspect."""
    return f"cache: {toolbox.cache_dir()}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose needs the machine does not meet; where CI=true that is a failure."""
    for marker, lacking in _NEEDS.items():
        if item.get_closest_marker(marker) and (reason := lacking()):
            if os.environ.get("CI") == "true":
                pytest.fail(f"{reason}, and in CI nothing is skipped", pytrace=False)
            pytest.skip(reason)


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return what notes a figure, to be shown at the end."""
    return lambda figure: figures.note(request.node, figure)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what was measured."""
    if lines := figures.noted(terminalreporter.config):
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.line(line)
