"""The images of agent and operator, as their archive holds them and as they run."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import PurePosixPath
from typing import Any

import pytest

from wesher_testing.cluster.image import Image
from wesher_testing.cluster.kubelets import Cluster
from wesher_testing.cluster.pods import run_restricted
from wesher_testing.run.toolbox import REPOSITORY

pytestmark = pytest.mark.needs_root

_MEBIBYTE = 1 << 20
_INSTALLED = """
import importlib.metadata, sysconfig
for one in importlib.metadata.distributions(path=[sysconfig.get_path("purelib")]):
    print(one.name.lower().replace("_", "-"), one.version)
"""
_NOT_NEEDED = ("apt", "apt-get", "bash", "busybox", "dash", "dpkg", "gcc", "perl", "pip", "pip3", "sh", "tar")
"""Programs that help an attacker and no agent."""
_MODULES = """
import importlib.util, sys
print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name) is not None))
"""


@pytest.fixture(params=["agent", "operator"])
def part(request: pytest.FixtureRequest) -> str:
    """Return whose image is looked at."""
    return str(request.param)


@pytest.fixture
def one(image: Image, part: str) -> Image:
    """Return that image."""
    return image if part == "agent" else image.operator


def test_it_holds_the_locked_libraries_and_nothing_else(running: Cluster, one: Image, part: str) -> None:
    """What was tested is what is shipped."""
    lock = (REPOSITORY / f"requirements-{part}.lock").read_text()
    pins = re.findall(r"^([\w-]+)==(\S+) (?!.*win32)", lock, re.MULTILINE)
    locked = {f"{name} {version}" for name, version in pins}

    installed = set(run_restricted(running, one, ["python3", "-c", _INSTALLED]).splitlines())

    assert {each for each in installed if not each.startswith("wesher ")} == locked
    assert len(installed) == len(locked) + 1


def test_the_agents_image_has_the_programs_that_an_agent_needs(running: Cluster, image: Image) -> None:
    """The commands and wireguard-go are on the path of a user who may write nothing."""
    assert re.match(r"wesher \d+\.\d+", run_restricted(running, image, ["wesher", "--version"]))
    assert run_restricted(running, image, ["wireguard-go", "--version"]).startswith("wireguard-go v")


def test_the_operators_image_has_the_operator(running: Cluster, image: Image) -> None:
    said = run_restricted(running, image.operator, ["wesher-operator", "--help"])
    assert said.startswith("usage: wesher-operator")


def test_it_has_no_shell_no_pip_and_no_package_manager(one: Image) -> None:
    paths = {path for layer in _manifest(one)["Layers"] for path in _files(one, layer)}
    programs = {path.name for path in paths if path.parent.name in {"bin", "sbin"}}
    assert programs & {*_NOT_NEEDED} == set()
    # Under the name of the base image's Python, and that of Debian.
    assert [path for path in paths if {"pip", "ensurepip", "apt", "dpkg"} & set(path.parts)] == []


def test_no_part_has_what_only_the_other_needs(running: Cluster, one: Image, part: str) -> None:
    others = {
        "agent": ["kopf", "kubernetes", "wesher_operator"],
        "operator": ["pyroute2", "msgpack", "wesher_agent"],
    }
    assert run_restricted(running, one, ["python3", "-c", _MODULES, *others[part], "pip"]).split() == []


def test_it_runs_as_nobody_in_particular_unless_told(one: Image, part: str) -> None:
    """A user given by number is what ``runAsNonRoot`` can check."""
    config = _document(one, _manifest(one)["Config"])["config"]

    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == [{"agent": "wesher", "operator": "wesher-operator"}[part]]


def test_an_upgrade_pulls_one_small_layer(image: Image) -> None:
    """Libraries change seldom, so what is wesher's own is a layer of its own, on top."""
    _base, wireguard_go, libraries, own = (_files(image, layer) for layer in _manifest(image)["Layers"])

    assert {str(path) for path, size in wireguard_go.items() if size} == {"usr/local/bin/wireguard-go"}
    _, operator_libraries, operator_own = (
        _files(image, layer) for layer in _manifest(image.operator)["Layers"]
    )
    for files in (own, operator_own):
        assert all("wesher" in str(path) for path, size in files.items() if size)
        assert sum(files.values()) < 3 * _MEBIBYTE
    for files in (libraries, operator_libraries):
        assert sum(files.values()) < 160 * _MEBIBYTE


def test_both_stand_on_the_same_small_layer(image: Image) -> None:
    """A node with an agent and the operator has Python once."""
    ours, operators = _manifest(image)["Layers"][0], _manifest(image.operator)["Layers"][0]
    assert ours == operators
    assert sum(_files(image, ours).values()) < 100 * _MEBIBYTE


def test_a_read_only_root_costs_no_compiling(one: Image) -> None:
    """Every module of wesher and of Python comes with its bytecode."""
    base, *_, own = (_files(one, layer) for layer in _manifest(one)["Layers"])
    for files in (base, own):
        compiled = {
            path.parent.parent / f"{path.name.partition('.')[0]}.py"
            for path in files
            if path.suffix == ".pyc"
        }
        assert compiled == {path for path in files if path.suffix == ".py"}


def _manifest(image: Image) -> dict[str, Any]:
    (manifest,) = [each for each in _document(image, "manifest.json") if image.name in each["RepoTags"]]
    return dict(manifest)


def _document(image: Image, name: str) -> Any:
    with tarfile.open(image.archive) as archive:
        content = archive.extractfile(name)
        assert content is not None
        return json.load(content)


def _files(image: Image, layer: str) -> dict[PurePosixPath, int]:
    """Return the sizes of a layer's files by path, in bytes."""
    with tarfile.open(image.archive) as archive, tarfile.open(fileobj=archive.extractfile(layer)) as files:
        return {PurePosixPath(each.name): each.size for each in files if not each.isdir()}
