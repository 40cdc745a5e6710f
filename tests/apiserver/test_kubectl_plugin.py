"""``kubectl wesher``, run by kubectl against a real API server."""

from __future__ import annotations

import base64
import json
import os
import shlex
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from wesher_agent.cli.commands import agent_settings
from wesher_common.printable import is_printable
from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.operator_process import NAMESPACE, SOON, OperatorProcess, eventually
from wesher_testing.run import toolbox

KEY = bytes(range(50, 82))
SECRET_VALUE = "hunter2-of-a-proxy"  # noqa: S105 - what must not get out

Plugin = Callable[..., subprocess.CompletedProcess[str]]
Mesh = Callable[..., None]
Report = Callable[..., None]


@pytest.fixture
def demo(api: ApiServer, operator: OperatorProcess, mesh: Mesh, report: Report) -> None:
    """Two nodes in a mesh with a known key: ``a`` reports that it is well, ``b`` that its port is taken."""
    put_key(api, KEY)
    for number, name in enumerate("ab", start=1):
        api.node(name, f"192.168.7.{number}")
    mesh(gossip={"port": 17946, "label": "west", "profile": "LAN"}, etcHosts="Off")
    for name in "ab":
        eventually(lambda name=name: api.get("wnode", f"demo.{name}"), within=SOON)
    report("a", endpoint="192.168.7.1:51820", peers={"summary": "1/1"})
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    taken = {
        "type": "Ready",
        "status": "False",
        "reason": "PortTaken",
        "message": "UDP port 51820 is taken",
        "lastTransitionTime": now,
    }
    report("b", endpoint="192.168.7.2:51820", conditions=[taken])
    eventually(lambda: member_states(api), within=SOON, until=[("b", "NotReady"), ("a", "Ready")].__eq__)


def member_states(api: ApiServer) -> list[tuple[str, str]]:
    listed = (api.get("wmesh", "demo").get("status") or {}).get("memberList") or []
    return [(entry["name"], entry["state"]) for entry in listed]


def put_key(api: ApiServer, key: bytes) -> None:
    api.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "demo-key", "namespace": NAMESPACE},
            "data": {"cluster-key": base64.b64encode(base64.b64encode(key)).decode()},
        }
    )


def test_status_shows_those_not_ready_first_and_why_and_its_exit_code_tells(
    plugin: Plugin, demo: None
) -> None:
    done = plugin("status", "demo")
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "demo: not Ready, 1/2 nodes ready"
    members = [line.split() for line in lines if "10.189." in line and not line.startswith("  overlay")]
    assert [(row[0], row[1], row[-1]) for row in members] == [
        ("b", "NotReady", "PortTaken"),
        ("a", "Ready", "ago"),
    ]
    assert "! b: Ready is False, PortTaken: UDP port 51820 is taken" in lines

    (shown,) = json.loads(plugin("status", "-o", "json").stdout)
    assert (shown["name"], shown["ready"], shown["members"]["summary"]) == ("demo", False, "1/2")
    assert [entry["reason"] for entry in shown["memberList"]] == ["PortTaken", ""]


def test_status_of_a_mesh_that_is_well_ends_with_0(
    api: ApiServer, plugin: Plugin, demo: None, report: Report
) -> None:
    report("b", endpoint="192.168.7.2:51820")
    eventually(lambda: {state for _, state in member_states(api)}, within=SOON, until={"Ready"}.__eq__)
    done = eventually(lambda: plugin("status"), within=SOON, until=lambda done: done.returncode == 0)
    assert "!" not in done.stdout

    # A machine outside makes no node unready.
    report("a", endpoint="192.168.7.1:51820", peers={"unreachable": ["laptop"]})
    cut = eventually(lambda: plugin("status"), within=SOON, until=lambda done: done.returncode == 1)
    assert cut.stdout.startswith("demo: Ready, Degraded, 2/2 nodes ready\n")
    assert "! Degraded is True, PairsUnreachable: a cannot reach laptop" in cut.stdout.splitlines()


def test_what_is_not_there_is_one_line_and_exit_code_2(plugin: Plugin, api: ApiServer) -> None:
    for words, says in (
        (["status", "nosuch"], "MESH 'nosuch': no such WesherMesh"),
        (["status", "--context=nosuch"], "--context 'nosuch': cannot be used: "),
        (["status", "-o", "yaml"], "-o/--output: invalid choice: 'yaml'"),
        (["doctor", "--frob"], "unrecognized arguments: --frob"),
        (["sysdump", "-n", "elsewhere"], "--namespace 'elsewhere': no operator found"),
    ):
        done = plugin(*words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert says in done.stderr


def test_the_join_command_is_one_the_agent_takes_and_says_what_the_mesh_says(
    plugin: Plugin, demo: None, tmp_path: Path
) -> None:
    done = plugin("join-command")
    assert done.returncode == 0, done.stderr
    assert base64.b64encode(KEY).decode() not in done.stdout
    fetch = next(line for line in done.stdout.splitlines() if line.startswith("(umask"))
    join = next(line for line in done.stdout.splitlines() if line.startswith("wesher "))

    settings = agent_settings(shlex.split(join)[1:], {})
    document = settings.mesh_document()
    assert [str(seed) for seed in settings.join] == ["192.168.7.1", "192.168.7.2"]  # the ready one first
    assert (str(document.overlay), document.wireguard.port, document.etc_hosts) == (
        "10.189.0.0/16",
        51820,
        "Off",
    )
    gossip = document.gossip
    assert (gossip.port, gossip.label, gossip.profile) == (17946, "west", "LAN")

    path = f"{toolbox.kubernetes_binary('kubectl').parent}:{os.environ['PATH']}"
    subprocess.run(
        ["sh", "-ec", fetch], cwd=tmp_path, env={**os.environ, "PATH": path}, check=True, timeout=SOON
    )
    fetched = tmp_path / "wesher-key"
    assert stat.S_IMODE(fetched.stat().st_mode) == 0o600
    assert base64.b64decode(fetched.read_text()) == KEY


def test_no_join_command_is_given_for_a_network_that_outsiders_cannot_join(
    api: ApiServer, plugin: Plugin, mesh: Mesh
) -> None:
    mesh(overlayCIDR="10.189.0.0/20")
    done = plugin("join-command", "demo")
    assert (done.returncode, done.stdout) == (2, "")
    assert "spec.overlayCIDR '10.189.0.0/20'" in done.stderr
    assert "multiple of 8, not 20" in done.stderr


def pod(api: ApiServer, name: str, labels: dict[str, str], status: dict[str, Any], *, node: str) -> None:
    """Make a pod and say of it what its kubelet would."""
    api.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "spec": {
                "nodeName": node,
                "serviceAccountName": "wesher-agent",
                "containers": [
                    {
                        "name": "main",
                        "image": "wesher:test",
                        "env": [{"name": "PROXY", "value": SECRET_VALUE}],
                    }
                ],
            },
        }
    )
    say(api, "pod", name, status)


def say(api: ApiServer, kind: str, name: str, status: dict[str, Any]) -> None:
    patch = json.dumps({"status": status})
    api.kubectl("patch", kind, name, "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p", patch)


RUNNING = {"name": "main", "image": "wesher:test", "imageID": "", "ready": True, "restartCount": 0}
READY = {
    "phase": "Running",
    "conditions": [{"type": "Ready", "status": "True"}],
    "containerStatuses": [{**RUNNING, "state": {"running": {}}}],
}
AGENT = {"wesher.dev/mesh": "demo"}


@pytest.fixture
def pods(api: ApiServer, demo: None, report: Report) -> None:
    """Make all well: the operator's pod and the agents' run, and both nodes report so."""
    report("b", endpoint="192.168.7.2:51820")
    # In place of those that `report` made, which hold no secret.
    api.kubectl("delete", "pod", "agent-a", "agent-b", "--force", "-n", NAMESPACE)
    pod(api, "operator", {"app.kubernetes.io/name": "wesher-operator"}, READY, node="a")
    for node in "ab":
        pod(api, f"agent-{node}", AGENT, READY, node=node)
    eventually(lambda: api.get("daemonset", "demo-agent", "-n", NAMESPACE), within=SOON)
    counts = {
        "desiredNumberScheduled": 2,
        "currentNumberScheduled": 2,
        "numberReady": 2,
        "numberMisscheduled": 0,
    }
    say(api, "daemonset", "demo-agent", counts)
    eventually(lambda: {state for _, state in member_states(api)}, within=SOON, until={"Ready"}.__eq__)


def test_the_doctor_finds_nothing_wrong_where_nothing_is(plugin: Plugin, pods: None) -> None:
    done = eventually(lambda: plugin("doctor"), within=SOON, until=lambda done: done.returncode == 0)
    verdicts = {line.split()[0] for line in done.stdout.splitlines()}
    assert verdicts == {"ok"}, done.stdout
    for check in ("definitions", "operator leads", "pod security", "key of demo", "agents of demo"):
        assert check in done.stdout


def test_the_doctor_names_what_is_wrong_and_what_to_do_and_no_key(
    api: ApiServer, plugin: Plugin, pods: None, report: Report
) -> None:
    put_key(api, KEY[:31])
    label = "pod-security.kubernetes.io/enforce"
    api.kubectl("label", "namespace", NAMESPACE, "--overwrite", f"{label}=baseline")
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off: ErrImagePull: "wesher:test": not found'}
    broken = {
        "phase": "Pending",
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [
            {
                "name": "main",
                "image": "wesher:test",
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": {"waiting": waiting},
            }
        ],
    }
    say(api, "pod", "agent-b", broken)
    late = (datetime.now(UTC) - timedelta(minutes=20)).strftime("%Y-%m-%dT%H:%M:%SZ")
    report("b", lastReportTime=late)
    try:
        done = plugin("doctor")
    finally:
        api.kubectl("label", "namespace", NAMESPACE, "--overwrite", f"{label}=privileged")
    assert done.returncode == 1, done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    for says in (
        f"namespace {NAMESPACE} enforces baseline",
        f"Secret demo-key in namespace {NAMESPACE}: the key has 31 bytes, not 32",
        'b cannot pull the agent image: "wesher:test": not found',
        "b last reported 20m ago",
    ):
        assert any(says in line for line in failed), done.stdout
    assert f"→ kubectl label namespace {NAMESPACE} --overwrite {label}=privileged" in done.stdout
    assert base64.b64encode(KEY[:31]).decode() not in done.stdout + done.stderr


@pytest.fixture
def ipvs(api: ApiServer) -> Iterator[None]:
    """Store the configuration of a kube-proxy in IPVS mode, as kubeadm does."""
    place = {"name": "kube-proxy", "namespace": "kube-system"}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": place,
        "data": {"config.conf": "mode: ipvs\n"},
    }
    api.apply(config)
    yield
    api.kubectl("delete", "configmap", "kube-proxy", "-n", "kube-system")


def test_status_and_doctor_say_what_is_carried_and_what_keeps_a_node_from_it(
    api: ApiServer, plugin: Plugin, pods: None, report: Report, ipvs: None
) -> None:
    assert "  traffic:   to overlay addresses only" in plugin("status").stdout.splitlines()
    flannel = "flannel.alpha.coreos.com/backend-type=vxlan"
    api.kubectl("annotate", "node", "a", "b", "wesher.dev/location=east", flannel)
    # Node b, 192.168.7.2, is outside.
    traffic = {"nodes": "OtherLocations", "pods": "None", "nodeCIDRs": ["192.168.7.0/31"]}
    edit = json.dumps({"spec": {"traffic": traffic}})
    api.kubectl("patch", "wmesh", "demo", "--type=merge", "-p", edit)
    report("a", endpoint="192.168.7.1:51820", mtu=1420, traffic={"accepts": True, "routed": 0})
    eventually(lambda: api.get("wnode", "demo.b")["spec"].get("location"), within=SOON, until="east".__eq__)
    done = plugin("doctor")
    assert done.returncode == 1, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for says in (
        "FAIL locations of demo all nodes are in east, so no traffic goes to another location",
        "FAIL node addresses of demo outside spec.traffic.nodeCIDRs: b 192.168.7.2",
        "FAIL kube-proxy of demo kube-proxy runs in IPVS mode, which is not tested with carried traffic",
        "→ set the MTU of flannel to 1370: see docs/traffic.md",
    ):
        assert says in lines, done.stdout
    assert not any("pod networks" in line or "API server" in line for line in lines), done.stdout

    shown = plugin("status").stdout
    assert "  traffic:   nodes OtherLocations, pods None: carried by 0 of 2 nodes" in shown, shown
    (out,) = json.loads(plugin("status", "-o", "json").stdout)
    assert [(node["name"], node["accepts"]) for node in out["traffic"]["nodeList"]] == [
        ("a", True),
        ("b", False),
    ]


TITLE = "\x1b]0;pwned\x07\x1b[2J\r\x9b1m\u202e"
SHOWN_TITLE = r"\u001b]0;pwned\u0007\u001b[2J\r\u009b1m\u202e"


def test_what_a_node_that_was_broken_into_says_of_its_pod_is_shown_escaped(
    api: ApiServer, plugin: Plugin, pods: None
) -> None:
    """A kubelet's token may write that, and the operator passes it on in the mesh's status and Events."""
    waiting = {"reason": "ErrImagePull", "message": f"ErrImagePull: {TITLE} denied\nFAKE line"}
    container = {
        "name": "main",
        "image": "wesher:test",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"waiting": waiting},
    }
    unready = {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}]}
    say(api, "pod", "agent-b", {**unready, "containerStatuses": [container]})
    shown = SHOWN_TITLE.replace(r"\r", " ")
    for words in (["status"], ["doctor"]):
        done = eventually(
            lambda words=words: plugin(*words),
            within=SOON,
            until=lambda done: "ErrImage" in done.stdout or "cannot pull" in done.stdout,
        )
        assert f"cannot pull the agent image: {shown} denied FAKE line" in done.stdout, done.stdout
        assert all(map(is_printable, done.stdout.splitlines()))
    stored = api.get("wmesh", "demo")["status"]
    assert any(shown in entry["message"] for entry in stored["conditions"])
    noted = [event.get("note", "") for event in api.get("events.events.k8s.io", "-n", "default")["items"]]
    assert any(shown in note for note in noted)
    assert all(map(is_printable, noted))


def test_a_label_with_terminal_escapes_is_shown_escaped_and_joined_as_it_is(
    api: ApiServer, plugin: Plugin, demo: None
) -> None:
    label = f"{TITLE}\n! FAKE it's"
    edit = json.dumps({"spec": {"gossip": {"label": label}}})
    api.kubectl("patch", "wmesh", "demo", "--type=merge", "-p", edit)
    done = plugin("status")
    assert rf"label {SHOWN_TITLE}\n! FAKE it's" in done.stdout
    joined = plugin("join-command")
    assert all(map(is_printable, (done.stdout + joined.stdout).splitlines())), joined.stderr
    command = next(line for line in joined.stdout.splitlines() if line.startswith("wesher "))
    shell = ["bash", "-c", f"printf '%s\\0' {command}"]
    words = subprocess.run(shell, capture_output=True, check=True, timeout=SOON).stdout.decode().split("\0")
    assert words[words.index("--label") + 1] == label


def test_what_a_user_may_not_see_is_said_and_is_no_failure(
    api: ApiServer, plugin: Plugin, pods: None
) -> None:
    rules = [
        {
            "apiGroups": ["wesher.dev"],
            "resources": ["weshermeshes", "weshernodes", "wesherpeers"],
            "verbs": ["get", "list"],
        },
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]},
    ]
    api.apply(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "viewer", "namespace": NAMESPACE},
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "viewer"},
            "rules": rules,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "viewer"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "viewer"},
            "subjects": [{"kind": "ServiceAccount", "name": "viewer", "namespace": NAMESPACE}],
        },
    )
    viewer = api.kubeconfig_for(api.token("viewer", NAMESPACE), "viewer")
    done = eventually(
        lambda: plugin("doctor", kubeconfig=viewer), within=SOON, until=lambda done: done.returncode == 0
    )
    unseen = [line for line in done.stdout.splitlines() if line.startswith("?")]
    assert any("your rights" in line and "get secrets" in line for line in unseen), done.stdout
    assert any("key of demo" in line for line in unseen)
    assert "ok reports of demo 2 nodes reported in time" in " ".join(done.stdout.split()), done.stdout


def test_a_sysdump_holds_objects_and_no_secret_and_reads_none(
    api: ApiServer, plugin: Plugin, pods: None, tmp_path: Path
) -> None:
    target = tmp_path / "dump.tar.gz"
    before = secrets_read(api)
    done = plugin("sysdump", "-f", str(target))
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with tarfile.open(target) as archive:
        files = {
            entry.name.removeprefix("wesher-sysdump/"): reader.read()
            for entry in archive.getmembers()
            if (reader := archive.extractfile(entry)) is not None
        }
    for name, holds in (
        ("weshermeshes.json", b'"overlayCIDR": "10.189.0.0/16"'),
        ("weshernodes.json", b'"demo.b"'),
        ("pods.json", b'"agent-b"'),
        ("configmaps.json", b"mesh.json"),
        ("definitions/weshermeshes.json", b"CustomResourceDefinition"),
    ):
        assert holds in files[name]
    everything = b"".join(files.values())
    encoded = base64.b64encode(KEY)
    for secret in (KEY, encoded, base64.b64encode(encoded), KEY.hex().encode(), SECRET_VALUE.encode()):
        assert secret not in everything
    assert secrets_read(api) == before

    again = plugin("sysdump", "-f", str(target))
    assert (again.returncode, "File exists" in again.stderr) == (2, True)


def secrets_read(api: ApiServer) -> int:
    """Return how often the plugin has asked for a Secret so far."""
    return sum(
        event["userAgent"].startswith("kubectl-wesher/")
        and event.get("objectRef", {}).get("resource") == "secrets"
        for event in api.audit_events()
    )
