"""The cluster that the other tests here stand on, checked for what they take from it."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from wesher_testing.cluster.cgroups import groups_of
from wesher_testing.cluster.components import POD_NETWORK
from wesher_testing.cluster.image import Image, pause_image
from wesher_testing.cluster.kubelets import Cluster, Node, cluster
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.cluster.pods import node_daemonset, restricted_pod, run_restricted
from wesher_testing.run.toolbox import kubernetes_binary

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_SEEN_BY_AN_AGENT = """
import json, os, pathlib, signal, socket, subprocess
version = subprocess.run(["wesher", "--version"], capture_output=True, text=True, check=True).stdout
print(json.dumps({
    "version": version.strip(),
    "devices": [name for _, name in socket.if_nameindex()],
    "tun": os.open("/dev/net/tun", os.O_RDWR) > 0,
    "hosts": pathlib.Path("/host/etc/hosts").read_text(),
    "hostname": socket.gethostname(),
}), flush=True)
signal.pause()
"""

_SEEN_BY_AN_OPERATOR = """
import json, os, pathlib, ssl, urllib.request
account = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
token, ca = (account / "token").read_text(), str(account / "ca.crt")
url = "https://{KUBERNETES_SERVICE_HOST}:{KUBERNETES_SERVICE_PORT}/version".format(**os.environ)
request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=ca)) as reply:
    print(json.dumps({"user": os.getuid(), "server": json.load(reply)["gitVersion"]}))
"""


def test_every_node_is_ready_with_its_address_and_a_pod_network_of_its_own(running: Cluster) -> None:
    """What the operator reads from a Node is what a cloud's nodes have."""
    nodes = {node["metadata"]["name"]: node for node in running.api.get("nodes")["items"]}

    assert nodes.keys() == running.nodes.keys()
    networks = set()
    for name, node in nodes.items():
        addresses = {each["type"]: each["address"] for each in node["status"]["addresses"]}
        assert addresses == {"InternalIP": str(running.nodes[name].host.ipv4), "Hostname": name}
        assert {each["type"]: each["status"] for each in node["status"]["conditions"]}["Ready"] == "True"
        networks.add(ipaddress.IPv4Network(node["spec"]["podCIDR"]))
    assert len(networks) == len(nodes)
    assert all(network.subnet_of(ipaddress.IPv4Network(POD_NETWORK)) for network in networks)


def test_a_daemonset_pod_sees_its_node_as_an_agent_must(running: Cluster, image: Image) -> None:
    """It has its node's devices, /dev/net/tun and /etc; and kubectl shows what it says."""
    running.api.apply(node_daemonset("agent-like", image, ["python3", "-c", _SEEN_BY_AN_AGENT]))
    try:
        running.repeat("rollout", "status", "daemonset/agent-like", "--timeout=10s")
        running.repeat("wait", "--for=condition=Ready", "pod", "-l", "app=agent-like", "--timeout=10s")
        pods = running.api.get("pods", "-l", "app=agent-like")["items"]
        seen = {pod["spec"]["nodeName"]: _first_line(running, pod) for pod in pods}
    finally:
        running.api.kubectl("delete", "daemonset", "agent-like")

    assert seen.keys() == running.nodes.keys()
    for name, told in seen.items():
        assert told["version"]
        assert told["tun"]
        assert "eth0" in told["devices"]
        assert told["hosts"] == (running.nodes[name].host.root / "etc/hosts").read_text()
        assert told["hostname"] == name


def test_a_restricted_pod_reaches_the_api_server_by_its_service(running: Cluster, image: Image) -> None:
    """The image runs as the operator will: no root, no capability, nothing to write to."""
    told = json.loads(run_restricted(running, image, ["python3", "-c", _SEEN_BY_AN_OPERATOR]))

    assert told["user"] == 65532
    assert told["server"] == json.loads(running.api.kubectl("get", "--raw", "/version"))["gitVersion"]


def test_a_node_without_power_is_noticed_and_comes_back_with_its_pods(running: Cluster, image: Image) -> None:
    """What a crash leaves behind does not keep the node's pods from starting again."""
    victim = running.nodes["node-3"]
    running.api.apply(node_daemonset("survivor", image, ["python3", "-c", "import signal; signal.pause()"]))
    try:
        running.repeat("rollout", "status", "daemonset/survivor", "--timeout=10s")
        victim.crash()
        running.repeat("wait", "--for=condition=Ready=Unknown", "node/node-3", "--timeout=10s")
        assert victim.devices() == {"eth0", "lo"}

        victim.boot()
        running.wait_until_ready("node-3")
        eventually(lambda: _containers(running, "survivor", victim), within=120, until=_runs_again)
        running.repeat("rollout", "status", "daemonset/survivor", "--timeout=10s")
    finally:
        running.api.kubectl("delete", "daemonset", "survivor")


def test_a_cluster_leaves_nothing_behind_not_even_of_a_late_node() -> None:
    """No process, control group, mount or file of it is left when its block ends."""
    with cluster("early") as made:
        made.add_nodes("late")
        stubborn = restricted_pod("stubborn", pause_image(), ["/pause"])
        stubborn["spec"]["nodeName"] = "late"
        made.api.apply(stubborn)
        made.repeat("wait", "--for=condition=Ready", "pod/stubborn", "--timeout=10s")
        containers = made.nodes["late"].containers()
        groups = groups_of(containers)
        processes = {pid for group in groups for pid in (group / "cgroup.procs").read_text().split()}
        directory = made.api.directory

    assert len(processes) == 2, "a pod is its own process and the one that holds its namespaces"
    assert not [pid for pid in processes if Path("/proc", pid).exists()]
    assert not groups_of(containers)
    assert not directory.exists()
    assert str(directory) not in Path("/proc/self/mountinfo").read_text()


def _containers(running: Cluster, app: str, node: Node) -> list[dict[str, Any]]:
    """Return what the kubelet of a node says of the containers of the one pod of an app there."""
    (pod,) = running.api.get("pods", "-l", f"app={app}", f"--field-selector=spec.nodeName={node.name}")[
        "items"
    ]
    containers: list[dict[str, Any]] = pod["status"]["containerStatuses"]
    return containers


def _runs_again(containers: list[dict[str, Any]]) -> bool:
    return [(each["restartCount"], each["ready"]) for each in containers] == [(1, True)]


def _first_line(running: Cluster, pod: dict[str, Any]) -> dict[str, Any]:
    """Return what a pod has printed first, waiting for it as long as its kubelet follows."""
    with subprocess.Popen(
        [
            *(*running.api.enter, str(kubernetes_binary("kubectl"))),
            *(f"--kubeconfig={running.api.kubeconfig}", "logs", "--follow", pod["metadata"]["name"]),
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as follower:
        assert follower.stdout is not None
        line = follower.stdout.readline()
        follower.kill()
    told: dict[str, Any] = json.loads(line)
    return told
