"""An administrator's workstation: kubectl and Helm, a copy of this repository, and lines of shell."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.helm import CHART, HelmVersion, helm
from wesher_testing.cluster.image import Image
from wesher_testing.run.toolbox import REPOSITORY, kubernetes_binary

_PATIENCE = 300.0


class CommandRefused(RuntimeError):  # noqa: N818 - reads as the fact it states
    """A command failed; the text says which, and what it said."""


class Workstation:
    """Where commands are given as the cluster's administrator.

    Args:
        api: of the cluster.
        directory: an empty one, which commands find themselves in.
        version: of Helm.

    """

    def __init__(self, api: ApiServer, directory: Path, *, version: HelmVersion = 4) -> None:
        self._api = api
        self.directory = directory
        self._programs = directory / ".programs"
        self._programs.mkdir()
        programs = {"kubectl": kubernetes_binary("kubectl"), "helm": helm(version)}
        for name in ("wesher", "wesher-operator", "kubectl-wesher"):
            programs[name] = Path(sys.executable).parent / name
        for name, program in programs.items():
            (self._programs / name).symlink_to(program)
        (directory / "charts").mkdir()
        (directory / "deploy").symlink_to(REPOSITORY / "deploy")
        self.take(CHART)

    def take(self, chart: Path) -> None:
        """Have this chart as ``charts/wesher``."""
        place = self.directory / "charts/wesher"
        place.unlink(missing_ok=True)
        place.symlink_to(chart)

    def run(self, command: str) -> str:
        """Run a line of shell and return what it printed.

        Raises:
            CommandRefused: its status is not 0.

        """
        done = subprocess.run(
            [*self._api.enter, "bash", "-ec", f"cd {self.directory}\n{command}"],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        if done.returncode:
            raise CommandRefused(f"{command}: status {done.returncode}: {done.stderr}{done.stdout}")
        return done.stdout

    def _environment(self) -> Mapping[str, str]:
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBE"))}
        own = self.directory / ".helm"
        return {
            **mine,
            "PATH": f"{self._programs}:{os.environ.get('PATH', os.defpath)}",
            "KUBECONFIG": str(self._api.kubeconfig),
            "KUBECACHEDIR": str(own),
            **{name: str(own) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")},
        }


def set_release(chart: Path, version: str, image: Image) -> None:
    """Make a copy of the chart another release's, with an image that the nodes hold."""
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    release = {"version": version, "appVersion": image.name.rpartition(":")[2]}
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about | release))
