"""A pod on each node that sends back what it gets over TCP, with a Service for each."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from wesher_testing.cluster.image import Image
from wesher_testing.cluster.kubelets import Cluster
from wesher_testing.cluster.pod_host import PodHost
from wesher_testing.cluster.pods import restricted_pod

PORT = 8080
_SERVER = f"""
import socket, socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(1 << 16):
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    address_family = socket.AF_INET6
    def server_bind(self):
        # Of both IP versions, whatever the host's default is.
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
print("listening", flush=True)
Server(("", {PORT}), Echo).serve_forever()
"""
_EXCHANGE = """
import os, socket, sys, threading, time
host, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
data = os.urandom(1 << 20) * (size >> 20)
began = time.monotonic()
with socket.create_connection((host, port), 10) as stream:
    stream.settimeout(30)
    def send():
        stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)
    threading.Thread(target=send).start()
    back = b"".join(iter(lambda: stream.recv(1 << 16), b""))
assert back == data, f"{len(back)} of {len(data)} bytes came back"
print(time.monotonic() - began)
"""
STREAM = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as stream:
    stream.settimeout(10)
    for number in range(10**9):
        word = f"{number:08}".encode()
        stream.sendall(word)
        back = b""
        while len(back) < len(word):
            more = stream.recv(len(word) - len(back))
            if not more:
                sys.exit("the connection was closed")
            back += more
        assert back == word
        print(number, flush=True)
        time.sleep(0.1)
"""
"""Sends and gets back ten words a second over one connection, and prints their numbers."""


@dataclass(frozen=True, slots=True)
class EchoPods:
    """The pods that run."""

    cluster: Cluster
    by_node: dict[str, PodHost]

    def service(self, node: str) -> str:
        """Return the address of the Service of a node's pod."""
        found: dict[str, Any] = self.cluster.api.get("service", pod_name(node))
        return str(found["spec"]["clusterIP"])

    def exchange(self, node: str, address: str, megabytes: int) -> float:
        """Send so much from a node's pod to an address, and get it back; return the seconds."""
        arguments = (address, str(PORT), str(megabytes << 20))
        return float(self.by_node[node].run([sys.executable, "-c", _EXCHANGE, *arguments]).stdout)

    def delete(self) -> None:
        """Delete the pods and Services."""
        self.cluster.api.kubectl("delete", "pod,service", "--selector=app=echo", "--now")


def echo_pods(cluster: Cluster, image: Image, *nodes: str) -> EchoPods:
    """Run the pods on these nodes, on all unless given, and wait until they are Ready."""
    chosen = nodes or tuple(cluster.nodes)
    for node in chosen:
        labels = {"app": "echo", "echo": node}
        pod = restricted_pod(pod_name(node), image, ["python3", "-c", _SERVER])
        pod["metadata"]["labels"] = labels
        pod["spec"]["nodeName"] = node
        # As of a DaemonSet's pods: a node that is away keeps its pod.
        pod["spec"]["tolerations"] = [{"operator": "Exists"}]
        metadata = {"name": pod_name(node), "namespace": "default", "labels": {"app": "echo"}}
        spec = {"selector": {"echo": node}, "ports": [{"port": PORT}]}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
        cluster.api.apply(pod, service)
    for node in chosen:
        cluster.repeat("wait", "--for=condition=Ready", f"pod/{pod_name(node)}", "--timeout=5s")
    return EchoPods(cluster, {node: PodHost(cluster, pod_name(node)) for node in chosen})


def pod_name(node: str) -> str:
    """Return the name of a pod of a node, and of its Service."""
    return f"echo-{node}"
