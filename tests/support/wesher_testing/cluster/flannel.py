"""flannel as the cluster's CNI, in place of bridges between which the lab sets the routes.

Built from its Go module; `tests/support/go/flannel` says what is left out. It writes each node's
subnet and MTU where flannel's CNI plugin reads them, and the bridge that this one would
configure is configured here.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Literal

from wesher_testing.cluster import components
from wesher_testing.cluster.kubelets import Cluster, Node
from wesher_testing.cluster.pod_networks import allocated_networks, connect_bridge
from wesher_testing.run.toolbox import REPOSITORY, go_binary

Backend = Literal["vxlan", "host-gw"]
_SUBNET_FILE = "run/flannel/subnet.env"
_MASQUERADE = f"""
    table ip flannel
    delete table ip flannel
    table ip flannel {{
        chain postrouting {{
            type nat hook postrouting priority srcnat;
            ip saddr {components.POD_NETWORK} ip daddr != {components.POD_NETWORK} masquerade
        }}
    }}
"""
"""What flannel does with --ip-masq."""
_PATIENCE = 120.0


class Flannel:
    """flannel on every node of a cluster; it is what `kubelets.cluster_at` takes as ``pod_network``."""

    def __init__(self, backend: Backend) -> None:
        self._backend: Backend = backend
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __call__(self, cluster: Cluster) -> None:
        """Run flannel on every node that does not have it."""
        allocated_networks(cluster)
        for node in cluster.nodes.values():
            if node.name not in self._running:
                self._running[node.name] = self._start(cluster, node)
        for node in cluster.nodes.values():
            told = self._wait_for_subnet(node)
            # The first address of the subnet is the bridge's.
            network = told["FLANNEL_SUBNET"].replace(".1/", ".0/")
            connect_bridge(node, network, mtu=int(told["FLANNEL_MTU"]))

    def change(self, cluster: Cluster, backend: Backend) -> None:
        """Restart flannel with another backend on every node; what the former one left is removed."""
        self._backend = backend
        for name, process in self._running.items():
            process.terminate()
            process.wait()
            host = cluster.nodes[name].host
            host.run(["ip", "link", "delete", "flannel.1"], check=False)
            (host.root / _SUBNET_FILE).unlink()
        self._running.clear()
        self(cluster)

    def log_of(self, node: Node) -> str:
        """Return what flannel has said on a node."""
        return (node.directory / "flannel.log").read_text(errors="replace")

    def _start(self, cluster: Cluster, node: Node) -> subprocess.Popen[bytes]:
        node.host.run(["nft", "-f", "-"], text_in=_MASQUERADE)
        content = {"Network": components.POD_NETWORK, "Backend": {"Type": self._backend}}
        configuration = node.directory / "net-conf.json"
        configuration.write_text(json.dumps(content))
        kubeconfig = components.kubeconfig(cluster.api, f"system:flannel:{node.name}", "system:masters")
        command = [
            *("env", f"NODE_NAME={node.name}", str(_flannel())),
            f"--kubeconfig-file={kubeconfig}",
            f"--net-config-path={configuration}",
            f"--public-ip={node.host.ipv4}",
        ]
        return node.host.log_of(command, node.directory / "flannel.log", start_new_session=True)

    def _wait_for_subnet(self, node: Node) -> dict[str, str]:
        file = node.host.root / _SUBNET_FILE
        deadline = time.monotonic() + _PATIENCE
        while not file.exists():
            if time.monotonic() > deadline or self._running[node.name].poll() is not None:
                raise AssertionError(f"no flannel on {node.name}: {self.log_of(node)[-2000:]}")
            time.sleep(0.1)
        return dict(line.split("=", 1) for line in file.read_text().splitlines())


def prepare() -> None:
    """Build it."""
    _flannel()


def _flannel() -> Path:
    return go_binary(REPOSITORY / "tests/support/go/flannel", ".", "flanneld")
