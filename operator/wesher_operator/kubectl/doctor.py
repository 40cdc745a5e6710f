"""Looks at an installation from the ground up, since what is broken below breaks what is above.

It fetches, `checks` judge. What the user may not see is said, and is no failure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from wesher_common.errors import InvalidSpec
from wesher_common.names import GROUP, MESH_LABEL, authority_secret_name, daemon_set_name
from wesher_operator.installation import installation_of
from wesher_operator.kubectl import checks, traffic_checks
from wesher_operator.kubectl.checks import Finding, unseen
from wesher_operator.kubectl.meshes import DEFINITIONS, find_meshes, key_secret_of, name_of, nodes_of
from wesher_operator.kubectl.reach import (
    ApiServer,
    NotPermitted,
    Object,
    operator_deployment,
    operator_deployments,
)
from wesher_operator.kubectl.traffic import is_on
from wesher_operator.reconcile.node_restriction import policy_name

_VERSION_LABEL = "app.kubernetes.io/version"
_REVIEWS = "/apis/authorization.k8s.io/v1"
_KUBE_SYSTEM = "kube-system"
_MTU_SETTINGS = (
    ("kube-flannel", "kube-flannel-cfg", re.compile(r'"MTU": *([0-9]+)', re.IGNORECASE)),
    (_KUBE_SYSTEM, "kube-flannel-cfg", re.compile(r'"MTU": *([0-9]+)', re.IGNORECASE)),
    (_KUBE_SYSTEM, "calico-config", re.compile(r'"veth_mtu": *([0-9]+)')),
)
"""The ConfigMaps of flannel's and Calico's manifests: namespace, name, and where the MTU is."""


class Right(NamedTuple):
    """What an account may do."""

    verb: str
    group: str
    """API group."""
    resource: str
    """Or ``resource/subresource``."""
    name: str = ""
    """Of the object; empty for all of that resource."""
    place: str | None = None
    """The namespace, empty for cluster-wide; None for the operator's, or cluster-wide for our own kinds."""


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
_ADMISSION = "admissionregistration.k8s.io"
_LEASES = "coordination.k8s.io"
_CLUSTER_WIDE = frozenset({"nodes"})
"""Watched and not ours: the namespace is left out, or a Role there would seem to be enough."""
AGENT_RIGHTS: tuple[Right, ...] = (
    Right("get", GROUP, "weshermeshes"),
    Right("get", GROUP, "weshernodes"),
    Right("patch", GROUP, "weshernodes/status"),
)
_USER_RIGHTS: tuple[Right, ...] = (
    Right("list", GROUP, "weshermeshes"),
    Right("list", GROUP, "weshernodes"),
    Right("list", "apps", "deployments"),
    Right("get", "apps", "daemonsets"),
    Right("list", "", "pods"),
    Right("get", "", "secrets"),
    Right("list", "", "nodes", place=""),
)
"""What this command itself needs to see everything."""


def operator_rights(agents: str, *, manages_definitions: bool) -> tuple[Right, ...]:
    """Return what the operator needs.

    Args:
        agents: name of the agents' ServiceAccount, after which their admission policy is named.
        manages_definitions: whether it applies the CustomResourceDefinitions.

    """
    policy = policy_name(agents)
    definitions = [f"{plural}.{GROUP}" for plural in DEFINITIONS] if manages_definitions else []
    return (
        *(
            Right(verb, group, resource, place="" if resource in _CLUSTER_WIDE else None)
            for verb in ("list", "watch")
            for group, resource in _WATCHED
        ),
        Right("list", "networking.k8s.io", "servicecidrs", place=""),
        Right("list", "discovery.k8s.io", "endpointslices", place="default"),
        *(Right("get", group, resource) for group, resource in ((GROUP, "weshermeshes"), ("", "configmaps"))),
        Right("patch", GROUP, "weshermeshes/status"),
        *(Right(verb, GROUP, "weshernodes") for verb in ("create", "patch", "delete")),
        Right("patch", GROUP, "weshernodes/status"),
        Right("patch", GROUP, "wesherpeers/status"),
        *(Right(verb, "", "secrets") for verb in ("get", "create")),
        *(Right(verb, "", "configmaps") for verb in ("create", "patch")),
        *(Right(verb, "apps", "daemonsets") for verb in ("create", "patch")),
        Right("patch", "", "pods"),
        Right("get", _ADMISSION, "validatingadmissionpolicies", policy, ""),
        Right("get", _ADMISSION, "validatingadmissionpolicybindings", policy, ""),
        Right("create", _LEASES, "leases"),
        *(Right(verb, _LEASES, "leases", checks.LEASE) for verb in ("get", "update")),
        Right("list", "events.k8s.io", "events"),
        Right("create", "events.k8s.io", "events", place="default"),
        *(
            Right(verb, "apiextensions.k8s.io", "customresourcedefinitions", name, "")
            for verb in ("get", "create", "patch")
            for name in definitions
        ),
    )


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
    yield from _seen(f"identity of {name}", lambda: [checks.identity(mesh, nodes_of(api, name))])
    authority = f"/api/v1/namespaces/{namespace}/secrets/{authority_secret_name(name)}"
    yield from _seen(
        f"authority of {name}", lambda: [checks.authority_secret(mesh, api.get(authority), namespace)]
    )
    yield from _seen(f"key of {name}", lambda: [checks.key_secret(mesh, api.get(secret), namespace)])
    yield from _traffic(api, namespace, mesh)
    yield from _seen(f"agents of {name}", lambda: [_agents(api, namespace, mesh)])
    yield from _seen(f"reports of {name}", lambda: [checks.reports(mesh, nodes_of(api, name), api.now)])
    yield from _seen(f"startup taint of {name}", partial(_if_any, partial(_startup_taint, api, mesh)))


def _traffic(api: ApiServer, namespace: str, mesh: Object) -> Iterator[Finding]:
    """Yield what is found about the cluster's own traffic; only the first if the mesh is not to carry any."""
    name = name_of(mesh)
    yield from _seen(
        f"traffic of {name}", lambda: [traffic_checks.traffic(mesh, nodes_of(api, name), api.now)]
    )
    if not is_on(mesh):
        return
    looks: dict[str, Callable[[], Finding | None]] = {
        "locations": lambda: traffic_checks.locations(mesh, nodes_of(api, name)),
        "node addresses": lambda: traffic_checks.addresses(mesh, nodes_of(api, name), _nodes(api)),
        "pod networks": lambda: traffic_checks.pod_networks(mesh, nodes_of(api, name), _nodes(api)),
        "network plugin": lambda: _network_plugin(api, mesh),
        "kube-proxy": lambda: _kube_proxy(api, mesh),
        "API server": lambda: _endpoints(api, namespace, mesh),
    }
    for check, look in looks.items():
        yield from _seen(f"{check} of {name}", partial(_if_any, look))


def _startup_taint(api: ApiServer, mesh: Object) -> Finding | None:
    asks = bool((mesh["spec"].get("nodeReadiness") or {}).get("taint"))
    return checks.startup_taint(mesh, nodes_of(api, name_of(mesh)), _nodes(api)) if asks else None


def _if_any(look: Callable[[], Finding | None]) -> list[Finding]:
    found = look()
    return [found] if found is not None else []


def _nodes(api: ApiServer) -> list[Object]:
    return api.items("/api/v1/nodes")


def _network_plugin(api: ApiServer, mesh: Object) -> Finding:
    cluster, cilium = _nodes(api), None
    for found in api.items("/apis/apps/v1/daemonsets", fieldSelector="metadata.name=cilium"):
        cilium = _config(api, found["metadata"]["namespace"], "cilium-config") or {}
    mtu = next(filter(None, (_mtu_of(api, *each) for each in _MTU_SETTINGS)), None)
    plugin = traffic_checks.recognized_plugin(cluster, cilium=cilium, mtu=mtu)
    return traffic_checks.network_plugin(mesh, plugin, nodes_of(api, name_of(mesh)))


def _mtu_of(api: ApiServer, namespace: str, name: str, pattern: re.Pattern[str]) -> int | None:
    text = "\n".join(f'"{key}": {value}' for key, value in (_config(api, namespace, name) or {}).items())
    found = pattern.search(text)
    return int(found[1]) if found is not None and int(found[1]) else None


def _kube_proxy(api: ApiServer, mesh: Object) -> Finding | None:
    config = _config(api, _KUBE_SYSTEM, "kube-proxy")
    return traffic_checks.kube_proxy(mesh, (config or {}).get("config.conf"))


def _endpoints(api: ApiServer, namespace: str, mesh: Object) -> Finding | None:
    dialled = _agent_pods(operator_deployment(api, namespace)).get("apiServer")
    slices = api.items(
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        labelSelector="kubernetes.io/service-name=kubernetes",
    )
    return traffic_checks.api_server(mesh, slices, dialled=str(dialled or ""))


def _config(api: ApiServer, namespace: str, name: str) -> dict[str, str] | None:
    found = api.get(f"/api/v1/namespaces/{namespace}/configmaps/{name}")
    return dict(found.get("data") or {}) if found is not None else None


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
        f"{right.verb} {right.resource}"
        for right in _USER_RIGHTS
        if not _review(api, "selfsubjectaccessreviews", {}, right, namespace)
    ]
    if denied:
        return unseen("your rights", f"you may not {'; '.join(denied)}")
    return Finding("your rights", "ok", f"you have all the permissions needed in namespace {namespace}")


def _roles(api: ApiServer, deployment: Object) -> list[Finding]:
    namespace = str(deployment["metadata"]["namespace"])
    operator = str(deployment["spec"]["template"]["spec"].get("serviceAccountName") or "default")
    agents = api.items(f"/apis/apps/v1/namespaces/{namespace}/daemonsets", labelSelector=MESH_LABEL)
    of_agents = str(_agent_pods(deployment).get("serviceAccountName") or "wesher-agent")
    manages = _environment(deployment).get("WESHER_MANAGE_CRDS") == "true"
    accounts = {operator: operator_rights(of_agents, manages_definitions=manages)}
    for daemon_set in agents:
        accounts[str(daemon_set["spec"]["template"]["spec"].get("serviceAccountName"))] = AGENT_RIGHTS
    return [
        checks.account_rights(
            f"{namespace}/{account}",
            [
                f"{right.verb} {right.resource}{f' {right.name}' if right.name else ''}"
                f"{f' in namespace {right.place}' if right.place else ''}"
                for right in rights
                if not _review(
                    api,
                    "subjectaccessreviews",
                    {"user": f"system:serviceaccount:{namespace}:{account}"},
                    right,
                    namespace,
                )
            ],
        )
        for account, rights in accounts.items()
    ]


def _agent_pods(deployment: Object) -> Object:
    """Return what the chart tells the operator about agents' pods; empty if that cannot be read."""
    try:
        return dict(json.loads(_environment(deployment).get("WESHER_AGENT_PODS", "")))
    except (ValueError, TypeError):
        return {}


def _environment(deployment: Object) -> dict[str, str]:
    containers = deployment["spec"]["template"]["spec"].get("containers") or [{}]
    return {entry["name"]: str(entry.get("value", "")) for entry in containers[0].get("env") or []}


def _review(api: ApiServer, kind: str, subject: Object, right: Right, namespace: str) -> bool:
    plural, _, subresource = right.resource.partition("/")
    place = "" if right.group == GROUP else namespace if right.place is None else right.place
    attributes = {
        "verb": right.verb,
        "group": right.group,
        "resource": plural,
        "subresource": subresource,
        "name": right.name,
        "namespace": place,
    }
    review = api.create(f"{_REVIEWS}/{kind}", {"spec": {**subject, "resourceAttributes": attributes}})
    return bool((review.get("status") or {}).get("allowed"))
