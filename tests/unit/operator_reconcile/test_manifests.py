from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from wesher_agent.kube.api import HOST_VARIABLE, PORT_VARIABLE
from wesher_common.errors import InvalidSpec
from wesher_operator.agent_pods import AgentPods, parse_agent_pods
from wesher_operator.reconcile.facts import MeshFacts
from wesher_operator.reconcile.manifests import (
    AgentSettings,
    covers,
    daemon_set,
    event,
    mounts_hosts,
)
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


def agents(
    image: str = "wesher:1",
    pods: AgentPods | None = None,
    *,
    health_port: int = 51820,
    has_hosts: bool = True,
    **spec: Any,
) -> dict[str, Any]:
    parsed = WesherMeshSpec.model_validate({"overlayCIDR": "10.189.0.0/16", **spec})
    settings = AgentSettings(image=image, pods=pods or AgentPods())
    return daemon_set(mesh(parsed), parsed, settings, health_port=health_port, has_hosts=has_hosts)


def pod_of(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a DaemonSet's pod and its one container."""
    pod = body["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


def host_paths(body: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return what of the node the pods have: path to type and form of access."""
    pod, container = pod_of(body)
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    return {
        volume["hostPath"]["path"]: (
            volume["hostPath"]["type"],
            "read" if mounts[volume["name"]].get("readOnly") else "write",
        )
        for volume in pod["volumes"]
        if "hostPath" in volume
    }


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


ALWAYS = {
    "/var/lib/wesher": ("DirectoryOrCreate", "write"),
    "/run/wesher": ("DirectoryOrCreate", "write"),
    "/var/run/wireguard": ("DirectoryOrCreate", "write"),
    "/dev/net": ("DirectoryOrCreate", "read"),
}
"""What agents of every form have of their node."""


@pytest.mark.parametrize("privileged", [True, False])
def test_a_mesh_without_hosts_entries_gives_agents_nothing_of_etc(*, privileged: bool) -> None:
    body = agents(pods=AgentPods(privileged=privileged), has_hosts=False)
    assert host_paths(body) == ALWAYS
    assert not any("hosts" in argument for argument in pod_of(body)[1]["args"])
    assert not mounts_hosts(body)


def test_the_privileged_form_has_the_hosts_files_directory_since_a_mounted_file_cannot_be_replaced() -> None:
    body = agents()
    assert host_paths(body) == ALWAYS | {"/etc": ("Directory", "write")}
    assert "--hosts-file=/host/etc/hosts" in pod_of(body)[1]["args"]
    assert mounts_hosts(body)


def test_the_unprivileged_form_has_the_hosts_file_and_no_other_file_of_etc() -> None:
    """With /etc a hole in the agent is root on the node: cron.d, passwd, ld.so.preload."""
    body = agents(pods=AgentPods(privileged=False))
    assert host_paths(body) == ALWAYS | {"/etc/hosts": ("File", "write")}
    assert {"name": "hosts", "mountPath": "/host/etc/hosts"} in pod_of(body)[1]["volumeMounts"]
    assert "--hosts-file=/host/etc/hosts" in pod_of(body)[1]["args"]
    assert mounts_hosts(body)


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
    assert {"name": "tun", "mountPath": "/dev/net", "readOnly": True} in container["volumeMounts"]


def test_probes_ask_over_the_nodes_loopback_and_start_no_program() -> None:
    _, container = pod_of(agents(health_port=51999))
    assert "--health-port=51999" in container["args"]
    paths = {"livenessProbe": "/healthz", "startupProbe": "/healthz", "readinessProbe": "/readyz"}
    for probe, path in paths.items():
        assert "exec" not in container[probe]
        assert container[probe]["httpGet"] == {"host": "127.0.0.1", "path": path, "port": 51999}


def test_edits_that_agents_take_from_their_files_end_no_pod() -> None:
    """The health port, above all, stays when the WireGuard port is edited."""
    edited = agents(
        wireguard={"interface": "wg7", "port": 51821}, gossip={"profile": "LAN"}, etcHosts="Names"
    )
    assert edited["spec"] == agents()["spec"]


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


@pytest.mark.parametrize(
    ("told", "host"), [("api.example.com:6443", "api.example.com"), ("[2001:db8::1]:6443", "2001:db8::1")]
)
def test_agents_dial_the_api_server_that_the_installation_names(told: str, host: str) -> None:
    """By the variables that `wesher_agent.kube.api.in_cluster` reads."""
    body = agents(pods=AgentPods(api_server=told))
    (container,) = body["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each.get("value") for each in container["env"]}
    assert (given[HOST_VARIABLE], given[PORT_VARIABLE]) == (host, "6443")

    (container,) = agents()["spec"]["template"]["spec"]["containers"]
    assert [each["name"] for each in container["env"]] == ["WESHER_NODE_NAME"]


def test_an_api_server_without_a_port_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="apiServer"):
        parse_agent_pods('{"apiServer": "https://api.example.com"}', where="WESHER_AGENT_PODS")


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
    "affinity": {"nodeAffinity": None},
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
ROLLS = {"nodeSelector", "affinity", "tolerations", "etcHosts"}
"""What the pods' template says; `docs/live-edits.md` names them."""


@pytest.mark.parametrize("field", EDITS)
def test_few_edits_give_the_agents_other_pods(field: str) -> None:
    """A node in user space has no tunnels while its pod is replaced."""
    section, _, name = field.rpartition(".")
    spec = {section: {name: EDITS[field]}} if section else {name: EDITS[field]}
    edited = agents(has_hosts=spec.get("etcHosts") != "Off", **spec)
    assert (edited["spec"]["template"] != agents()["spec"]["template"]) == (field in ROLLS)


def test_the_page_on_edits_names_those_that_replace_pods() -> None:
    page = (Path(__file__).parents[3] / "docs/live-edits.md").read_text()
    rows = re.findall(r"^\| `([^`|]+)` \| ([^|]*) \|", page, re.MULTILINE)
    named = {
        field.partition(".")[0]
        for field, says in rows
        if "#edits-that-replace-pods" in says or says == "As `nodeSelector`"
    }
    assert named == ROLLS
    section = page.partition("## Edits that replace pods")[2]
    assert {field for field in EDITS if f"`{field}`" in section} == ROLLS
