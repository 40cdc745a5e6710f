"""What the chart says of agents' pods, carried by the operator to their DaemonSet."""

from __future__ import annotations

import json
from collections.abc import Callable
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


def writes_of_the_daemon_set(api: ApiServer) -> list[dict[str, Any]]:
    return [
        event
        for event in api.audit_events()
        if event["verb"] == "patch"
        and "/daemonsets/demo-agent" in event["requestURI"]
        and event["userAgent"].startswith("wesher-operator")
    ]
