"""What each component of Kubernetes is told in a lab's cluster: its configuration and its command line.

Each is who it is to the API server by impersonation: its kubeconfig holds the
administrator's certificate and its own name, so that the node authorizer and the
bootstrap roles hold for it as anywhere, and no further certificates are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import yaml

from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.containers import SOCKET
from wesher_testing.run.toolbox import kubernetes_binary

POD_NETWORK = "10.244.0.0/16"
BOTH_POD_NETWORKS = f"{POD_NETWORK},fd00:10:244::/56"
"""Of both IP versions, which make a cluster dual-stack."""


def controller_manager(api: ApiServer, pods: str = POD_NETWORK) -> list[str]:
    """Return the command that runs kube-controller-manager beside the API server."""
    return [
        str(kubernetes_binary("kube-controller-manager")),
        f"--kubeconfig={kubeconfig(api, 'system:kube-controller-manager')}",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={api.directory / 'accounts.key'}",
        f"--root-ca-file={api.ca}",
        "--allocate-node-cidrs",
        f"--cluster-cidr={pods}",
        "--leader-elect=false",
        # A third of the usual, like the kubelets' reports: tests wait for lost nodes.
        "--node-monitor-grace-period=16s",
        "--node-monitor-period=2s",
    ]


def scheduler(api: ApiServer) -> list[str]:
    """Return the command that runs kube-scheduler beside the API server."""
    return [
        str(kubernetes_binary("kube-scheduler")),
        f"--kubeconfig={kubeconfig(api, 'system:kube-scheduler')}",
        "--leader-elect=false",
    ]


def kubelet(
    api: ApiServer,
    node: str,
    addresses: Sequence[IPv4Address | IPv6Address],
    *,
    directory: Path,
    in_cloud: bool = False,
    taints: Sequence[str] = (),
) -> list[str]:
    """Write a kubelet's configuration into ``directory`` and return the command that runs it on its node.

    Args:
        api: whom it serves.
        node: its node's name.
        addresses: its node's internal addresses, one of each IP version at most; it listens on the first.
        directory: a directory that outlives the node's reboots.
        in_cloud: whether a cloud's controller says which addresses the node has; without
            one a kubelet takes back any address but its own.
        taints: with which it registers its Node, each as ``key=value:Effect``.

    """
    path = directory / "kubelet.yaml"
    content = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": str(addresses[0]),
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        # The API server comes without a certificate of its own; nobody else is on this network.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "failSwapOn": False,
        # Pods are bounded by nothing, so that the machine's control groups may be of either version.
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        # It would set bounds there; there is no such group, so the machine's own stay untouched.
        "cgroupRoot": "/wesher-lab",
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": False,
        "oomScoreAdj": 0,
        # The machine's disk and memory are not this node's to judge.
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "makeIPTablesUtilChains": False,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "resolvConf": "/etc/resolv.conf",
        "nodeStatusUpdateFrequency": "4s",
        "nodeLeaseDurationSeconds": 12,
    }
    path.write_text(yaml.safe_dump(content))
    return [
        str(kubernetes_binary("kubelet")),
        f"--config={path}",
        f"--kubeconfig={kubeconfig(api, f'system:node:{node}', 'system:nodes')}",
        f"--hostname-override={node}",
        f"--node-ip={','.join(map(str, addresses))}",
        *(["--cloud-provider=external"] if in_cloud else []),
        *([f"--register-with-taints={','.join(taints)}"] if taints else []),
    ]


def kube_proxy(api: ApiServer, node: str, *, directory: Path, pods: str = POD_NETWORK) -> list[str]:
    """Write a kube-proxy's configuration into ``directory`` and return the command that runs it."""
    path = directory / "kube-proxy.yaml"
    content = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(kubeconfig(api, "system:kube-proxy"))},
        "hostnameOverride": node,
        "clusterCIDR": pods,
        # These are the machine's, and cannot be set from a network namespace.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
    path.write_text(yaml.safe_dump(content))
    return [str(kubernetes_binary("kube-proxy")), f"--config={path}"]


def kubeconfig(api: ApiServer, user: str, *groups: str) -> Path:
    """Write the kubeconfig of a component, which impersonates a user of these groups, and return its path."""
    content = yaml.safe_load(api.kubeconfig.read_text())
    content["users"][0]["user"] |= {"as": user, "as-groups": list(groups)}
    path = api.directory / f"{user.replace(':', '-')}.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content))
    return path
