"""Looks at an installation from the ground up, since what is broken below breaks what is above.

It fetches, `checks` judge. What the user may not see is said, and is no failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from wesher_common.errors import InvalidSpec
from wesher_common.names import GROUP, MESH_LABEL, daemon_set_name
from wesher_operator.installation import installation_of
from wesher_operator.kubectl import checks
from wesher_operator.kubectl.checks import Finding, unseen
from wesher_operator.kubectl.meshes import DEFINITIONS, find_meshes, key_secret_of, name_of, nodes_of
from wesher_operator.kubectl.reach import (
    ApiServer,
    NotPermitted,
    Object,
    operator_deployment,
    operator_deployments,
)

_VERSION_LABEL = "app.kubernetes.io/version"
_REVIEWS = "/apis/authorization.k8s.io/v1"
_Right = tuple[str, str, str]
"""Verb, API group, and resource or resource/subresource."""
_WATCHED = (
    (GROUP, "weshermeshes"),
    (GROUP, "weshernodes"),
    (GROUP, "wesherpeers"),
    ("", "nodes"),
    ("", "secrets"),
    ("", "configmaps"),
    ("apps", "daemonsets"),
    ("", "pods"),
)
OPERATOR_RIGHTS: tuple[_Right, ...] = (
    *((verb, *kind) for verb in ("list", "watch") for kind in _WATCHED),
    ("list", "networking.k8s.io", "servicecidrs"),
    ("list", "discovery.k8s.io", "endpointslices"),
    ("patch", GROUP, "weshermeshes/status"),
    ("create", GROUP, "weshernodes"),
    ("patch", GROUP, "weshernodes"),
    ("delete", GROUP, "weshernodes"),
    ("patch", GROUP, "weshernodes/status"),
    ("patch", GROUP, "wesherpeers/status"),
    ("get", "", "secrets"),
    ("create", "", "secrets"),
    ("create", "", "configmaps"),
    ("patch", "", "configmaps"),
    ("create", "apps", "daemonsets"),
    ("patch", "apps", "daemonsets"),
    ("patch", "", "pods"),
)
_ELSEWHERE = {"nodes": "", "servicecidrs": "", "endpointslices": "default"}
"""Where that is, which lives not in the operator's namespace. Of what is cluster-wide the namespace is left
out, or a Role there would seem to be enough."""
AGENT_RIGHTS: tuple[_Right, ...] = (
    ("get", GROUP, "weshermeshes"),
    ("get", GROUP, "weshernodes"),
    ("patch", GROUP, "weshernodes/status"),
)
_USER_RIGHTS: tuple[_Right, ...] = (
    ("list", GROUP, "weshermeshes"),
    ("list", GROUP, "weshernodes"),
    ("list", "apps", "deployments"),
    ("get", "apps", "daemonsets"),
    ("list", "", "pods"),
    ("get", "", "secrets"),
)
"""What this command itself needs to see everything."""


def examine(api: ApiServer, namespace: str, mesh: str) -> Iterator[Finding]:
    """Yield one finding a check, from the ground up.

    Args:
        api: the API server, as the user.
        namespace: the operator's; empty finds it.
        mesh: which; empty means every one.

    Raises:
        ClusterUnavailable: the API server does not answer.

    """
    try:
        deployment = operator_deployment(api, namespace)
    except (InvalidSpec, NotPermitted) as error:
        yield Finding("operator runs", "FAIL", str(error), "give its namespace with -n NAMESPACE")
        return
    place = str(deployment["metadata"]["namespace"])
    yield _own_rights(api, place)
    release = str((deployment["metadata"].get("labels") or {}).get(_VERSION_LABEL, ""))
    yield from _seen("definitions", lambda: [checks.definitions(_definitions(api), release)])
    yield from _seen("operator runs", lambda: _operator(api, deployment))
    yield from _seen("pod security", lambda: _pod_security(api, place))
    yield from _seen("roles", lambda: _roles(api, deployment))
    try:
        meshes = find_meshes(api, mesh)
    except InvalidSpec as error:
        yield Finding("meshes", "FAIL", str(error), "create one: see kubectl explain wmesh.spec")
    except NotPermitted as error:
        yield unseen("meshes", str(error))
    else:
        for each in meshes:
            yield from _of_mesh(api, place, each)


def _of_mesh(api: ApiServer, namespace: str, mesh: Object) -> Iterator[Finding]:
    name, installation = name_of(mesh), installation_of(mesh)
    if installation not in {"", namespace}:
        yield from _seen(f"mesh {name}", lambda: [_elsewhere_run(api, mesh, installation, namespace)])
        return
    yield checks.mesh_conditions(mesh)
    secret = f"/api/v1/namespaces/{namespace}/secrets/{key_secret_of(mesh)}"
    yield from _seen(f"key of {name}", lambda: [checks.key_secret(mesh, api.get(secret), namespace)])
    yield from _seen(f"agents of {name}", lambda: [_agents(api, namespace, mesh)])
    yield from _seen(f"reports of {name}", lambda: [checks.reports(mesh, nodes_of(api, name), api.now)])


def _elsewhere_run(api: ApiServer, mesh: Object, installation: str, here: str) -> Finding:
    return checks.elsewhere(mesh, installation, here, runs=bool(operator_deployments(api, installation)))


def _seen(check: str, look: Callable[[], Sequence[Finding]]) -> Sequence[Finding]:
    try:
        return look()
    except NotPermitted as error:
        return [unseen(check, str(error))]


def _definitions(api: ApiServer) -> dict[str, Object | None]:
    root = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    return {plural: api.get(f"{root}/{plural}.{GROUP}") for plural in DEFINITIONS}


def _operator(api: ApiServer, deployment: Object) -> list[Finding]:
    namespace = deployment["metadata"]["namespace"]
    labels = deployment["spec"]["selector"]["matchLabels"]
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    pods = api.items(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)
    lease = api.get(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{checks.LEASE}")
    return checks.operator(deployment, pods, lease, api.now)


def _pod_security(api: ApiServer, namespace: str) -> list[Finding]:
    found = api.get(f"/api/v1/namespaces/{namespace}")
    return [checks.pod_security(found)] if found is not None else []


def _agents(api: ApiServer, namespace: str, mesh: Object) -> Finding:
    name = name_of(mesh)
    daemon_set = api.get(f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{daemon_set_name(name)}")
    pods = api.items(f"/api/v1/namespaces/{namespace}/pods", labelSelector=f"{MESH_LABEL}={name}")
    events = api.items(
        f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", fieldSelector="reason=FailedCreate"
    )
    return checks.agents(mesh, daemon_set, pods, events)


def _own_rights(api: ApiServer, namespace: str) -> Finding:
    denied = [
        f"{verb} {resource}"
        for verb, group, resource in _USER_RIGHTS
        if not _review(api, "selfsubjectaccessreviews", {}, (verb, group, resource), namespace)
    ]
    if denied:
        return unseen("your rights", f"you may not {'; '.join(denied)}")
    return Finding("your rights", "ok", f"you have all the permissions needed in namespace {namespace}")


def _roles(api: ApiServer, deployment: Object) -> list[Finding]:
    namespace = str(deployment["metadata"]["namespace"])
    operator = str(deployment["spec"]["template"]["spec"].get("serviceAccountName") or "default")
    agents = api.items(f"/apis/apps/v1/namespaces/{namespace}/daemonsets", labelSelector=MESH_LABEL)
    accounts = {operator: OPERATOR_RIGHTS}
    for daemon_set in agents:
        accounts[str(daemon_set["spec"]["template"]["spec"].get("serviceAccountName"))] = AGENT_RIGHTS
    return [
        checks.account_rights(
            f"{namespace}/{account}",
            [
                f"{verb} {resource}{_elsewhere(resource)}"
                for verb, group, resource in rights
                if not _review(
                    api,
                    "subjectaccessreviews",
                    {"user": f"system:serviceaccount:{namespace}:{account}"},
                    (verb, group, resource),
                    namespace,
                )
            ],
        )
        for account, rights in accounts.items()
    ]


def _elsewhere(resource: str) -> str:
    place = _ELSEWHERE.get(resource)
    return f" in namespace {place}" if place else ""


def _review(api: ApiServer, kind: str, subject: Object, right: _Right, namespace: str) -> bool:
    verb, group, resource = right
    plural, _, subresource = resource.partition("/")
    attributes = {
        "verb": verb,
        "group": group,
        "resource": plural,
        "subresource": subresource,
        "namespace": "" if group == GROUP else _ELSEWHERE.get(plural, namespace),
    }
    review = api.create(f"{_REVIEWS}/{kind}", {"spec": {**subject, "resourceAttributes": attributes}})
    return bool((review.get("status") or {}).get("allowed"))
