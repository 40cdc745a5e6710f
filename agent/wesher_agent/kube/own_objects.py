"""The two objects an agent may ask for: its mesh and its own WesherNode.

Library errors end here, as `ClusterUnavailable`. It owns the question whether an
object is gone, which only the API server's own NotFound answers; when to ask
and what to report is left to others.
"""

from __future__ import annotations

import json
from pathlib import Path

import aiohttp
from kubernetes.aio import config as client_config
from kubernetes.aio.client import ApiClient, Configuration

from wesher_agent.kube.node_spec import NodeSpec, Object, ObjectGone
from wesher_common.errors import ClusterUnavailable, InvalidSpec
from wesher_common.names import GROUP, VERSION, wesher_node_name

FIELD_MANAGER = "wesher-agent"
REQUEST_SECONDS = 10.0
MESHES, NODES = "weshermeshes", "weshernodes"
_OK_BELOW, _NOT_FOUND = 300, 404


class OwnObjects:
    """The agent's client of the API server.

    Args:
        api: the connection; `aclose` closes it.
        mesh: name of the WesherMesh.
        node: name of the Kubernetes Node this agent runs on.

    """

    def __init__(self, api: ApiClient, mesh: str, node: str) -> None:
        self._api = api
        self._mesh = mesh
        self._name = wesher_node_name(mesh, node)

    @classmethod
    async def connect(
        cls, kubeconfig: Path | None, mesh: str, node: str, *, agent_version: str
    ) -> OwnObjects:
        """Return a client, by a kubeconfig file or as the pod's service account.

        Raises:
            InvalidSpec: the file cannot be used, or this is no pod.

        """
        configuration = Configuration()
        configuration.connection_pool_maxsize = 2
        try:
            if kubeconfig is not None:
                await client_config.load_kube_config(str(kubeconfig), client_configuration=configuration)  # type: ignore[no-untyped-call]
            else:
                client_config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        except (client_config.ConfigException, OSError, ValueError) as error:
            if kubeconfig is None:
                raise InvalidSpec("--kubeconfig", "must be given outside a pod") from error
            raise InvalidSpec("--kubeconfig", f"cannot be used: {error}", value=kubeconfig) from error
        api = ApiClient(configuration)
        api.user_agent = f"wesher-agent/{agent_version}"
        return cls(api, mesh, node)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._api.close()  # type: ignore[no-untyped-call]

    async def mesh_uid(self) -> str:
        """Return the uid of the mesh; empty while it is being deleted.

        Raises:
            ObjectGone: it does not exist.
            ClusterUnavailable: nobody could say.

        """
        metadata = (await self._call("GET", MESHES, self._mesh)).get("metadata", {})
        return "" if "deletionTimestamp" in metadata else str(metadata.get("uid", ""))

    async def node(self) -> NodeSpec:
        """Return this node's WesherNode.

        Raises:
            ObjectGone: it does not exist.
            ClusterUnavailable: nobody could say.
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
            ClusterUnavailable: nobody could say, which never means gone.

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
        path = f"/apis/{GROUP}/{VERSION}/{plural}/{name}"
        query = []
        if body is not None:
            path += "/status"
            query = [("fieldManager", FIELD_MANAGER), ("force", "true")]
        try:
            request = await self._api.param_serialize(
                method,
                path,
                query_params=query,
                header_params={"Accept": "application/json", "Content-Type": "application/apply-patch+yaml"},
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._api.call_api(*request, _request_timeout=REQUEST_SECONDS)
            text = await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ClusterUnavailable(f"the API server does not answer: {error or 'timeout'}") from error
        return read_answer(response.status, text, plural=plural, name=name)


def read_answer(status: int, text: bytes, *, plural: str, name: str) -> Object:
    """Return the object out of an API server's answer.

    Raises:
        ObjectGone: a ``Status`` NotFound about exactly this object. A plain 404, which
            says that the kind is not served (yet), is none.
        ClusterUnavailable: any other refusal.

    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ClusterUnavailable(f"the API server answered {status} without an object")
    if status < _OK_BELOW:
        return content
    details = content.get("details")
    if not isinstance(details, dict):
        details = {}
    named = (details.get("group"), details.get("kind"), details.get("name"))
    if status == _NOT_FOUND and content.get("reason") == "NotFound" and named == (GROUP, plural, name):
        raise ObjectGone(f"{plural} {name}")
    message = str(content.get("message", "")).replace("\n", " ")
    raise ClusterUnavailable(f"the API server answered {status}: {message}")
