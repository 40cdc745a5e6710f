"""A cluster on top of a mesh: wesher starts before the kubelets, and they use its addresses.

Three machines in three clouds, whose private addresses lead nowhere outside. etcd, the API server and the
kubelets talk over the mesh only.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import pytest
import yaml
from cryptography import x509

from wesher_testing.agents.process import pings, wait_until
from wesher_testing.cluster.on_top import OnTop, import_images, on_top
from wesher_testing.lab.namespaces import Lab
from wesher_testing.lab.pings import Pinging
from wesher_testing.run.soak import soaking
from wesher_testing.run.toolbox import KUBERNETES_VERSION, REPOSITORY, kubernetes_binary

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_COLD_START_SECONDS = 60.0
"""From power on to Ready."""
_COLD_STARTS = soaking(1, 10)
_AWAY_SECONDS = soaking(5.0, 60.0)
"""Of the API server."""


@dataclass(frozen=True, slots=True)
class Running:
    """A cluster that runs, and how long its first start took."""

    cluster: OnTop
    first_start: float


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with on_top() as cluster:
        seconds = cluster.power_on()
        import_images(cluster)
        cluster.run_pods()
        wait_until(cluster.pods_run, what="each node runs a pod")
        yield Running(cluster, seconds)


def reaches_all_pods(cluster: OnTop) -> bool:
    """Tell whether each node reaches the pod of each node."""
    addresses = [pod["status"]["podIP"] for pod in cluster.pods().values()]
    pairs = itertools.product(cluster.nodes.values(), addresses)
    return all(pings(node.host, address) for node, address in pairs)


def test_three_machines_of_three_clouds_powered_on_at_once_are_a_ready_cluster(
    running: Running, say: Callable[[str], None]
) -> None:
    """First without any saved state, then after power cuts, where etcd and pods begin again too."""
    cluster = running.cluster
    took = [running.first_start]
    nodes = cluster.api.get("nodes")["items"]
    for node in nodes:
        internal = [each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP"]
        assert internal == [str(cluster.addresses[node["metadata"]["name"]])]
    for _ in range(_COLD_STARTS):
        cluster.power_off()
        took.append(cluster.power_on())
        wait_until(lambda: cluster.pods_run() and reaches_all_pods(cluster), what="nodes reach all pods")
    say(f"Ready after {running.first_start:.1f} s; after a power cut, {max(took[1:]):.1f} s at most")
    assert max(took) <= _COLD_START_SECONDS
    # The API server reaches the kubelets of the other clouds by the names that wesher wrote into /etc/hosts.
    for node in cluster.nodes.keys() - {cluster.first.name}:
        cluster.api.kubectl("logs", cluster.pods()[node]["metadata"]["name"])


def test_no_packet_is_lost_while_the_api_server_is_away_and_the_agents_restart(
    running: Running, say: Callable[[str], None]
) -> None:
    cluster = running.cluster
    wait_until(cluster.pods_run, what="each node runs a pod")
    before = {name: node.containers() for name, node in cluster.nodes.items()}
    overlay = {name: str(address) for name, address in cluster.addresses.items()}
    in_pods = {name: pod["status"]["podIP"] for name, pod in cluster.pods().items()}
    began = time.time()
    with Pinging(cluster.nodes, overlay) as nodes, Pinging(cluster.nodes, in_pods) as pods:
        cluster.api.stop()
        cluster.restart_agents()
        # How long it is away is what is tested; nothing happens meanwhile that could be waited for.
        time.sleep(_AWAY_SECONDS)
        cluster.api.start()
        wait_until(lambda: cluster.reported_ready(since=began), what="all nodes are Ready again")
    lost = [sum(each.lost.values()) for each in (nodes, pods)]
    say(f"{lost[0]} pings lost between nodes, {lost[1]} to pods")
    assert lost == [0, 0]
    assert {name: node.containers() for name, node in cluster.nodes.items()} == before


def test_kubeadm_places_etcd_and_the_api_server_on_the_address_in_the_recipe() -> None:
    """It reads the very files of the docs, and writes what its kubelet would start."""
    init, join = (recipe(name) for name in ("init", "join"))
    (address,) = {each["localAPIEndpoint"]["advertiseAddress"] for each in init if "localAPIEndpoint" in each}
    (settings,) = (each for each in init if each["kind"] == "ClusterConfiguration")
    # Otherwise kubeadm asks the internet for the newest one.
    settings["kubernetesVersion"] = f"v{KUBERNETES_VERSION}"
    kubeadm = str(kubernetes_binary("kubeadm"))
    with Lab() as lab:
        machine = lab.host("machine")
        machine.run(["ip", "address", "add", f"{address}/32", "dev", "lo"])
        for name, documents in (("init", init), ("join", join)):
            (machine.root / f"run/{name}.yaml").write_text(yaml.safe_dump_all(documents))
            machine.run([kubeadm, "config", "validate", f"--config=/run/{name}.yaml"])
        for phase in ("certs all", "kubeconfig all", "etcd local", "control-plane all"):
            machine.run([kubeadm, "init", "phase", *phase.split(), "--config=/run/init.yaml"])
        made = machine.root / "etc/kubernetes"
        commands = {
            program: yaml.safe_load((made / f"manifests/{program}.yaml").read_text())["spec"]["containers"][0]
            for program in ("etcd", "kube-apiserver")
        }
        server = yaml.safe_load((made / "kubelet.conf").read_text())["clusters"][0]["cluster"]["server"]
        certificate = x509.load_pem_x509_certificate((made / "pki/apiserver.crt").read_bytes())
    assert f"--listen-peer-urls=https://{address}:2380" in commands["etcd"]["command"]
    assert (
        f"--listen-client-urls=https://127.0.0.1:2379,https://{address}:2379" in commands["etcd"]["command"]
    )
    assert f"--advertise-address={address}" in commands["kube-apiserver"]["command"]
    assert server == f"https://{address}:6443"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert ip_address(address) in names.get_values_for_type(x509.IPAddress)


def recipe(name: str) -> list[dict[str, Any]]:
    """Return what the docs have kubeadm read for ``init`` or ``join``."""
    page = (REPOSITORY / "docs/kubernetes-on-top.md").read_text()
    found = re.search(rf"<!-- block: kubeadm-{name} -->\n```yaml\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return [*yaml.safe_load_all(found[1])]
