"""A real cluster on one machine: a control plane, and nodes with kubelet, containerd and kube-proxy.

Every node is a host of a `wesher_testing.lab.namespaces.Lab` with processes and mounts of its
own, so pods really run and a node can lose its power. What `wesher_testing.cluster.components`
tells each program stands there. There is no cluster DNS.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from wesher_testing.cluster import cgroups, components, containers, node_init, services
from wesher_testing.cluster.api_server import ApiServer, KubectlFailed, api_server
from wesher_testing.cluster.image import Image, pause_image
from wesher_testing.cluster.pod_networks import PodNetwork, bridges
from wesher_testing.lab.namespaces import Host, Lab, Network
from wesher_testing.run.cache import report
from wesher_testing.run.toolbox import etcd, kubernetes_binary, system_program

_AFTER_CONTAINERD = ("sh", "-c", f'until [ -S {containers.SOCKET} ]; do sleep 0.1; done; exec "$@"', "sh")
"""What holds a program back until containerd listens; a kubelet would give up."""

CONTROL_PLANE = "control-plane"
_PATIENCE = 240.0
"""Seconds in which a part must come up; a whole cluster takes about fifteen, on a machine of its own."""


class ClusterFailed(RuntimeError):  # noqa: N818 - reads as the fact it states
    """A part of the cluster did not come up; the text says which, with its last words."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where in a lab a cluster stands."""

    lab: Lab
    network: Network
    prefix: str = ""
    """Of its hosts' names in the lab, where other clusters have nodes of the same names."""
    gateway: Host | None = None
    """The way out of the network; none is a way to nowhere."""
    in_cloud: bool = False
    """Whether something else than the kubelets says which addresses nodes have."""
    pods: str = components.POD_NETWORK
    """The network that nodes' pod networks are allocated from, or one of each IP version with a comma."""

    @property
    def is_dual_stack(self) -> bool:
        """Whether nodes and pods have addresses of both IP versions."""
        return "," in self.pods

    def host(self, name: str) -> Host:
        """Add a host."""
        return self.lab.host(self.prefix + name, self.network)


class Node:
    """One node of a cluster.

    Attributes:
        name: its name to Kubernetes.
        site: where it is, if that is known.
        host: what it stands on; its files and its cable survive a crash.
        directory: its programs' configuration and logs.

    Args:
        address: the kubelet's ``--node-ip``; by default, the host's own address, or both in a dual-stack
            cluster.
        services_before: systemd units by name with their commands, which are ordered before the kubelet.
        taints: with which the kubelet registers its Node, each as ``key=value:Effect``.

    """

    def __init__(
        self,
        name: str,
        host: Host,
        api: ApiServer,
        *,
        site: Site | None = None,
        address: IPv4Address | None = None,
        services_before: Mapping[str, Sequence[str | Path]] | None = None,
        taints: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.site = site
        self.host = host
        self.directory = api.directory / name
        self.directory.mkdir()
        own: list[IPv4Address | IPv6Address] = [host.ipv4 if address is None else address]
        if site is not None and site.is_dual_stack:
            own.append(host.ipv6)
        units = services_before or {}
        after = [each for unit in units for each in services.after(unit)]
        self._programs = {
            **{unit: services.running(unit, argv) for unit, argv in units.items()},
            "containerd": containers.containerd(host.root / "etc"),
            "kubelet": [
                *after,
                *_AFTER_CONTAINERD,
                *components.kubelet(
                    api,
                    name,
                    own,
                    directory=self.directory,
                    in_cloud=site is not None and site.in_cloud,
                    taints=taints,
                ),
            ],
            "kube-proxy": components.kube_proxy(
                api,
                name,
                directory=self.directory,
                pods=components.POD_NETWORK if site is None else site.pods,
            ),
        }
        self._init: subprocess.Popen[str] | None = None
        self._running: list[subprocess.Popen[bytes]] = []
        self._first_process = 0

    def boot(self) -> None:
        """Start the node, for the first time or after `crash`; it is Ready some seconds later."""
        cgroups.favour_containers()
        self._init = self.host.popen(
            [
                *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *(sys.executable, "-I", node_init.__file__, self.directory),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it complains when its child is killed, which is how a node ends
            text=True,
            start_new_session=True,
        )
        if self._init.stdout is None or not self._init.stdout.readline():
            raise ClusterFailed(f"{self.name}: no namespaces for its processes")
        self._first_process = int(Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text())
        for program, argv in self._programs.items():
            self._running.append(start_program(self.command(argv), self.directory / f"{program}.log"))

    def crash(self) -> None:
        """Cut the power: every process dies at once, and all that a reboot forgets is forgotten."""
        if self._init is None:
            return
        # The kernel lets a first process go only when all others of its namespace are buried.
        os.kill(self._first_process, signal.SIGKILL)
        self._init.communicate()
        self._init = None
        for program in self._running:
            program.wait()
        self._running.clear()
        cgroups.remove_groups_of(self.containers())
        self.host.run(["find", "/run", "-xdev", "-mindepth", "1", "-delete"], check=False)
        self.host.run(["nft", "flush", "ruleset"])
        for device in self.devices() - {"lo"}:
            if not device.startswith("eth"):
                self.host.run(["ip", "link", "delete", device], check=False)

    def containers(self) -> set[str]:
        """Return the ids of the containers that the node runs, or ran until it lost its power."""
        tasks = self.host.root / containers.TASKS.strip("/")
        return {task.name for task in tasks.iterdir()} if tasks.exists() else set()

    def devices(self) -> set[str]:
        """Return the names of the node's network devices."""
        return {link["ifname"] for link in json.loads(self.host.run(["ip", "-json", "link"]).stdout)}

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """Return the command line that runs ``argv`` on the node, among its processes and mounts."""
        enter = (str(system_program("nsenter")), f"--target={self._first_process}")
        return [*enter, "--net", "--mount", "--uts", "--pid", "--", *map(str, argv)]

    def run(self, argv: Sequence[str | Path], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program to its end on the node, within a minute."""
        return subprocess.run(
            self.command(argv),
            check=check,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def log_of(self, program: str) -> str:
        """Return what a program, such as ``containerd`` or ``kubelet``, has said since the first boot."""
        return (self.directory / f"{program}.log").read_text(errors="replace")


class Cluster:
    """A running cluster.

    Attributes:
        api: its API server, with ``kubectl``.
        lab: the hosts and networks it stands on.
        control_plane: the host of the API server; no pods run there, unless it was added as a node too.

    """

    def __init__(
        self, site: Site, api: ApiServer, control_plane: Host, *, pod_network: PodNetwork = bridges
    ) -> None:
        self.lab = site.lab
        self.api = api
        self.control_plane = control_plane
        self._site = site
        self._pod_network = pod_network
        self._nodes: dict[str, Node] = {}

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The nodes by name, in the order they were added."""
        return self._nodes

    def add_nodes(
        self,
        *names: str,
        images: Sequence[Image] = (),
        site: Site | None = None,
        taints: Sequence[str] = (),
    ) -> None:
        """Add nodes that hold the images, and wait until they are Ready.

        Args:
            names: of the nodes; `CONTROL_PLANE` is on the host of the API server.
            images: what they hold.
            site: where they are, if not where the API server is.
            taints: with which their kubelets register them, each as ``key=value:Effect``.

        """
        site = site or self._site
        places = {name: self.control_plane if name == CONTROL_PLANE else site.host(name) for name in names}
        added = [Node(name, host, self.api, site=site, taints=taints) for name, host in places.items()]
        # Without one a Service's address leads nowhere, even where there is nothing behind it.
        way_out = (site.gateway or self.control_plane).address_on(site.network)
        for node in added:
            self._nodes[node.name] = node
            node.host.run(["ip", "route", "replace", "default", "via", str(way_out)])
            # The API server calls kubelets by their names, for logs.
            with (self.control_plane.root / "etc/hosts").open("a") as hosts:
                hosts.write(f"{node.host.ipv4} {node.name}\n")
            node.boot()
        load_images((pause_image(), *images), added)
        self._pod_network(self)
        self.wait_until_ready(*names)

    def remove_node(self, name: str) -> None:
        """Cut a node's power for good, and have Kubernetes forget it."""
        self._nodes.pop(name).crash()
        self.api.kubectl("delete", "node", name, "--ignore-not-found")

    def load(self, *images: Image, only: Node | None = None) -> None:
        """Import images into every node's store, or into one."""
        load_images(images, self._nodes.values() if only is None else [only])

    def tag(self, image: Image, name: str) -> Image:
        """Give an image on every node another name besides, and return it under that."""
        for node in self._nodes.values():
            node.run(containers.tagging(image, name))
        return Image(name, image.archive)

    def wait_until_ready(self, *names: str) -> None:
        """Wait until the named nodes are Ready, all when none is named."""
        for name in names or self._nodes:
            try:
                self.repeat("wait", "--for=condition=Ready", f"node/{name}", "--timeout=5s")
            except KubectlFailed as error:
                raise ClusterFailed(f"{error}: {self._nodes[name].log_of('kubelet')[-2000:]}") from error

    def repeat(self, *arguments: str, seconds: float = _PATIENCE) -> str:
        """Run kubectl, again and again within so many seconds, until it succeeds; return what it printed.

        It is run once more after them, since the machine may have stood still.

        Raises:
            KubectlFailed: it never did; the text holds its last error.

        """
        deadline = time.monotonic() + seconds
        while True:
            is_last = time.monotonic() > deadline
            try:
                return self.api.kubectl(*arguments)
            except KubectlFailed:
                if is_last:
                    raise
                time.sleep(0.2)

    def close(self) -> None:
        """Cut every node's power."""
        for node in self._nodes.values():
            node.crash()


def load_images(images: Sequence[Image], nodes: Collection[Node]) -> None:
    """Import images into the stores of nodes that run."""
    for node in nodes:
        wait_for(partial(containers.is_up, node.command), partial(node.log_of, "containerd"))
    loading = [each for node in nodes for each in containers.load(images, node.command)]
    for load in loading:
        said, _ = load.communicate()
        if load.returncode != 0:
            raise ClusterFailed(f"an image could not be imported: {said}")


def prepare() -> None:
    """Build or unpack every program that a cluster runs, so that none is waited for half-way."""
    etcd()
    for name in (
        *("kube-apiserver", "kube-controller-manager", "kube-scheduler"),
        *("kubelet", "kube-proxy", "kubectl", "kubeadm"),
    ):
        kubernetes_binary(name)
    containers.prepare()


@contextmanager
def cluster(
    *names: str,
    images: Sequence[Image] = (),
    taints: Sequence[str] = (),
    pods: str = components.POD_NETWORK,
) -> Iterator[Cluster]:
    """Run a cluster with nodes of these names until the block ends; nothing of it is left then."""
    prepare()
    with (
        Lab() as lab,
        cluster_at(Site(lab, lab.lan, pods=pods), *names, images=images, taints=taints) as made,
    ):
        yield made


@contextmanager
def cluster_at(
    site: Site,
    *names: str,
    images: Sequence[Image] = (),
    control_plane: Host | None = None,
    public: str = "",
    pod_network: PodNetwork = bridges,
    taints: Sequence[str] = (),
) -> Iterator[Cluster]:
    """Run a cluster in a lab that has others too; call `prepare` before.

    Args:
        site: where it is.
        names: of its nodes.
        images: what they hold.
        control_plane: a host of the site for the API server; none adds one.
        public: where clients find the API server, if not at that host's address.
        pod_network: what connects the pods.
        taints: with which kubelets register their Nodes.

    """
    with ExitStack() as stack:
        control_plane = control_plane or site.host(CONTROL_PLANE)
        report("starting the API server")
        api = stack.enter_context(
            api_server(
                address=str(control_plane.ipv4),
                public=public,
                enter=control_plane.command([]),
                parent=site.lab.directory,
            )
        )
        for program, argv in (
            ("kube-controller-manager", components.controller_manager(api, site.pods)),
            ("kube-scheduler", components.scheduler(api)),
        ):
            stack.callback(
                end_program, start_program(control_plane.command(argv), api.directory / f"{program}.log")
            )
        made = Cluster(site, api, control_plane, pod_network=pod_network)
        stack.callback(made.close)
        report(f"starting {len(names)} nodes")
        made.add_nodes(*names, images=images, taints=taints)
        yield made


def start_program(argv: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a program that outlives a Ctrl-C, with what it says in a file."""
    with log.open("ab") as words:
        # A session of its own: Ctrl-C ends it by our clean-up, and not before it.
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=words, stderr=words, start_new_session=True
        )


def end_program(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and wait for its end."""
    process.kill()
    process.wait()


def wait_for(is_so: Callable[[], bool], trouble: Callable[[], str]) -> None:
    """Wait for a part of a cluster.

    Raises:
        ClusterFailed: it did not come up in time; the text ends with what ``trouble`` returns.

    """
    deadline = time.monotonic() + _PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            raise ClusterFailed(f"timed out after {_PATIENCE:.0f} s: {trouble()[-2000:]}")
        time.sleep(0.1)
