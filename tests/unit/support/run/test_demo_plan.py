"""What the demo says before it fetches anything, and what it needs to say it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from wesher_testing.run.demo.plan import Cost, Plan
from wesher_testing.run.toolbox import REPOSITORY


def test_the_plan_names_time_disk_space_and_downloads(tmp_path: Path) -> None:
    plan = Plan(tmp_path / "not/there/yet", [("hosts", Cost("a minute", 60, "Libraries are fetched."))])
    time, fetched, disk = plan.lines()
    assert (time, fetched) == ("Time: a minute.", "Libraries are fetched.")
    assert disk.startswith(f"Disk space: 60 MB in {tmp_path}/not/there/yet (")

    plan.parts.append(("Kubernetes", Cost("two minutes", 5100)))
    plan.elsewhere = "Go's caches"
    assert [line for line in plan.lines() if line.startswith("Part ")] == [
        "Part 1, hosts: a minute.",
        "Part 2, Kubernetes: two minutes.",
    ]
    assert any(
        line.startswith(f"Disk space: 5.2 GB in {tmp_path}/not/there/yet and Go's caches (")
        for line in plan.lines()
    )


def test_a_plan_without_downloads_says_so(tmp_path: Path) -> None:
    assert list(Plan(tmp_path, [("hosts", Cost("a minute"))]).lines()) == [
        "Time: a minute.",
        "Nothing has to be fetched.",
    ]


def test_the_demo_of_plain_machines_needs_only_the_standard_library() -> None:
    """It runs on the machine's own Python, before there is any environment."""
    program = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY / 'tests/support')!r}); "
        "import wesher_testing.run.demo.__main__"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
