"""What an agent's token may do, and that it is the admission policy that ties it to its own node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import pytest

from wesher_operator.crd import definition
from wesher_operator.resources.node import WesherNode
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


SCHEMA = definition(WesherNode)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]


def valid(schema: dict[str, Any]) -> Any:
    """Return a value that a schema takes."""
    match schema["type"]:
        case "object":
            return {name: valid(schema["properties"][name]) for name in schema.get("required", [])}
        case "array":
            return []
        case "integer":
            return 1
    return "2026-01-02T03:04:05Z" if "format" in schema else schema.get("enum", ["A"])[0]


def with_text(schema: dict[str, Any], text: str, path: str = "status") -> Iterator[tuple[str, Any]]:
    """Yield, for each text of a schema, its path and a value that is valid but for that ``text``."""
    if schema["type"] == "array":
        for inner, value in with_text(schema["items"], text, f"{path}[0]"):
            yield inner, [value]
    elif schema["type"] == "object":
        for name, part in schema["properties"].items():
            for inner, value in with_text(part, text, f"{path}.{name}"):
                yield inner, {**valid(schema), name: value}
    elif schema["type"] == "string":
        yield path, text


def test_no_text_that_an_agent_may_write_holds_a_terminals_escapes(
    api: ApiServer, agent: Callable[..., str]
) -> None:
    """Its node may have been broken into, and administrators and the operator read what it wrote."""
    token, written = agent("a"), api.get("wnode", "m.a").get("status")
    paths = []
    for path, status in with_text(SCHEMA, "A\x1b]0;pwned\x07\nA"):
        code, message = patch_status(api, token, "a", {"status": status})
        assert (code, path in message) == (HTTPStatus.UNPROCESSABLE_ENTITY, True), (path, code, message)
        paths.append(path)
    assert {"status.conditions[0].message", "status.outsiders[0].name", "status.peers.unreachable[0]"} <= set(
        paths
    )
    assert api.get("wnode", "m.a").get("status") == written


@pytest.mark.parametrize(
    "letter", ["\r", "\t", "\x7f", "\x9b", "\u2028", "\u2029", "\u202e", "\u2066", "\u200b"]
)
def test_a_message_holds_no_line_break_and_no_direction_mark(
    api: ApiServer, agent: Callable[..., str], letter: str
) -> None:
    said = {**valid(SCHEMA["properties"]["conditions"]["items"]), "message": f"well{letter}bad"}
    code, message = patch_status(api, agent("a"), "a", {"status": {"conditions": [said]}})
    assert code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert "status.conditions[0].message" in message


def test_a_message_in_any_language_and_with_escapes_shown_is_taken(
    api: ApiServer, agent: Callable[..., str]
) -> None:
    text = "Gerät “wg0” läuft nicht: 日本語, עברית, na\u0308her, \\u001b[2J → 🙂"
    said = {**valid(SCHEMA["properties"]["conditions"]["items"]), "message": text}
    assert patch_status(api, agent("a"), "a", {"status": {"conditions": [said]}}) == (HTTPStatus.OK, "")
    assert api.get("wnode", "m.a")["status"]["conditions"][0]["message"] == text


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
