"""wesher on a cluster as its users have it: the chart installed by Helm, and its meshes to look at."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from wesher_agent.control import ask
from wesher_testing.cluster.helm import CHART, HelmVersion, run_helm
from wesher_testing.cluster.image import Image
from wesher_testing.cluster.kubelets import Cluster, Node
from wesher_testing.cluster.operator_process import eventually

NAMESPACE = "wesher-system"
RELEASE = "wesher"
DEFAULT_OVERLAY = IPv4Network("10.189.0.0/16")
"""What the chart's values say."""
OPERATOR = "app.kubernetes.io/name=wesher-operator"
_PATIENTLY = ("--wait", "--timeout=4m")
_HELM_SECONDS = 300.0
_READY_SECONDS = 240.0
"""Until a mesh is Ready; on a machine with nothing else to do it takes fifteen."""
_GONE_SECONDS = 120.0
"""Until nothing of a mesh is left; on a machine with nothing else to do it takes three."""
_ANSWER_SECONDS = 60.0
"""Until a ping is answered: handshakes that were lost are tried again after five seconds, and ten."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """A WesherMesh of a cluster, there or not."""

    cluster: Cluster
    name: str = "default"
    interface: str = "wgoverlay"
    overlay: IPv4Network = DEFAULT_OVERLAY

    def apply(self, **spec: Any) -> None:
        """Apply the mesh with the rest of its spec."""
        self.cluster.api.apply(
            {
                "apiVersion": "wesher.dev/v1alpha1",
                "kind": "WesherMesh",
                "metadata": {"name": self.name},
                "spec": {"overlayCIDR": str(self.overlay), **spec},
            }
        )

    def delete(self) -> None:
        """Delete the mesh, if it is there, and wait until the garbage collector has taken what is its own."""
        self.cluster.api.kubectl("delete", "wmesh", self.name, "--ignore-not-found")
        self.wait_until_collected()

    def wait_until_collected(self) -> None:
        """Wait until the garbage collector has taken what a deleted mesh had, its agents' pods too."""
        eventually(self.objects, within=_GONE_SECONDS, until=lambda left: not left)

    def objects(self) -> list[str]:
        """Return the names of what the operator made for the mesh, as kind/name; keys are not among it."""
        kinds = "daemonsets,configmaps,weshernodes,pods"
        shown = self.cluster.api.kubectl(
            *("get", kinds, f"--namespace={NAMESPACE}", f"--selector={self._selector}", "--output=name")
        )
        return shown.split()

    def wait_until_ready(self, seconds: float = _READY_SECONDS) -> None:
        """Wait for what ``kubectl wait`` waits for."""
        wait = ("wait", "--for=condition=Ready", f"wmesh/{self.name}", "--timeout=5s")
        self.cluster.repeat(*wait, seconds=seconds)

    @property
    def _selector(self) -> str:
        return f"wesher.dev/mesh={self.name}"

    def addresses(self) -> dict[str, str]:
        """Return the overlay addresses by node."""
        return {each["spec"]["nodeName"]: each["spec"]["overlayIP"] for each in self.weshernodes()}

    def weshernodes(self) -> list[dict[str, Any]]:
        """Return the WesherNodes."""
        found: list[dict[str, Any]] = self.cluster.api.get("weshernodes", f"--selector={self._selector}")[
            "items"
        ]
        return found

    def status(self) -> dict[str, Any]:
        """Return the status of the mesh, empty while it has none."""
        found: dict[str, Any] = (self.cluster.api.get("wmesh", self.name) or {}).get("status", {})
        return found

    def condition(self, kind: str) -> dict[str, str]:
        """Return one of the mesh's conditions, empty while it has none."""
        conditions = self.status().get("conditions", [])
        return next((each for each in conditions if each["type"] == kind), {})

    def agents(self) -> dict[str, dict[str, Any]]:
        """Return the agents' pods by node, those that are ending left out."""
        pods = self.cluster.api.get("pods", f"--namespace={NAMESPACE}", f"--selector={self._selector}")[
            "items"
        ]
        return {
            pod["spec"]["nodeName"]: pod
            for pod in pods
            if "deletionTimestamp" not in pod["metadata"] and "nodeName" in pod["spec"]
        }

    def members_on(self, node: str) -> dict[str, dict[str, Any]]:
        """Return what a node's agent says of each member, by name; the API server may be away."""
        socket = self.cluster.nodes[node].host.root / f"run/wesher/{self.interface}.sock"
        return {entry["name"]: entry for entry in ask(socket, "members")}

    def certificates(self) -> dict[tuple[str, str], tuple[str | None, str]]:
        """Return by pair of nodes until when the other is certified, and why not, as the one's agent says.

        External members are left out: those that have left stay listed for a while.
        """
        return {
            (node, name): (entry["certificateExpires"], entry["uncertified"])
            for node in self.cluster.nodes
            for name, entry in self.members_on(node).items()
            if name in self.cluster.nodes
        }

    def ping(self, source: str, target: str, *, marker: bytes = bytes(16)) -> bool:
        """Ping one node's overlay address from another; tell whether it answered."""
        command = ["ping", "-n", "-q", "-c", "3", "-i", "0.2", "-W", "2", "-p", marker.hex()]
        pinged = self.cluster.nodes[source].host.run([*command, self.addresses()[target]], check=False)
        return pinged.returncode == 0

    def wait_for_ping(self, source: str, target: str, *, marker: bytes = bytes(16)) -> None:
        """Ping one node's overlay address from another until it answers.

        A mesh is Ready though of several peers one did not answer a node when it last asked.
        """
        eventually(
            lambda: (source, target, self.ping(source, target, marker=marker)),
            within=_ANSWER_SECONDS,
            until=lambda told: told[2],
        )

    def wait_for_all_pings(self) -> None:
        """Ping every node from every other until it answers."""
        for pair in itertools.permutations(self.cluster.nodes, 2):
            self.wait_for_ping(*pair)

    def traces_on(self, node: Node) -> list[str]:
        """Return all of the mesh that a node shows: device, routes, hosts entries, sockets, state file."""
        shown = [f"device {self.interface}"] if self.interface in node.devices() else []
        routes = node.host.run(["ip", "route", "show", "table", "all"]).stdout.splitlines()
        ours = re.compile(
            rf"\bdev {re.escape(self.interface)}\b|^unreachable {re.escape(str(self.overlay))} "
        )
        shown += [route.strip() for route in routes if ours.search(route)]
        hosts = (node.host.root / "etc/hosts").read_text().splitlines()
        shown += [line for line in hosts if line.endswith(f"wesher interface {self.interface}")]
        files = [f"run/{program}/{self.interface}.sock" for program in ("wesher", "wireguard")]
        states = ("{}.json", "{}.json.previous", ".{}.json.lock")
        files += [f"var/lib/wesher/{name.format(self.interface)}" for name in states]
        shown += [file for file in files if (node.host.root / file).exists()]
        return shown


def install(cluster: Cluster, image: Image, *more: str, version: HelmVersion = 3) -> None:
    """Install the chart with an image that the nodes hold, as README says; ``more`` is for Helm."""
    install_chart(cluster, *_chosen(image), *more, version=version, chart=CHART)


def install_chart(cluster: Cluster, *more: str, version: HelmVersion, chart: Path) -> None:
    """Install a chart with the image that it names; ``more`` is for Helm."""
    _helm(cluster, version, "install", RELEASE, str(chart), "--create-namespace", *_PATIENTLY, *more)


def upgrade(cluster: Cluster, image: Image, *more: str, version: HelmVersion = 3) -> None:
    """Bring the release up to the chart as it stands, and to an image that the nodes hold."""
    _helm(cluster, version, "upgrade", RELEASE, str(CHART), *_PATIENTLY, *_chosen(image), *more)


def check(cluster: Cluster, *, version: HelmVersion = 3) -> str:
    """Run the chart's test; return what Helm said of it."""
    return _helm(cluster, version, "test", RELEASE, "--timeout=2m")


def uninstall(cluster: Cluster, *more: str, version: HelmVersion = 3) -> None:
    """Take the release away; ``more`` is for Helm."""
    _helm(cluster, version, "uninstall", RELEASE, *_PATIENTLY, *more)


def _chosen(image: Image) -> list[str]:
    repository, _, tag = image.name.rpartition(":")
    return ["--set", f"image.repository={repository}", "--set", f"image.tag={tag}"]


def _helm(cluster: Cluster, version: HelmVersion, *arguments: str) -> str:
    return run_helm(
        version,
        *(f"--kubeconfig={cluster.api.kubeconfig}", f"--namespace={NAMESPACE}", *arguments),
        seconds=_HELM_SECONDS,
        home=cluster.api.directory / "helm",
        enter=cluster.api.enter,
    )
