from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from wesher_operator.agent_pods import AgentPods
from wesher_operator.reconcile.facts import MeshFacts
from wesher_operator.reconcile.manifests import AgentSettings, covers, daemon_set, event
from wesher_operator.resources.mesh import WesherMeshSpec


@pytest.mark.parametrize(
    ("observed", "wanted", "enough"),
    [
        ({"a": 1, "added": 2}, {"a": 1}, True),
        ({"a": 2}, {"a": 1}, False),
        ({}, {"a": {}, "b": [], "c": ""}, True),
        ({"a": {"added": 1}}, {"a": {}}, True),
        ({"a": [1]}, {"a": []}, False),
        ({}, {"a": False}, False),
        ({"a": [{"b": 1, "added": 2}]}, {"a": [{"b": 1}]}, True),
        ({"a": [{"b": 1}, {"b": 2}]}, {"a": [{"b": 1}]}, False),
        ({"a": "10%"}, {"a": "10%"}, True),
        (None, {"a": 1}, False),
    ],
)
def test_an_object_covers_a_wish_when_it_says_all_of_it_whatever_was_filled_in(
    observed: Any, wanted: Any, *, enough: bool
) -> None:
    assert covers(observed, wanted) is enough


def agents(image: str = "wesher:1", pods: AgentPods | None = None, **spec: Any) -> dict[str, Any]:
    parsed = WesherMeshSpec.model_validate({"overlayCIDR": "10.189.0.0/16", **spec})
    return daemon_set(mesh(parsed), parsed, AgentSettings(image=image, pods=pods or AgentPods()))


def mesh(spec: WesherMeshSpec | None = None) -> MeshFacts:
    return MeshFacts(
        name="demo", uid="u", generation=1, created="", deleting=False, spec=spec, problem="", status={}
    )


def test_agents_mount_the_named_secret_the_config_and_their_nudge_as_one_directory() -> None:
    pod = agents(clusterKeySecretRef={"name": "mine"})["spec"]["template"]["spec"]
    sources = pod["volumes"][0]["projected"]["sources"]
    annotation = {"path": "nudge", "fieldRef": {"fieldPath": "metadata.annotations['wesher.dev/nudge']"}}
    assert sources == [
        {"secret": {"name": "mine"}},
        {"configMap": {"name": "demo-config"}},
        {"downwardAPI": {"items": [annotation]}},
    ]
    (container,) = pod["containers"]
    mounted = container["volumeMounts"][0]["mountPath"]
    assert f"--kubernetes={mounted}" in container["args"]


def test_the_hosts_directory_is_mounted_since_a_mounted_file_cannot_be_replaced() -> None:
    pod = agents()["spec"]["template"]["spec"]
    assert {"name": "etc", "hostPath": {"path": "/etc", "type": "Directory"}} in pod["volumes"]


def test_agents_tolerate_everything_unless_told_otherwise() -> None:
    assert agents()["spec"]["template"]["spec"]["tolerations"] == [{"operator": "Exists"}]
    assert agents(tolerations=[])["spec"]["template"]["spec"]["tolerations"] == []


def test_the_unprivileged_form_has_one_capability_and_the_tun_device() -> None:
    pod = agents(pods=AgentPods(privileged=False))["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    context = container["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert (context["privileged"], context["allowPrivilegeEscalation"]) == (False, False)
    assert context["readOnlyRootFilesystem"]
    assert {"name": "tun", "mountPath": "/dev/net"} in container["volumeMounts"]


def test_probes_ask_the_agent_of_this_mesh_and_only_readiness_asks_how_it_does() -> None:
    (container,) = agents(wireguard={"interface": "wg7"})["spec"]["template"]["spec"]["containers"]
    asks = ["wesher", "status", "--interface=wg7"]
    assert container["livenessProbe"]["exec"]["command"] == asks
    assert container["startupProbe"]["exec"]["command"] == asks
    assert container["readinessProbe"]["exec"]["command"] == [*asks, "--check"]


def test_what_an_installation_adds_to_pods_never_hides_them_from_their_daemon_set() -> None:
    added = AgentPods(
        pod_labels={"app.kubernetes.io/name": "mine", "team": "net"},
        extra_env=[{"name": "A"}],
        extra_args=["--forget-after=1h"],
        log_format="json",
    )
    body = agents(pods=added)["spec"]
    assert body["template"]["metadata"]["labels"] == {**body["selector"]["matchLabels"], "team": "net"}
    (container,) = body["template"]["spec"]["containers"]
    assert {"name": "A"} in container["env"]
    assert container["args"][-2:] == ["--log-format=json", "--forget-after=1h"]


def test_a_new_image_or_a_field_no_longer_set_changes_the_manifest_hash() -> None:
    def digest(body: dict[str, Any]) -> str:
        return json.dumps(body["metadata"]["annotations"])

    assert digest(agents()) == digest(agents())
    assert digest(agents()) != digest(agents(image="wesher:2"))
    assert digest(agents()) != digest(agents(nodeSelector={"a": "b"}))


def test_an_events_note_is_cut_to_the_bytes_that_the_api_server_takes() -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    note = event(mesh(), "Reason", "x" + "ü" * 1024, warning=True, name="n", now=now)["note"]
    assert len(note.encode()) == 1023


EDITS: dict[str, Any] = {
    "allocationCIDR": "10.189.7.0/24",
    "clusterName": "east",
    "seedNodes": ["192.0.2.1"],
    "nodeSelector": {"role": "edge"},
    "tolerations": [],
    "wireguard.interface": "wgother",
    "wireguard.port": 51999,
    "wireguard.mtu": 1300,
    "wireguard.persistentKeepalive": 25,
    "wireguard.mode": "Userspace",
    "gossip.port": 7999,
    "gossip.profile": "LAN",
    "gossip.label": "other",
    "addresses.prefer": ["ExternalIP"],
    "etcHosts": "Off",
}
ROLLS = {"nodeSelector", "tolerations", "wireguard.interface"}
"""The interface, since the pod's probes name it."""


@pytest.mark.parametrize("field", EDITS)
def test_few_edits_give_the_agents_other_pods(field: str) -> None:
    """A node in user space has no tunnels while its pod is replaced."""
    section, _, name = field.rpartition(".")
    spec = {section: {name: EDITS[field]}} if section else {name: EDITS[field]}
    assert (agents(**spec)["spec"]["template"] != agents()["spec"]["template"]) == (field in ROLLS)
