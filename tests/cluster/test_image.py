"""The image, as its archive holds it and as it runs."""

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


def test_it_holds_the_locked_libraries_and_nothing_else(running: Cluster, image: Image) -> None:
    """What was tested is what is shipped."""
    lock = (REPOSITORY / "requirements.lock").read_text()
    pins = re.findall(r"^([\w-]+)==(\S+) (?!.*win32)", lock, re.MULTILINE)
    locked = {f"{name} {version}" for name, version in pins}

    installed = set(run_restricted(running, image, ["python3", "-c", _INSTALLED]).splitlines())

    assert {each for each in installed if not each.startswith("wesher ")} == locked
    assert len(installed) == len(locked) + 1


def test_it_holds_every_program_an_agent_needs(running: Cluster, image: Image) -> None:
    """The commands and wireguard-go are on the path of a user who may write nothing."""
    assert re.match(r"wesher \d+\.\d+", run_restricted(running, image, ["wesher", "--version"]))
    assert run_restricted(running, image, ["wireguard-go", "--version"]).startswith("wireguard-go v")
    assert run_restricted(running, image, ["wesher-operator", "--help"]).startswith("usage: wesher-operator")


def test_it_runs_as_nobody_in_particular_unless_told(image: Image) -> None:
    """A user given by number is what ``runAsNonRoot`` can check."""
    config = _document(image, _manifest(image)["Config"])["config"]

    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["wesher"]


def test_an_upgrade_pulls_one_small_layer(image: Image) -> None:
    """Libraries change seldom, so what is wesher's own is a layer of its own, on top."""
    _base, wireguard_go, libraries, own = (_files(image, layer) for layer in _manifest(image)["Layers"])

    assert {str(path) for path, size in wireguard_go.items() if size} == {"usr/local/bin/wireguard-go"}
    assert all("wesher" in str(path) for path, size in own.items() if size)
    assert sum(own.values()) < 3 * _MEBIBYTE
    assert sum(libraries.values()) < 160 * _MEBIBYTE


def test_a_read_only_root_costs_no_compiling(image: Image) -> None:
    """Every module of wesher comes with its bytecode."""
    *_, own = (_files(image, layer) for layer in _manifest(image)["Layers"])
    compiled = {
        path.parent.parent / f"{path.name.partition('.')[0]}.py" for path in own if path.suffix == ".pyc"
    }

    assert compiled == {path for path in own if path.suffix == ".py"}


def _manifest(image: Image) -> dict[str, Any]:
    (manifest,) = _document(image, "manifest.json")
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
