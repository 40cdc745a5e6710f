"""What the chart says of agents' pods, carried by the operator to their DaemonSet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.operator_process import NAMESPACE, SOON, eventually, run_operator

PODS = {
    "privileged": False,
    "priorityClassName": "",
    "resources": {"requests": {"cpu": "0.02", "memory": "1024Ki"}},
    "extraEnv": [{"name": "EMPTY", "value": ""}],
    "podAnnotations": {"a": "b"},
}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
HTTP = {"httpGet"}


def test_agents_get_what_the_installation_says_and_it_is_written_once_however_it_is_spelt(
    api: ApiServer, mesh: Callable[..., None]
) -> None:
    api.node("a", "192.168.7.1")
    before = len(writes_of_the_daemon_set(api))
    with run_operator(api, name="pods", more=["--agent-pods", json.dumps(PODS)]):
        mesh()
        agents = eventually(lambda: api.get("daemonset", "demo-agent", "-n", NAMESPACE), within=SOON)
        pod = agents["spec"]["template"]
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["requests"] == {"cpu": "20m", "memory": "1Mi"}
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
        assert pod["metadata"]["annotations"] == {"a": "b"}

        # Each makes the mesh be looked at again.
        for place in ("attic", "cellar"):
            api.kubectl("annotate", "node", "a", "--overwrite", f"wesher.dev/location={place}")
            eventually(
                lambda: api.get("wnode", "demo.a")["spec"]["location"], within=SOON, until=place.__eq__
            )
    assert len(writes_of_the_daemon_set(api)) == before + 1


def test_pods_of_a_release_that_started_a_program_for_each_probe_are_asked_over_http(
    api: ApiServer, mesh: Callable[..., None]
) -> None:
    with run_operator(api, name="earlier"):
        mesh()
        agents = eventually(lambda: api.get("daemonset", "demo-agent", "-n", NAMESPACE), within=SOON)
    metadata = {key: agents["metadata"][key] for key in ("name", "namespace", "labels", "ownerReferences")}
    (container,) = agents["spec"]["template"]["spec"]["containers"]
    for probe in PROBES:
        container[probe] = {"exec": {"command": ["wesher", "status"]}, "timeoutSeconds": 10}
    container["args"] = ["--kubernetes=/etc/wesher"]
    former = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": agents["spec"]}
    api.kubectl(
        *("apply", "--server-side", "--force-conflicts", "--field-manager=wesher-operator", "-f", "-"),
        stdin=json.dumps(former),
    )
    with run_operator(api, name="upgraded"):
        eventually(lambda: list(probes(api)), within=SOON, until=lambda kinds: kinds == [HTTP] * 3)


def test_edits_that_agents_take_from_their_files_end_no_pod(
    api: ApiServer, mesh: Callable[..., None]
) -> None:
    """Neither the port of the probes nor anything else in the pod's template follows them."""
    edited = {
        "wireguard": {"interface": "wg7", "port": 51999, "persistentKeepalive": 7},
        "gossip": {"port": 7999, "profile": "LAN", "label": "new"},
        "etcHosts": "Names",
        "seedNodes": ["192.0.2.77"],
    }
    with run_operator(api, name="edits"):
        mesh()
        eventually(lambda: api.get("daemonset", "demo-agent", "-n", NAMESPACE), within=SOON)
        mesh(**edited)
        eventually(
            lambda: api.get("configmap", "demo-config", "-n", NAMESPACE)["data"]["mesh.json"],
            within=SOON,
            until=lambda text: "192.0.2.77" in text,
        )
        # The DaemonSet is written after the ConfigMap, and before the nodes get their status.
        eventually(
            lambda: api.get("wmesh", "demo"),
            within=SOON,
            until=lambda found: found["status"]["observedGeneration"] == found["metadata"]["generation"],
        )
        agents = api.get("daemonset", "demo-agent", "-n", NAMESPACE)
    assert agents["metadata"]["generation"] == 1
    assert list(probes(api)) == [HTTP] * 3


def probes(api: ApiServer) -> Iterator[set[str]]:
    """Yield how each probe of the agents asks, for the port that their flag names."""
    agents = api.get("daemonset", "demo-agent", "-n", NAMESPACE)
    (container,) = agents["spec"]["template"]["spec"]["containers"]
    for probe in PROBES:
        asks = container[probe].get("httpGet", {})
        right = asks.get("host") == "127.0.0.1" and f"--health-port={asks['port']}" in container["args"]
        yield {kind for kind in ("exec", "httpGet") if kind in container[probe]} if right else set()


def writes_of_the_daemon_set(api: ApiServer) -> list[dict[str, Any]]:
    return [
        event
        for event in api.audit_events()
        if event["verb"] == "patch"
        and "/daemonsets/demo-agent" in event["requestURI"]
        and event["userAgent"].startswith("wesher-operator")
    ]
