"""What ``make image`` builds, as far as that shows without building it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DIGEST = f"sha256:{'0' * 64}"
PARTS = ("agent", "operator")


def pins(lock: str) -> set[str]:
    return set(re.findall(r"^[\w.-]+==\S+", (REPOSITORY / lock).read_text(), re.MULTILINE))


def build(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the recipe with a builder that only says what it was told."""
    builder = directory / "buildah"
    builder.write_text('#!/bin/sh\necho "$@"\n')
    builder.chmod(0o755)
    return subprocess.run(
        [REPOSITORY / "scripts/build-image", *arguments],
        env={"PATH": f"{directory}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_image_has_its_own_lock_with_the_versions_that_are_tested() -> None:
    of_part = {part: pins(f"requirements-{part}.lock") for part in PARTS}
    assert of_part["agent"] | of_part["operator"] == pins("requirements.lock")
    assert not any(pin.startswith("kopf==") for pin in of_part["agent"])


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("wesher:1", "wesher-operator:1"),
        ("wesher", "wesher-operator"),
        ("localhost:5000/net/wesher", "localhost:5000/net/wesher-operator"),
        ("localhost:5000/net/wesher:1", "localhost:5000/net/wesher-operator:1"),
    ],
)
def test_the_operators_image_is_named_after_the_agents(tmp_path: Path, name: str, operator: str) -> None:
    said = build(tmp_path, name, "--quiet").stdout.splitlines()
    assert [line.partition(" --quiet ")[2] for line in said] == [
        f"--target operator --tag {operator} .",
        f"--target agent --tag {name} .",
    ]


@pytest.mark.parametrize("separate", [True, False])
def test_a_release_takes_no_base_image_by_its_tag(tmp_path: Path, *, separate: bool) -> None:
    """Tomorrow a tag may be another image."""

    def base(name: str, image: str) -> list[str]:
        return ["--build-arg", f"{name}={image}"] if separate else [f"--build-arg={name}={image}"]

    for how in ("--release", "--check-release"):
        refused = build(tmp_path, how, "wesher:1", *base("GO_IMAGE", f"golang@{DIGEST}"))
        assert refused.returncode == 1
        assert refused.stdout == ""
        assert refused.stderr.startswith(
            "a release needs PYTHON_IMAGE by digest: add --build-arg=PYTHON_IMAGE=python:"
        )
    neither = build(tmp_path, "--release", "wesher:1").stderr.splitlines()
    assert [line.split()[3] for line in neither] == ["GO_IMAGE", "PYTHON_IMAGE"]
    both = [*base("GO_IMAGE", f"golang:1@{DIGEST}"), *base("PYTHON_IMAGE", f"python@{DIGEST}")]
    taken = build(tmp_path, "--release", "wesher:1", *both)
    assert (taken.returncode, taken.stderr) == (0, "")
    checked = build(tmp_path, "--check-release", "wesher:1", *both)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    assert "· not fit for a release: GO_IMAGE is golang:" in build(tmp_path, "wesher:1").stderr
