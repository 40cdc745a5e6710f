"""The demo's world: its hosts, the API server, the operator, and the kubelet's part.

Owns what runs where and with whose rights. There is no kubelet: `Node` mounts the
Secret and ConfigMap as files and starts the agent with the token of its own node,
as a kubelet would from the DaemonSet. `Kubelets` mounts the files again where the operator
has written into a pod.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wesher_common.names import NUDGE_FILE
from wesher_testing.agents.mesh import STATE
from wesher_testing.agents.mounted_files import project
from wesher_testing.cluster.api_server import ApiServer, api_server
from wesher_testing.lab.capture import Capture
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.run import toolbox
from wesher_testing.run.demo.kubelets import Kubelets

MESH = "demo"
NAMESPACE = "wesher-system"
_BIN = Path(sys.executable).parent


@dataclass(slots=True)
class Node:
    """One host that is a Kubernetes node, with the agent's container played by a process."""

    host: Host
    mount: Path
    """Where the Secret and the ConfigMap stand as files."""
    kubeconfig: Path
    log: Path
    agent: subprocess.Popen[Any] | None = None

    @property
    def name(self) -> str:
        """The Node's name, which is also the member's."""
        return self.host.name

    def start_agent(self, name: str = "") -> None:
        """Run the agent as the DaemonSet's container would, on the Node of the host's name or of another."""
        argv: list[str | Path] = [
            *(_BIN / "wesher", "agent", f"--kubernetes={self.mount}", f"--kubeconfig={self.kubeconfig}"),
            *("--log-level=info", f"--userspace-binary={toolbox.wireguard_go()}"),
        ]
        self.agent = self.host.log_of(
            argv, self.log, env={**os.environ, "WESHER_NODE_NAME": name or self.name}
        )

    def end_agent(self) -> None:
        """Send what a kubelet sends to restart a container, and wait until it is gone."""
        if self.agent is not None:
            self.agent.terminate()
            self.agent.wait(timeout=60)
            self.agent = None


@dataclass(slots=True)
class World:
    """Everything the demo runs; use it as a context, at whose end nothing is left."""

    lab: Lab = field(default_factory=Lab)
    nodes: dict[str, Node] = field(default_factory=dict)
    captures: dict[str, Capture] = field(default_factory=dict)
    """By host name: what passed its underlay interface."""
    _stack: ExitStack = field(default_factory=ExitStack)
    _api: ApiServer | None = None

    def __enter__(self) -> Self:
        self._stack.enter_context(self.lab)
        # The lab's keeper removes it even when we are killed, and with it what others put there.
        tempfile.tempdir = str(self.lab.directory)
        self._stack.callback(setattr, tempfile, "tempdir", None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def has_api(self) -> bool:
        """Whether it came as far as an API server: before it there is nothing to use."""
        return self._api is not None

    @property
    def api(self) -> ApiServer:
        """The API server, once started."""
        if self._api is None:
            raise RuntimeError("the API server is started in a later stage")
        return self._api

    @property
    def logs(self) -> list[Path]:
        """The logs of operator and agents so far."""
        return sorted(self.lab.directory.glob("*.log"))

    def add_host(self, name: str) -> Host:
        """Make a host and capture all that passes its underlay interface from now on."""
        host = self.lab.host(name)
        self.captures[name] = Capture(host, "eth0", self.lab.directory / f"{name}.pcap")
        return host

    def start_api_server(self, host: Host) -> None:
        """Run etcd and kube-apiserver on a host."""
        self._api = self._stack.enter_context(api_server(address=str(host.ipv4), enter=host.command([])))

    def start_operator(self, host: Host) -> None:
        """Run the operator with the rights of its ServiceAccount and no others."""
        token = self.api.token("wesher-operator", NAMESPACE)
        kubeconfig = self.api.kubeconfig_for(token, "operator")
        host.log_of(
            [
                *(_BIN / "wesher-operator", "run", f"--kubeconfig={kubeconfig}", f"--namespace={NAMESPACE}"),
                "--agent-image=wesher:demo",
            ],
            self.lab.directory / "operator.log",
        )
        self.api.operator_pod(host.name, NAMESPACE)

    def register(self, host: Host) -> Node:
        """Make a host a Kubernetes node, with a token that names it."""
        self.api.node(host.name, str(host.ipv4))
        token = self.api.token("wesher-agent", NAMESPACE, node=host.name)
        node = Node(
            host,
            self.lab.directory / f"{host.name}-mount",
            self.api.kubeconfig_for(token, host.name),
            self.lab.directory / f"{host.name}.log",
        )
        self.nodes[host.name] = node
        return node

    def mount(self, node: Node, nudge: str = "") -> bool:
        """Show a node the mesh's Secret and ConfigMap as files; tell whether both exist.

        Args:
            node: whose mount.
            nudge: what the operator has written into the agent's pod.

        """
        secret = self.api.get("secret", f"{MESH}-key", "-n", NAMESPACE)
        config = self.api.get("configmap", f"{MESH}-config", "-n", NAMESPACE)
        if not secret or not config:
            return False
        encoded = {**secret["data"], **config.get("binaryData", {})}
        contents = {name: base64.b64decode(value) for name, value in encoded.items()}
        texts = {**config["data"], NUDGE_FILE: nudge}
        project(node.mount, contents | {name: text.encode() for name, text in texts.items()})
        return True

    def keep_mounts(self) -> None:
        """Mount a node's files again, from now on, whenever the operator writes into its agent's pod."""
        kubelets = Kubelets(
            self.api, MESH, NAMESPACE, lambda name, nudge: self.mount(self.nodes[name], nudge)
        )
        self._stack.enter_context(kubelets)

    def start_agent(self, node: Node) -> None:
        """Run a node's agent, and say of its pod what a kubelet would."""
        node.start_agent()
        self.api.agent_pod(MESH, node.name, NAMESPACE)

    def end_agent(self, node: Node) -> None:
        """End a node's agent, and say so of its pod."""
        node.end_agent()
        self.api.agent_pod(MESH, node.name, NAMESPACE, runs=False)

    def daemon_set(self) -> bool:
        """Tell whether the operator has made the DaemonSet of the mesh's agents."""
        return self.api.get("daemonset", f"{MESH}-agent", "-n", NAMESPACE) is not None

    def cluster_secret(self) -> bytes:
        """Return the mesh's cluster key."""
        secret = self.api.get("secret", f"{MESH}-key", "-n", NAMESPACE)
        return base64.b64decode(base64.b64decode(secret["data"]["cluster-key"]))

    def thief_files(self, host: Host, address: str) -> tuple[Path, list[str]]:
        """Give a host the cluster key, and a state file that claims an overlay address.

        Returns:
            The state file, and the flags that name the key.

        """
        key_file = self.lab.directory / "cluster-key"
        key_file.touch(mode=0o600)
        key_file.write_bytes(base64.b64encode(self.cluster_secret()))
        state = host.root / STATE
        state.parent.mkdir()
        state.write_text(json.dumps({"Name": host.name, "OverlayAddress": address}))
        return state, [f"--cluster-key-file={key_file}"]

    def overlay_address(self, node: str) -> str:
        """Return the overlay address of a node, as its WesherNode says."""
        found = self.api.get("weshernode", f"{MESH}.{node}")
        return str(found["spec"]["overlayIP"]) if found else ""

    def is_bound(self) -> bool:
        """Tell whether the mesh gives only certified members a tunnel."""
        mesh = self.api.get("weshermesh", MESH) or {}
        return bool(mesh.get("status", {}).get("identity", {}).get("bound"))

    def peer_key(self, machine: str) -> str:
        """Return the WireGuard key of a machine outside Kubernetes, as its WesherPeer says."""
        found = self.api.get("wesherpeer", f"{MESH}.{machine}") or {}
        return str(found.get("status", {}).get("publicKey", ""))

    def condition(self, kind: str = "Ready") -> dict[str, str]:
        """Return one condition of the mesh, empty when it has none yet."""
        mesh = self.api.get("weshermesh", MESH) or {}
        conditions = mesh.get("status", {}).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == kind), {})
