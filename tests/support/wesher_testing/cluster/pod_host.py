"""The network of a running pod, entered from its node: the node's programs run there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wesher_testing.cluster import containers
from wesher_testing.cluster.kubelets import Cluster, Node


class PodHost:
    """A pod with a network of its own.

    Attributes:
        name: of the pod.
        node: where it runs.
        addresses: its IP addresses, one of each IP version at most.
        address: the first of them.

    """

    def __init__(self, cluster: Cluster, name: str, namespace: str = "default") -> None:
        pod = cluster.api.get("pod", name, f"--namespace={namespace}")
        self.name = name
        self.node: Node = cluster.nodes[pod["spec"]["nodeName"]]
        self.addresses: list[str] = [each["ip"] for each in pod["status"]["podIPs"]]
        self.address = self.addresses[0]
        container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
        task = self.node.host.root / containers.TASKS.strip("/") / container
        self._process = (task / "init.pid").read_text().strip()

    @property
    def host(self) -> PodHost:
        """Itself, for what runs programs on hosts."""
        return self

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """Return the command line that runs ``argv`` in the pod's network."""
        command = self.node.command(["nsenter", f"--net=/proc/{self._process}/ns/net", *argv])
        # With it nsenter stays between us and the program, and keeps our signals.
        command.remove("--pid")
        return command

    def run(self, argv: Sequence[str | Path], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program to its end there, within a minute."""
        return self.node.run(["nsenter", f"--net=/proc/{self._process}/ns/net", *argv], check=check)

    def popen(self, argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start a program there."""
        return subprocess.Popen(self.command(argv), **options)

    def mtu(self) -> int:
        """Return the MTU of its device."""
        links = json.loads(self.run(["ip", "-json", "link", "show", "eth0"]).stdout)
        return int(links[0]["mtu"])
