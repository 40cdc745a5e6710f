"""What an agent's token may do, and that it is the admission policy that ties it to its own node."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import pytest

from wesher_testing.cluster.api_server import ApiServer, KubectlFailed
from wesher_testing.cluster.operator_process import MANIFESTS, NAMESPACE, SOON, eventually

POLICY = "wesher-agent-own-node"


@pytest.fixture
def nodes(api: ApiServer) -> None:
    """Two nodes with their places in a mesh."""
    for number, name in enumerate("ab", start=1):
        api.node(name, f"192.168.7.{number}")
        api.apply(
            {
                "apiVersion": "wesher.dev/v1alpha1",
                "kind": "WesherNode",
                "metadata": {"name": f"m.{name}"},
                "spec": {
                    "meshRef": {"name": "m", "uid": "u"},
                    "nodeName": name,
                    "overlayIP": f"10.189.0.{number}",
                },
            }
        )


@pytest.fixture
def agent(api: ApiServer, nodes: None) -> Callable[..., str]:
    """Return the token of an agent, on a node or without one."""

    def of(node: str | None) -> str:
        return api.token("wesher-agent", NAMESPACE, node=node)

    return of


def patch_status(api: ApiServer, token: str, node: str, body: dict[str, Any]) -> tuple[int, str]:
    """Patch a WesherNode's status and return what the API server says."""
    return api.patch(f"/apis/wesher.dev/v1alpha1/weshernodes/m.{node}/status", body, token=token)


def refused(api: ApiServer, token: str, node: str) -> str:
    """Patch until the policy, which takes effect a moment after it was made, refuses; return its message."""
    status, message = eventually(
        lambda: patch_status(api, token, node, {"status": {"mtu": 1300}}),
        within=SOON,
        until=lambda answer: answer[0] != HTTPStatus.OK,
    )
    assert status == HTTPStatus.UNPROCESSABLE_ENTITY
    return message


def test_an_agent_writes_the_status_of_its_own_node(api: ApiServer, agent: Callable[..., str]) -> None:
    assert patch_status(api, agent("a"), "a", {"status": {"mtu": 1420}}) == (HTTPStatus.OK, "")
    assert api.get("wnode", "m.a")["status"]["mtu"] == 1420


def test_an_agent_is_refused_at_another_nodes_status_by_the_policys_name(
    api: ApiServer, agent: Callable[..., str]
) -> None:
    said = refused(api, agent("a"), "b")
    assert POLICY in said
    assert "the token of node 'a' may not write the WesherNode of node 'b'" in said


def test_a_token_that_names_no_node_writes_no_status(api: ApiServer, agent: Callable[..., str]) -> None:
    said = refused(api, agent(None), "a")
    assert POLICY in said
    assert "the token names no node" in said


def test_without_the_policy_nothing_else_keeps_an_agent_from_another_nodes_status(
    api: ApiServer, agent: Callable[..., str]
) -> None:
    """So the two refusals above are the policy's, and those tests would fail without it."""
    api.kubectl("delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", POLICY)
    try:
        token = agent("a")
        eventually(
            lambda: patch_status(api, token, "b", {"status": {"mtu": 1301}}),
            within=SOON,
            until=lambda answer: answer[0] == HTTPStatus.OK,
        )
        assert api.get("wnode", "m.b")["status"]["mtu"] == 1301
    finally:
        api.kubectl("apply", "--server-side", "-f", str(MANIFESTS / "wesher.yaml"))
        refused(api, token, "b")


def test_a_spec_that_is_sent_with_a_status_is_ignored(api: ApiServer, agent: Callable[..., str]) -> None:
    both = {"spec": {"overlayIP": "10.189.9.9"}, "status": {"mtu": 1421}}
    assert patch_status(api, agent("a"), "a", both) == (HTTPStatus.OK, "")
    found = api.get("wnode", "m.a")
    assert found["status"]["mtu"] == 1421
    assert found["spec"]["overlayIP"] == "10.189.0.1"


def test_an_agent_reads_single_objects_and_nothing_else(api: ApiServer, agent: Callable[..., str]) -> None:
    who = api.kubeconfig_for(agent("a"), "agent-a")
    assert "10.189.0.2" in api.kubectl("get", "wnode", "m.b", "-o", "yaml", kubeconfig=who)
    for denied in (
        ("get", "wnode"),
        ("get", "wmesh"),
        ("get", "secret", "x", "-n", NAMESPACE),
        ("get", "configmap", "x", "-n", NAMESPACE),
        ("get", "node", "a"),
        ("delete", "wnode", "m.a"),
        ("patch", "wnode", "m.a", "--type=merge", "-p", '{"spec":{"overlayIP":"10.189.9.9"}}'),
    ):
        with pytest.raises(KubectlFailed, match="forbidden"):
            api.kubectl(*denied, kubeconfig=who)
