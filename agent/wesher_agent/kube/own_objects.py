"""The two objects an agent may ask for: its mesh and its own WesherNode.

It owns the question whether an object is gone, which only the API server's own
NotFound answers. How a request is made is left to `api`, when to ask and what to
report to others.
"""

from __future__ import annotations

import json
from pathlib import Path

from wesher_agent.kube.api import ApiServer, from_kubeconfig, in_cluster
from wesher_agent.kube.node_spec import NodeSpec, Object, ObjectGone
from wesher_common.errors import ClusterUnavailable, InvalidSpec
from wesher_common.names import GROUP, VERSION, wesher_node_name

FIELD_MANAGER = "wesher-agent"
MESHES, NODES = "weshermeshes", "weshernodes"
_OK_BELOW, _NOT_FOUND = 300, 404


class OwnObjects:
    """The agent's client of the API server.

    Args:
        api: the API server to ask.
        mesh: name of the WesherMesh.
        node: name of the Kubernetes Node this agent runs on.

    """

    def __init__(self, api: ApiServer, mesh: str, node: str, *, agent_version: str) -> None:
        self._api = api
        self._headers = {"Accept": "application/json", "User-Agent": f"wesher-agent/{agent_version}"}
        self._mesh = mesh
        self._name = wesher_node_name(mesh, node)

    @classmethod
    async def connect(
        cls, kubeconfig: Path | None, mesh: str, node: str, *, agent_version: str
    ) -> OwnObjects:
        """Return a client, by a kubeconfig file or as the pod's service account.

        Raises:
            InvalidSpec: the file cannot be used, or this process does not run in a pod.

        """
        api = in_cluster() if kubeconfig is None else await from_kubeconfig(kubeconfig)
        return cls(api, mesh, node, agent_version=agent_version)

    async def mesh_uid(self) -> str:
        """Return the uid of the mesh; empty while it is being deleted.

        Raises:
            ObjectGone: it does not exist.
            ClusterUnavailable: the API server gave no answer.

        """
        metadata = (await self._call("GET", MESHES, self._mesh))["metadata"]
        return "" if "deletionTimestamp" in metadata else str(metadata.get("uid", ""))

    async def node(self) -> NodeSpec:
        """Return this node's WesherNode.

        Raises:
            ObjectGone: it does not exist.
            ClusterUnavailable: the API server gave no answer.
            InvalidSpec: it holds what it must not.

        """
        return NodeSpec.from_object(await self._call("GET", NODES, self._name))

    async def apply_status(self, status: Object) -> NodeSpec:
        """Write this node's status by server-side apply; return the object as it now stands.

        Raises: as `node`.
        """
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "WesherNode",
            "metadata": {"name": self._name},
            "status": dict(status),
        }
        return NodeSpec.from_object(await self._call("PATCH", NODES, self._name, body=body))

    async def is_gone(self, *, mesh_uid: str, node_uid: str) -> bool:
        """Tell whether this node is no longer meant to be in its mesh.

        Args:
            mesh_uid: of the mesh we belong to; another under its name is another mesh.
            node_uid: of our WesherNode; empty when it was never seen.

        Raises:
            ClusterUnavailable: the API server gave no answer, which never means gone.

        """
        try:
            if await self.mesh_uid() != mesh_uid:
                return True
            node = await self.node()
        except ObjectGone:
            return True
        except InvalidSpec:
            return False
        return node.deleting or bool(node_uid and node.uid != node_uid)

    async def _call(self, method: str, plural: str, name: str, *, body: Object | None = None) -> Object:
        path, headers, content = f"/apis/{GROUP}/{VERSION}/{plural}/{name}", self._headers, b""
        if body is not None:
            path += f"/status?fieldManager={FIELD_MANAGER}&force=true"
            headers = headers | {"Content-Type": "application/apply-patch+yaml"}
            content = json.dumps(body).encode()
        answer = await self._api.request(method, path, headers=headers, body=content)
        return read_answer(answer.status, answer.body, plural=plural, name=name)


def read_answer(status: int, text: bytes, *, plural: str, name: str) -> Object:
    """Return the object out of an API server's answer; it has ``metadata``.

    Raises:
        ObjectGone: a ``Status`` NotFound about exactly this object. A plain 404, which
            says that the kind is not served (yet), does not count.
        ClusterUnavailable: any other refusal, or another object: without its uid
            ours would be taken for gone.

    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ClusterUnavailable(f"the API server answered {status} without an object")
    if status < _OK_BELOW:
        metadata = content.get("metadata")
        if not isinstance(metadata, dict) or metadata.get("name") != name:
            raise ClusterUnavailable(f"the API server answered {status}, but not with {plural} {name}")
        return content
    details = content.get("details")
    if not isinstance(details, dict):
        details = {}
    named = (details.get("group"), details.get("kind"), details.get("name"))
    if status == _NOT_FOUND and content.get("reason") == "NotFound" and named == (GROUP, plural, name):
        raise ObjectGone(f"{plural} {name}")
    message = str(content.get("message", "")).replace("\n", " ")
    raise ClusterUnavailable(f"the API server answered {status}: {message}")
