"""The commands that do one thing and end: ``uninstall`` and ``check``.

``uninstall`` runs before Helm deletes the release, while the agents' permissions
still stand: agents that end after those are gone cannot tell a deleted mesh from a
restart, and would leave their devices behind. Tools that render the chart without
Helm's hooks make the hook's Job like any other object, and it runs at once: so it
looks for a sign that Helm runs it (`helm_release`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from wesher_common.errors import ClusterUnavailable, InvalidSpec, WesherError
from wesher_common.event_logger import EventLogger
from wesher_common.names import MESH_LABEL, member_name
from wesher_operator.helm_release import not_uninstalled, records_of
from wesher_operator.kube import JOB, MESH, POD, WESHER_NODE, Cluster, Object

RELEASE_NAME = "meta.helm.sh/release-name"
RELEASE_NAMESPACE = "meta.helm.sh/release-namespace"
_POLL_SECONDS = 0.5
_MAX_NAMED = 3
_log = EventLogger("wesher.operator")
T = TypeVar("T")


async def uninstall(cluster: Cluster, release: str, *, within: float, hook_job: str = "") -> None:
    """Delete a release's meshes and wait until their agents have left; what is left over is only named.

    Args:
        cluster: the API server.
        release: the Helm release, in the cluster's namespace.
        within: seconds to wait at most.
        hook_job: the Job that runs this as Helm's pre-delete hook. Unless Helm is uninstalling the
            release, nothing is deleted. Empty: a person runs this.

    """
    is_confirmed = not hook_job
    try:
        async with asyncio.timeout(within):
            if hook_job:
                reason = await _persistently(lambda: _not_uninstalled(cluster, release, hook_job))
                if reason:
                    _log.warning(
                        "nothing deleted: helm is not uninstalling the release",
                        release=release,
                        reason=reason,
                    )
                    return
                is_confirmed = True
            await _uninstall(cluster, release)
    except TimeoutError:
        if is_confirmed:
            _log.warning("some agents have not left: uninstall continues without them", seconds=within)
        else:
            reason = "the API server did not show whether Helm is uninstalling"
            _log.warning(
                "nothing deleted: helm is not uninstalling the release", release=release, reason=reason
            )
    except WesherError as error:
        # A cluster in trouble must still be able to get rid of us.
        _log.warning("meshes not deleted", error=error)


async def _not_uninstalled(cluster: Cluster, release: str, hook_job: str) -> str:
    return not_uninstalled(await cluster.get(JOB, hook_job), await cluster.list(records_of(release)))


async def _uninstall(cluster: Cluster, release: str) -> None:
    mine: list[Object] = []
    for mesh in await _persistently(lambda: cluster.list(MESH)):
        if _belongs_to(mesh["metadata"].get("annotations") or {}, release, cluster.namespace):
            mine.append(mesh)
        else:
            name = mesh["metadata"]["name"]
            _log.warning("mesh left running: another release created it", mesh=name)
    names: set[str] = set()
    for mesh in mine:
        name, uid = mesh["metadata"]["name"], mesh["metadata"]["uid"]
        try:
            await _persistently(partial(cluster.delete, MESH, name, uid=uid))
        except InvalidSpec as error:
            _log.warning("mesh not deleted", mesh=name, error=error)
        else:
            names.add(name)
            _log.info("mesh deleted", mesh=name)
    told: set[str] = set()
    while stragglers := await _persistently(lambda: _agents(cluster, names)):
        if stragglers != told:
            _log.info("waiting for agents to leave", nodes=sorted(stragglers))
            told = stragglers
        await asyncio.sleep(_POLL_SECONDS)
    _log.info("all agents have left", meshes=sorted(names))


async def _persistently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask an API server until it answers: what is given up here leaves devices behind on every node."""
    said = ""
    while True:
        try:
            return await ask()
        except ClusterUnavailable as error:
            if str(error) != said:
                _log.warning("waiting for the api server", error=error)
            said = str(error)
            await asyncio.sleep(_POLL_SECONDS)


def _belongs_to(annotations: Mapping[str, str], release: str, namespace: str) -> bool:
    return (annotations.get(RELEASE_NAME), annotations.get(RELEASE_NAMESPACE)) == (release, namespace)


async def _agents(cluster: Cluster, meshes: set[str]) -> set[str]:
    """Return the nodes on which agents of these meshes still run."""
    return {
        str((pod.get("spec") or {}).get("nodeName", "none yet"))
        for pod in await cluster.list(POD)
        if (pod["metadata"].get("labels") or {}).get(MESH_LABEL) in meshes
    }


async def check(cluster: Cluster, mesh: str, *, within: float) -> str:
    """Wait until a mesh is ready and its nodes all reach each other; return what hinders it, or nothing.

    It is agents that measure: each asks its peers through the tunnel. A node is Ready also
    while a few of them do not answer; here all must.

    Args:
        cluster: the API server.
        mesh: its name.
        within: seconds to wait at most.

    """
    hindrance = "its status has not been read yet"
    try:
        async with asyncio.timeout(within):
            while True:
                try:
                    hindrance = await _hindrance(cluster, mesh)
                except ClusterUnavailable as error:
                    hindrance = str(error)
                if not hindrance:
                    return ""
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        return hindrance


async def _hindrance(cluster: Cluster, name: str) -> str:
    mesh = await cluster.get(MESH, name)
    if mesh is None:
        return "no such WesherMesh"
    return not_ready(mesh) or unreached(mesh, await cluster.list(WESHER_NODE))


def not_ready(mesh: Object) -> str:
    """Return why a mesh, or one of its nodes, is not ready; empty if all are.

    A mesh is Ready also while a new node starts.
    """
    status: Mapping[str, Any] = mesh.get("status") or {}
    if status.get("observedGeneration") != mesh["metadata"]["generation"]:
        return "the operator has not processed its spec yet"
    found = {entry["type"]: entry for entry in status.get("conditions") or []}
    for kind in ("Ready", "Converged"):
        entry = found.get(kind, {})
        if entry.get("status") != "True":
            reason = entry.get("message") or "no reason reported yet"
            return f"{kind} is {entry.get('status', 'Unknown')}: {reason}"
    members = status.get("members") or {}
    return "" if members.get("ready") == members.get("desired") else str(found["Ready"].get("message", ""))


def unreached(mesh: Object, nodes: Iterable[Object]) -> str:
    """Return which nodes of a mesh do not reach which others through the tunnel, empty for none.

    Machines outside are left out: they may be switched off as their users like.

    Args:
        mesh: the WesherMesh.
        nodes: WesherNodes, other meshes' among them.

    """
    name, cluster_name = mesh["metadata"]["name"], str(mesh["spec"].get("clusterName", ""))
    mine = {
        member_name(node["spec"]["nodeName"], cluster_name): node
        for node in nodes
        if (node["metadata"].get("labels") or {}).get(MESH_LABEL) == name
    }
    pairs = [
        f"{member} cannot reach {other} through the tunnel"
        for member, node in sorted(mine.items())
        for other in ((node.get("status") or {}).get("peers") or {}).get("unreachable") or []
        if other in mine
    ]
    more = f" and {len(pairs) - _MAX_NAMED} more" if len(pairs) > _MAX_NAMED else ""
    return "; ".join(pairs[:_MAX_NAMED]) + more
