"""What ``kubectl wesher doctor`` finds in objects, and what it says to do."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import pytest

from wesher_operator.kubectl import checks

NOW = datetime(2030, 5, 1, 12, 0, 0, tzinfo=UTC)
MESH: dict[str, Any] = {"metadata": {"name": "demo"}, "spec": {}}


def definition(release: str | None = "1.0.0", established: str = "True") -> dict[str, Any]:
    annotations = {} if release is None else {"wesher.dev/release": release}
    return {
        "metadata": {"annotations": annotations},
        "status": {"conditions": [{"type": "Established", "status": established}]},
    }


@pytest.mark.parametrize(
    ("nodes", "verdict", "says"),
    [
        (definition(), "ok", "served, of release 1.0.0"),
        (None, "FAIL", "missing: weshernodes.wesher.dev"),
        (definition(established="False"), "FAIL", "not served yet: weshernodes"),
        (definition("0.9.0"), "FAIL", "they are from 0.9.0; 1.0.0, but the operator is 1.0.0"),
        (definition("1.1.0"), "ok", "served, of release 1.0.0; 1.1.0"),
        (definition(None), "FAIL", "they are from 1.0.0; an older release, but the operator is 1.0.0"),
    ],
)
def test_definitions(nodes: dict[str, Any] | None, verdict: str, says: str) -> None:
    others = {"weshermeshes": definition(), "wesherpeers": definition()}
    finding = checks.definitions({**others, "weshernodes": nodes}, "1.0.0")
    assert (finding.verdict, finding.says) == (verdict, says)


def a_lease(renewed: str) -> dict[str, Any]:
    return {"spec": {"holderIdentity": "op-1", "renewTime": renewed, "leaseDurationSeconds": 10}}


DEPLOYMENT = {"metadata": {"name": "wesher-operator", "namespace": "vpn"}, "spec": {"replicas": 1}}


def a_pod(ready: str, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "pod-1"},
        "spec": {"nodeName": "a"},
        "status": {"phase": "Pending", "conditions": [{"type": "Ready", "status": ready}], **status},
    }


def test_an_operator_that_runs_and_leads() -> None:
    found = checks.operator(DEPLOYMENT, [a_pod("True")], a_lease("2030-05-01T11:59:55.000000Z"), NOW)
    assert [(finding.verdict, finding.says) for finding in found] == [
        ("ok", "1 of 1 pods ready in namespace vpn"),
        ("ok", "op-1 leads"),
    ]


@pytest.mark.parametrize(
    ("lease", "says"),
    [
        (None, "no operator holds the lease, so no change to a mesh takes effect"),
        (a_lease(""), "op-1 holds the lease but has never renewed it, and no other operator has taken over"),
        (a_lease("2030-05-01T11:00:00Z"), "op-1 led until 1h ago, and no other operator has taken over"),
    ],
)
def test_an_operator_that_is_gone(lease: dict[str, Any] | None, says: str) -> None:
    runs, leads = checks.operator(DEPLOYMENT, [], lease, NOW)
    assert (runs.verdict, leads.verdict, leads.says) == ("FAIL", "FAIL", says)
    assert leads.do == "kubectl -n vpn logs deployment/wesher-operator"


def test_an_operators_pod_that_does_not_start_says_why() -> None:
    waiting = {"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}
    runs, _ = checks.operator(DEPLOYMENT, [a_pod("False", containerStatuses=[waiting])], None, NOW)
    assert runs.says.startswith("no pod of wesher-operator is ready: pod-1 cannot pull")


@pytest.mark.parametrize(
    ("level", "verdict"), [(None, "ok"), ("privileged", "ok"), ("baseline", "FAIL"), ("restricted", "FAIL")]
)
def test_pod_security(level: str | None, verdict: str) -> None:
    labels = {} if level is None else {"pod-security.kubernetes.io/enforce": level}
    finding = checks.pod_security({"metadata": {"name": "vpn", "labels": labels}})
    assert finding.verdict == verdict
    assert bool(finding.do) == (verdict == "FAIL")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"cluster-key": base64.b64encode(bytes(31)).decode()}, "the key has 31 bytes, not 32"),
        ({"cluster-key": "cluster secret"}, "cluster-key is not base64"),
        ({"other": ""}, "has no entry cluster-key"),
        ({}, "has no entry cluster-key"),
    ],
)
def test_a_key_that_is_none_is_named_and_not_shown(data: dict[str, str], says: str) -> None:
    secret = {"data": {name: base64.b64encode(text.encode()).decode() for name, text in data.items()}}
    finding = checks.key_secret(MESH, secret, "vpn")
    assert finding.verdict == "FAIL"
    assert says in finding.says
    assert all(text not in finding.says + finding.do for text in data.values() if text)


def test_a_key_secret_that_is_gone_is_to_be_put_back() -> None:
    finding = checks.key_secret(MESH, None, "vpn")
    assert (finding.verdict, finding.says) == ("FAIL", "Secret demo-key in namespace vpn is missing")


def a_daemon_set(wanted: int, ready: int) -> dict[str, Any]:
    return {
        "metadata": {"name": "demo-agent", "namespace": "vpn", "uid": "u1"},
        "status": {"desiredNumberScheduled": wanted, "numberReady": ready},
    }


def test_agents_whose_pods_are_refused_say_what_to_label() -> None:
    event = {
        "metadata": {"resourceVersion": "5"},
        "reason": "FailedCreate",
        "regarding": {"uid": "u1"},
        "note": 'pods "demo-agent-x" is forbidden: violates PodSecurity "baseline:latest": host namespaces',
    }
    finding = checks.agents(MESH, a_daemon_set(3, 0), [], [event])
    assert finding.says.startswith("3 pods could not be created: violates PodSecurity")
    assert "kubectl label namespace vpn" in finding.do
    event["deprecatedLastTimestamp"] = "2030-05-01T11:30:00Z"
    since = a_pod("True") | {"metadata": {"name": "p", "creationTimestamp": "2030-05-01T11:31:00Z"}}
    assert "refused" not in checks.agents(MESH, a_daemon_set(2, 1), [since], [event]).says


def test_agents_that_are_missing_are_named_by_their_nodes() -> None:
    finding = checks.agents(MESH, a_daemon_set(1, 0), [a_pod("False")], [])
    assert (finding.verdict, finding.says) == ("FAIL", "0 of 1 ready, not on: a")
    assert checks.agents(MESH, None, [], []).verdict == "FAIL"
    assert checks.agents(MESH, a_daemon_set(1, 1), [a_pod("True")], []).verdict == "ok"


def a_report(name: str, reported: str, status: str = "True") -> dict[str, Any]:
    said = {"type": "Ready", "status": status, "reason": "PortTaken", "message": "UDP port 1 is taken"}
    return {
        "spec": {"nodeName": name},
        "status": {"lastReportTime": reported, "conditions": [said]} if reported else {},
    }


def test_reports_that_are_missing_old_or_bad() -> None:
    nodes = [
        a_report("a", "2030-05-01T11:59:00Z"),
        a_report("b", ""),
        a_report("c", "2030-05-01T11:00:00Z"),
        a_report("d", "2030-05-01T11:59:00Z", "False"),
    ]
    finding = checks.reports(MESH, nodes, NOW)
    assert finding.says == ("b has never reported; c last reported 1h ago; d: PortTaken: UDP port 1 is taken")
    assert checks.reports(MESH, nodes[:1], NOW).verdict == "ok"


def test_reports_of_nodes_that_cannot_reach_each_other_are_no_good_ones() -> None:
    """The check of the mesh fails then, and this one must not say that the nodes are well."""
    cut = a_report("a", "2030-05-01T11:59:00Z")
    cut["status"]["peers"] = {"unreachable": ["b"]}
    finding = checks.reports(MESH, [cut, a_report("b", "2030-05-01T11:59:00Z")], NOW)
    assert (finding.verdict, finding.says) == ("FAIL", "a cannot reach b")


def test_a_mesh_that_machines_outside_cannot_join_says_so() -> None:
    ready = {"conditions": [{"type": "Ready", "status": "True", "reason": "AllReady", "message": "all 3"}]}
    open_mesh = {**MESH, "spec": {"overlayCIDR": "10.189.0.0/16"}, "status": ready}
    assert checks.mesh_conditions(open_mesh).says == "all 3"
    closed = checks.mesh_conditions({**open_mesh, "spec": {"overlayCIDR": "10.189.0.0/20"}})
    assert closed.says.startswith("all 3; external machines can join by invite only: ")


def test_many_findings_are_one_bounded_line() -> None:
    finding = checks.account_rights("vpn/wesher-agent", [f"get thing{number}" for number in range(9)])
    assert finding.says.endswith("get thing4 and 4 more")
    assert checks.account_rights("vpn/wesher-agent", []).verdict == "ok"


def test_a_mesh_names_every_condition_that_is_wrong_and_the_first_ones_remedy() -> None:
    taken = "meshes demo and old both want port 51820; wireguard.port 51821 is free"
    conditions = [
        {"type": kind, "status": "False", "reason": "Conflict", "message": taken}
        for kind in ("Ready", "ConfigPublished")
    ]
    finding = checks.mesh_conditions({**MESH, "status": {"conditions": conditions}})
    assert finding.says == "Ready is False, Conflict; ConfigPublished is False, Conflict"
    assert finding.do.startswith(taken)
    assert checks.mesh_conditions(MESH).says == "no operator has processed it"


def of_identity(**more: Any) -> dict[str, Any]:
    identity = {"mode": "Verified", "bound": True, "authority": "AUTHORITY=", "certified": "1/1"}
    return {**MESH, "status": {"identity": {**identity, **more}}}


@pytest.mark.parametrize(
    ("days", "verdict", "says"),
    [
        (8, "ok", "Verified, bound, 1/1 certified, the first expires in 8 days"),
        (7, "FAIL", "certificates expire soon on: a; Verified, bound, 1/1 certified"),
        (0, "FAIL", "certificates expire soon on: a; "),
    ],
)
def test_certificates_that_expire_soon_are_named(days: int, verdict: str, says: str) -> None:
    node = {"spec": {"nodeName": "a", "certificate": "of a"}, "status": {"certificateDays": days}}
    finding = checks.identity(of_identity(), [node])
    assert finding.verdict == verdict
    assert finding.says.startswith(says)


def test_a_mesh_of_an_operator_without_certificates_is_not_checked_for_identity() -> None:
    assert checks.identity(MESH, []).verdict == "?"


@pytest.mark.parametrize(
    ("mesh", "secret", "verdict", "says"),
    [
        (of_identity(), None, "FAIL", "is missing: no certificate is issued or renewed"),
        (MESH, None, "?", "the mesh has no authority yet"),
        (of_identity(), {}, "FAIL", "has no entry seed"),
        (of_identity(), {"seed": base64.b64encode(b"no base64").decode()}, "FAIL", "seed is not base64"),
        (of_identity(), {"seed": "QUFBQQ=="}, "FAIL", "the key has 3 bytes, not 32"),
        (of_identity(), {"seed": base64.b64encode(base64.b64encode(bytes(32))).decode()}, "ok", "holds 32"),
    ],
)
def test_the_secret_of_the_authority(
    mesh: dict[str, Any], secret: dict[str, str] | None, verdict: str, says: str
) -> None:
    found = {"data": secret} if secret is not None else None
    finding = checks.authority_secret(mesh, found, "vpn")
    assert finding.verdict == verdict
    assert says in finding.says
    assert ("kubectl wesher new-authority --mesh demo" in finding.do) == (verdict == "FAIL")


def a_node(name: str, *keys: str) -> dict[str, Any]:
    taints = [{"key": key, "value": "yes", "effect": "NoSchedule"} for key in keys]
    return {"metadata": {"name": name}, "spec": {"taints": taints} if taints else {}}


def test_nodes_that_still_have_the_startup_taint_and_why() -> None:
    taint = "wesher.dev/tunnels-not-ready"
    mesh = {**MESH, "spec": {"nodeReadiness": {"taint": f"{taint}:NoSchedule"}}}
    members = [
        a_report("a", "2030-05-01T11:59:00Z"),
        a_report("b", ""),
        a_report("c", "2030-05-01T11:59:00Z", "False"),
        a_report("d", "2030-05-01T11:59:00Z"),
        a_report("e", "2030-05-01T11:59:00Z"),
    ]
    waits = {"type": "TrafficCarried", "status": "Unknown", "reason": "Accepting", "message": "waits for b"}
    members[3]["status"]["conditions"].append(waits)
    nodes = [a_node(name, taint, "gpu") for name in "bcdex"]
    finding = checks.startup_taint(mesh, members, [a_node("a", "gpu"), *nodes])
    assert finding is not None
    assert finding.verdict == "FAIL"
    assert finding.says == (
        "Nodes with wesher.dev/tunnels-not-ready:NoSchedule: b: its agent has not reported; "
        "c: PortTaken: UDP port 1 is taken; d: Accepting: waits for b; "
        "e: its agent reports no problem: see the operator's log if the taint stays; "
        "x: not a node of the mesh: see its nodeSelector, affinity and tolerations"
    )
    denied = {"type": "NodeReadiness", "status": "False", "reason": "MissingPermission", "message": "set it"}
    finding = checks.startup_taint(
        {**mesh, "status": {"conditions": [denied]}}, members, [a_node("e", taint)]
    )
    assert finding is not None
    assert finding.says.endswith("e: MissingPermission: set it")


def test_a_startup_taint_that_no_node_has_or_that_no_mesh_names_is_no_finding_to_act_on() -> None:
    mesh = {**MESH, "spec": {"nodeReadiness": {"taint": "gpu=no:NoSchedule"}}}
    finding = checks.startup_taint(mesh, [], [a_node("a", "gpu")])
    assert finding is not None
    assert (finding.verdict, finding.says) == ("ok", "no Node has gpu=no:NoSchedule")
    assert checks.startup_taint(MESH, [], [a_node("a", "gpu")]) is None
