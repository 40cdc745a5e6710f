"""Missing permissions and missing definitions: what the operator says of them, and what it mends itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wesher_agent.kube.own_objects import OwnObjects
from wesher_common.errors import ClusterUnavailable
from wesher_testing.cluster.api_server import ApiServer, KubectlFailed
from wesher_testing.cluster.helm import CHART, SOME_IMAGE, VERSIONS, HelmFailed, HelmVersion, run_helm
from wesher_testing.cluster.operator_process import (
    CRDS,
    MANIFESTS,
    NAMESPACE,
    SOON,
    eventually,
    install,
    run_operator,
)

Mesh = Callable[..., None]
Revoke = Callable[[str, str, str], None]
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:wesher-operator"
CHARTS = Path(__file__).parent / "chart"


@pytest.fixture
def revoke(api: ApiServer) -> Iterator[Revoke]:
    """Take a verb out of the operator's roles, as if by hand: ``revoke(verb, resource, group)``."""

    def take(verb: str, resource: str, group: str) -> None:
        for kind, place in (("clusterrole", ()), ("role", ("-n", NAMESPACE))):
            role = api.get(kind, "wesher-operator", *place)
            role["rules"] = [rule for old in role["rules"] for rule in without(old, verb, resource, group)]
            api.kubectl("replace", "-f", "-", stdin=json.dumps(role))
        question = ("auth", "can-i", verb, *asked(resource, group), f"--as={ACCOUNT}", "-n", NAMESPACE)
        eventually(lambda: api.kubectl(*question, check=False).startswith("no\n"), within=SOON)

    yield take
    api.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={MANIFESTS / 'wesher.yaml'}")


def asked(resource: str, group: str) -> tuple[str, ...]:
    """Return what ``kubectl auth can-i`` calls a resource."""
    name, _, subresource = resource.partition("/")
    whole = f"{name}.{group}" if group else name
    return (whole, f"--subresource={subresource}") if subresource else (whole,)


def without(rule: dict[str, Any], verb: str, resource: str, group: str) -> Iterator[dict[str, Any]]:
    """Yield what is left of a rule."""
    if group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]:
        others = [each for each in rule["resources"] if each != resource]
        verbs = [each for each in rule["verbs"] if each != verb]
        parts = [rule | {"resources": others}, rule | {"resources": [resource], "verbs": verbs}]
        yield from (part for part in parts if part["resources"] and part["verbs"])
    else:
        yield rule


@pytest.mark.parametrize(
    "missing",
    [
        ("watch", "weshernodes", "wesher.dev"),
        ("create", "leases", "coordination.k8s.io"),
        ("patch", "weshermeshes/status", "wesher.dev"),
    ],
)
def test_a_verb_that_the_operators_role_lacks_is_named_in_its_log(
    api: ApiServer, mesh: Mesh, revoke: Revoke, missing: tuple[str, str, str]
) -> None:
    api.kubectl("delete", "lease", "--all", "-n", NAMESPACE)
    mesh()
    revoke(*missing)
    verb, resource, group = missing
    with run_operator(api, name=f"without-{verb}") as operator:
        said = f'cannot {verb} resource "{resource}" in API group "{group}"'
        # A field of an event is quoted; the lines of kopf and the process's last line are not.
        eventually(lambda: said in operator.log.replace('\\"', '"'), within=SOON)
        assert "Traceback" not in operator.log


def test_an_operator_that_may_not_read_ends_with_the_reason_so_that_its_pod_shows_it(
    api: ApiServer, revoke: Revoke
) -> None:
    revoke("list", "nodes", "")
    with run_operator(api, name="blind") as operator:
        assert operator.process.wait(timeout=SOON) == 1
        assert operator.log.splitlines()[-1].startswith("wesher-operator: nodes is forbidden: User ")
    with run_operator(api, name="next") as operator:
        eventually(operator.leads, within=SOON)


def test_a_verb_that_is_missing_for_a_write_stands_in_the_meshs_condition(
    api: ApiServer, mesh: Mesh, revoke: Revoke
) -> None:
    revoke("create", "secrets", "")
    with run_operator(api, name="keyless"):
        mesh()
        ready = eventually(
            lambda: api.get("wmesh", "demo").get("status", {}).get("conditions", [{}])[0],
            within=SOON,
            until=lambda condition: condition.get("status") == "False",
        )
    assert ready["reason"] == "RefusedByCluster"
    assert 'cannot create resource "secrets"' in ready["message"]


@pytest.mark.parametrize("version", VERSIONS)
def test_helm_says_which_definitions_are_missing(
    installed: ApiServer, tmp_path: Path, version: HelmVersion
) -> None:
    installed.kubectl("delete", f"--filename={CRDS}")
    where = (
        f"--kubeconfig={installed.kubeconfig}",
        f"--namespace={NAMESPACE}",
        "--set=nameOverride=bare",
        SOME_IMAGE,
    )
    try:
        # For a moment a kind whose definition is gone is offered still.
        group = "/apis/wesher.dev/v1alpha1"
        eventually(lambda: "(NotFound)" in installed.kubectl("get", "--raw", group, check=False), within=SOON)
        with pytest.raises(HelmFailed, match='no matches for kind "WesherMesh"') as refused:
            run_helm(version, "install", "bare", CHART, "--skip-crds", *where, home=tmp_path)
        assert "ensure CRDs are installed first" in str(refused.value)
    finally:
        install(installed)


def test_definitions_that_are_missing_or_deleted_while_it_runs_are_made_by_the_operator(
    api: ApiServer, mesh: Mesh
) -> None:
    """After ``helm install --skip-crds``, and when somebody took them for leftovers."""
    api.kubectl("delete", f"--filename={CRDS}")
    try:
        with run_operator(api, name="first") as first:
            eventually(first.leads, within=SOON)
            eventually(lambda: api.kubectl("get", "wmesh", check=False), within=SOON, until=is_empty_list)
            eventually(lambda: accepts(mesh), within=SOON)
            eventually(lambda: api.get("wmesh", "demo").get("status"), within=SOON)

            api.kubectl("delete", f"--filename={CRDS}")
            assert first.process.wait(timeout=SOON) == 1
            assert "Traceback" not in first.log
            assert first.log.splitlines()[-1].startswith("wesher-operator: a watch ended, perhaps because ")
        with run_operator(api, name="second"):
            eventually(lambda: api.kubectl("get", "wmesh", check=False), within=SOON, until=is_empty_list)
    finally:
        install(api)


async def test_for_an_agent_a_missing_verb_is_named_and_kinds_that_are_gone_never_mean_that_it_is(
    api: ApiServer,
) -> None:
    """A 404 for a whole kind says nothing of one object, and tunnels must not go for somebody's clean-up."""
    api.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody", "namespace": NAMESPACE}}
    )
    nobody = api.kubeconfig_for(api.token("nobody", NAMESPACE), "nobody")
    client = await OwnObjects.connect(nobody, "m", "a", agent_version="0")
    with pytest.raises(ClusterUnavailable, match='cannot patch resource "weshernodes/status"'):
        await client.apply_status({})

    api.kubectl("delete", f"--filename={CRDS}")
    try:
        # For a moment the kind of a definition that is gone is served still.
        kind = "/apis/wesher.dev/v1alpha1/weshermeshes"
        eventually(lambda: "(NotFound)" in api.kubectl("get", "--raw", kind, check=False), within=SOON)
        client = await OwnObjects.connect(api.kubeconfig, "m", "a", agent_version="0")
        with pytest.raises(ClusterUnavailable, match="answered 404"):
            await client.is_gone(mesh_uid="u", node_uid="u")
    finally:
        install(api)


@pytest.mark.parametrize("values", [(), ("--values", "everything.values.yaml")])
def test_nothing_that_the_chart_makes_needs_more_than_pod_securitys_restricted(
    api: ApiServer, tmp_path: Path, values: tuple[str, ...]
) -> None:
    """Agents do; their DaemonSet is the operator's, and the namespace is labelled for them."""
    files = [each.replace("everything", f"{CHARTS}/everything") for each in values]
    namespace = ("--namespace", NAMESPACE, "--kube-version=1.34", "--skip-tests", SOME_IMAGE)
    rendered = run_helm(4, "template", "wesher", CHART, *namespace, *files, home=tmp_path)
    label = "pod-security.kubernetes.io/warn"
    api.kubectl("label", "namespace", NAMESPACE, f"{label}=restricted")
    try:
        apply = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--filename=-")
        unsafe = rendered.replace("runAsNonRoot: true", "runAsNonRoot: false")
        said = "violate PodSecurity"
        # From then on it is looked at.
        eventually(lambda: said in api.kubectl(*apply, stdin=unsafe, check=False), within=SOON)
        assert "violate" not in api.kubectl(*apply, stdin=rendered, check=False)
    finally:
        api.kubectl("label", "namespace", NAMESPACE, f"{label}-")


def is_empty_list(said: str) -> bool:
    return said == "No resources found\n"


def accepts(mesh: Mesh) -> bool:
    try:
        mesh()
    except KubectlFailed:
        return False
    return True
