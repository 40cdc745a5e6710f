"""A cluster on top of a mesh: three machines in three clouds, whose kubelets use overlay addresses.

Each cloud has the same private network, behind a gateway that does 1:1 NAT, so no private address leads to
another cloud. wesher runs on each machine as its systemd unit would, before the kubelet. etcd and the API
server listen on the overlay address of the first machine. Pods get a VXLAN over the overlay, as flannel
makes one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from subprocess import Popen
from typing import Any

from wesher_common.overlay import candidate_address
from wesher_testing.agents.process import KEY, WESHER, wait_until
from wesher_testing.cluster import components, services
from wesher_testing.cluster.api_server import ApiServer, KubectlFailed, api_server
from wesher_testing.cluster.gateways import set_up, translate
from wesher_testing.cluster.image import pause_image
from wesher_testing.cluster.kubelets import Node, end_program, load_images, prepare, start_program
from wesher_testing.cluster.pod_networks import connect_bridge
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.run.toolbox import wireguard_go

OVERLAY = IPv4Network("10.190.0.0/16")
UNIT = "wesher"
_CLOUDS = {
    "node-1": IPv4Address("198.51.100.10"),
    "node-2": IPv4Address("203.0.113.10"),
    "node-3": IPv4Address("198.18.0.10"),
}
"""The external address of each machine; each is in a cloud of its own."""
_PRIVATE = "10.1.0.0/24"
_VXLAN = "flannel.1"
_STARTED_SECONDS = 120.0


class OnTop:
    """A cluster on top of a mesh, all of whose machines are off at first.

    Attributes:
        api: its API server.
        nodes: the nodes by name.
        addresses: their overlay addresses.

    """

    def __init__(self, hosts: Mapping[str, Host], api: ApiServer) -> None:
        self.api = api
        self.addresses = {name: _overlay_address(name) for name in hosts}
        self.nodes = {
            name: Node(
                name,
                host,
                api,
                address=self.addresses[name],
                services_before={UNIT: _wesher(name)},
            )
            for name, host in hosts.items()
        }
        self._hosts = hosts
        self._control_plane: list[Popen[bytes]] = []

    @property
    def first(self) -> Node:
        """The node of the API server."""
        return next(iter(self.nodes.values()))

    def power_on(self) -> float:
        """Power on all machines at once; return the seconds until each kubelet has reported Ready."""
        began, at = time.monotonic(), time.time()
        for node in self.nodes.values():
            node.boot()
        self._wait_for_device(self.first)
        self.api.start()
        self._start_control_plane()
        self._connect_pods()
        wait_until(
            lambda: self.reported_ready(since=at), what="all nodes are Ready", deadline=_STARTED_SECONDS
        )
        return time.monotonic() - began

    def power_off(self) -> None:
        """Cut the power of all machines."""
        while self._control_plane:
            end_program(self._control_plane.pop())
        self.api.stop()
        for node in self.nodes.values():
            node.crash()

    def restart_agents(self) -> None:
        """Restart wesher on all machines, one after another."""
        for node in self.nodes.values():
            node.run(services.restart(UNIT))

    def reported_ready(self, *, since: float) -> bool:
        """Tell whether all kubelets have reported since then that their nodes are Ready."""
        try:
            items = self.api.get("nodes")["items"]
        except KubectlFailed:
            return False
        return {item["metadata"]["name"] for item in items if _is_ready(item, since)} == self.nodes.keys()

    def pods(self) -> dict[str, dict[str, Any]]:
        """Return the pod of each node in the default namespace, by the node's name."""
        pods = self.api.get("pods")["items"]
        return {node: pod for pod in pods if (node := pod["spec"].get("nodeName"))}

    def run_pods(self) -> None:
        """Run a pod on each node."""
        labels = {"app": "sleeper"}
        container = {"name": "main", "image": pause_image().name, "imagePullPolicy": "Never"}
        self.api.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "DaemonSet",
                "metadata": {"name": "sleeper", "namespace": "default"},
                "spec": {
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
                },
            }
        )

    def pods_run(self) -> bool:
        """Tell whether each node has a pod, whose container it runs as last reported."""
        found = self.pods()
        return found.keys() == self.nodes.keys() and all(
            pod["status"].get("podIP") and _container(pod) in self.nodes[name].containers()
            for name, pod in found.items()
        )

    def _wait_for_device(self, node: Node) -> None:
        ready = node.host.root / f"run/{UNIT}.ready"
        wait_until(ready.exists, what=f"wesher on {node.name} is ready", deadline=_STARTED_SECONDS)

    def _start_control_plane(self) -> None:
        for program, argv in (
            ("kube-controller-manager", components.controller_manager(self.api)),
            ("kube-scheduler", components.scheduler(self.api)),
        ):
            log = self.api.directory / f"{program}.log"
            self._control_plane.append(start_program(self.first.host.command(argv), log))

    def _connect_pods(self) -> None:
        """Give each node a VXLAN device, with its pod network behind it for the others."""
        networks: dict[str, str] = {}

        def all_are_allocated() -> bool:
            items = self.api.get("nodes")["items"]
            networks.update({item["metadata"]["name"]: item["spec"].get("podCIDR", "") for item in items})
            return networks.keys() == self.nodes.keys() and all(networks.values())

        wait_until(all_are_allocated, what="pod networks are allocated", deadline=_STARTED_SECONDS)
        gateways = {name: IPv4Network(network)[0] for name, network in networks.items()}
        for name, node in self.nodes.items():
            self._wait_for_device(node)
            others = self.nodes.keys() - {name}
            vxlan = f"id 1 dev wgoverlay local {self.addresses[name]} dstport 8472 nolearning"
            node.host.run(
                ["ip", "-batch", "-"],
                text_in="\n".join(
                    [
                        f"link add {_VXLAN} type vxlan {vxlan}",
                        f"address add {gateways[name]}/32 dev {_VXLAN}",
                        f"link set {_VXLAN} up",
                        *(
                            f"route add {networks[other]} via {gateways[other]} dev {_VXLAN} onlink"
                            for other in sorted(others)
                        ),
                    ]
                )
                + "\n",
            )
            for other in sorted(others):
                everyone = ("append", "00:00:00:00:00:00", "dev", _VXLAN, "dst", str(self.addresses[other]))
                node.host.run(["bridge", "fdb", *everyone])
            (link,) = json.loads(node.host.run(["ip", "-json", "link", "show", _VXLAN]).stdout)
            connect_bridge(node, networks[name], mtu=link["mtu"])


@contextmanager
def on_top() -> Iterator[OnTop]:
    """Set up a cluster on top of a mesh, and leave its machines off."""
    prepare()
    with Lab() as lab, ExitStack() as stack:
        hosts = _clouds(lab)
        first = next(iter(hosts.values()))
        address = str(_overlay_address(first.name))
        # The installation of the control plane, before which there is nothing to boot.
        first.run(["ip", "address", "add", f"{address}/32", "dev", "lo"])
        api = stack.enter_context(
            api_server(
                address=address, storage_address=address, enter=first.command([]), parent=lab.directory
            )
        )
        api.stop()
        first.run(["ip", "address", "delete", f"{address}/32", "dev", "lo"])
        made = OnTop(hosts, api)
        stack.callback(made.power_off)
        yield made


def import_images(cluster: OnTop) -> None:
    """Import what every node needs; the nodes keep it when they are off."""
    load_images((pause_image(),), cluster.nodes.values())


def _clouds(lab: Lab) -> dict[str, Host]:
    internet = lab.network("internet")
    hosts: dict[str, Host] = {}
    gateways: dict[str, Host] = {}
    for name, external in _CLOUDS.items():
        private = lab.network(f"cloud-{name}", _PRIVATE)
        gateways[name] = gateway = lab.host(f"gateway-{name}", private, internet)
        hosts[name] = host = lab.host(name, private)
        host.run(["ip", "route", "replace", "default", "via", str(gateway.address_on(private))])
        set_up(gateway)
        translate(gateway, host.ipv4, external)
        (host.root / "etc/wesher").mkdir()
        key = host.root / "etc/wesher/key"
        key.touch(mode=0o600)
        key.write_text(f"{KEY}\n")
    for name, gateway in gateways.items():
        for other, external in _CLOUDS.items():
            if other != name:
                way = str(gateways[other].address_on(internet))
                gateway.run(["ip", "route", "add", f"{external}/32", "via", way])
    return hosts


def _wesher(name: str) -> list[str]:
    """Return what the unit runs, with the settings of the recipe in ``docs/kubernetes-on-top.md``."""
    seeds = ",".join(str(external) for other, external in _CLOUDS.items() if other != name)
    return [
        str(WESHER),
        "agent",
        "--cluster-key-file=/etc/wesher/key",
        f"--join={seeds}",
        f"--overlay-net={OVERLAY}",
        f"--advertise-addr={_CLOUDS[name]}",
        "--leave-on-exit=false",
        "--log-level=info",
        f"--userspace-binary={wireguard_go()}",
    ]


def _overlay_address(name: str) -> IPv4Address:
    address = candidate_address(name, OVERLAY)
    assert isinstance(address, IPv4Address)
    return address


def _container(pod: dict[str, Any]) -> str:
    statuses = pod["status"].get("containerStatuses") or [{}]
    return str(statuses[0].get("containerID", "")).removeprefix("containerd://")


def _is_ready(node: dict[str, Any], since: float) -> bool:
    return any(
        condition["type"] == "Ready"
        and condition["status"] == "True"
        and datetime.fromisoformat(condition["lastHeartbeatTime"]).timestamp() > since
        for condition in node["status"].get("conditions", [])
    )
