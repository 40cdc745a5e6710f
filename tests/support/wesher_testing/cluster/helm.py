"""Helm 3 and 4, as users render and install the chart with them.

``python -m wesher_testing.cluster.helm`` builds both into the cache, which takes minutes, once.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from wesher_testing.run.toolbox import REPOSITORY, go_binary

HelmVersion = Literal[3, 4]
VERSIONS: tuple[HelmVersion, ...] = get_args(HelmVersion)
CHART = REPOSITORY / "charts/wesher"
SOME_IMAGE = "--set=image.repository=wesher"
"""What a rendering needs whose pods do not run."""

_MODULE = REPOSITORY / "tests/support/go/helm"
_MODFILES = {3: "helm3.mod", 4: "go.mod"}


@functools.cache
def helm(version: HelmVersion = 4) -> Path:
    """Return the program ``helm`` of a major version, pinned beside the other Go programs."""
    package = f"helm.sh/helm/v{version}/cmd/helm"
    return go_binary(_MODULE, package, "helm", _MODFILES[version], _constants(version))


def _constants(version: HelmVersion) -> dict[str, str]:
    """Return what Helm's Makefile sets: the version of Kubernetes, which is v1.20 without it."""
    if version != 3:
        return {}
    found = re.search(r"k8s\.io/client-go v0\.(\d+)\.", (_MODULE / _MODFILES[version]).read_text())
    if found is None:
        raise HelmFailed(f"{_MODFILES[version]} does not name k8s.io/client-go")
    library = f"helm.sh/helm/v{version}/pkg"
    return {
        f"{library}/{package}.k8sVersion{part}": value
        for package in ("chartutil", "lint/rules")
        for part, value in (("Major", "1"), ("Minor", found[1]))
    }


class HelmFailed(Exception):  # noqa: N818 - reads as the fact it states
    """Helm refused; the text is what it said."""


def run_helm(
    version: HelmVersion,
    *arguments: str | Path,
    seconds: float = 60,
    home: Path,
    enter: Sequence[str] = (),
) -> str:
    """Run Helm and return what it printed.

    Args:
        version: of Helm.
        arguments: without the program's name.
        seconds: after which it is ended.
        home: where it may keep its cache and settings; the user's own stay untouched.
        enter: what to prefix the command with so that it runs where the API server can be reached.

    Raises:
        HelmFailed: it refused.

    """
    return _run([*enter, helm(version), *arguments], seconds, home)


def _run(command: Sequence[str | Path], seconds: float, home: Path) -> str:
    names = ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "KUBECACHEDIR")
    places = {name: str(home) for name in names}
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBE"))}
    done = subprocess.run(
        command,
        env={**mine, **places},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    if done.returncode:
        raise HelmFailed(done.stderr.strip() or done.stdout.strip())
    return done.stdout


if __name__ == "__main__":
    for each in VERSIONS:
        helm(each)
