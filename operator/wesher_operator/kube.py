"""A thin client of the API server: what the operator asks and writes, nothing else.

Library errors end here: an API server that cannot be asked is
`ClusterUnavailable`, an object it refuses is `InvalidSpec`. Every write first
asks whether this process still leads.

Left to others: what to write (`reconcile.manifests`), watching (kopf, driven by
`handlers`), the lease (`leader`).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import kopf
from kubernetes.aio import config as client_config
from kubernetes.aio.client import ApiClient, Configuration

from wesher_common.errors import ClusterUnavailable, InvalidSpec
from wesher_common.event_logger import EventLogger
from wesher_common.names import GROUP, MESH_LABEL, VERSION
from wesher_common.version import VERSION as RELEASE

FIELD_MANAGER = "wesher-operator"
PAGE = 100
"""Objects in one answer to a list: a real Node takes some 15 kB as text, and several times that as dicts."""
WRITE_SECONDS = 3.5
"""How long a write may take. `may_write` holds until ``leader.RENEW_DEADLINE`` and the lease until
``leader.LEASE_SECONDS``: a write that began in time must have ended before another process may lead."""
_READ_SECONDS = 10.0
_WRITE_SPACING = 1 / 19
"""Fewer than 20 writes in any second: a mesh of thousands must not flood the API server."""
_FORBIDDEN, _NOT_FOUND, _CONFLICT = 403, 404, 409
_JSON = "application/json"
_METADATA_LIST = f"{_JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_TABLE = f"{_JSON};as=Table;g=meta.k8s.io;v=v1"
_REFUSED = frozenset({400, 422})
_NOT_AUTHORIZED = re.compile(r"\bUser \"[^\"]*\" cannot \w+ resource ")
"""How the API server words a missing permission (`responsewriters.Forbidden`). Admission answers 403 too."""
_log = EventLogger("wesher.kube")

Object = dict[str, Any]
"""An object as JSON; it stops being one where `reconcile.world` reads it."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list."""

    items: list[Object]
    version: int
    """The list's ``resourceVersion``, the same on all its pages."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object and where the API server keeps it."""

    kind: str
    plural: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    namespace: str = ""
    """Where all that concerns us lives; empty is the operator's own."""
    selector: str = ""
    """Of labels: which of its objects concern us; empty is all."""
    metadata_only: bool = False
    """Whether lists leave out all but the objects' metadata: what is not sent cannot leak."""

    @property
    def api_version(self) -> str:
        """``apiVersion`` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Return the URL path of the collection, an object or its subresource."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        within = f"/namespaces/{self.namespace or namespace}" if self.namespaced else ""
        return "/".join(part for part in (f"{root}{within}/{self.plural}", name, subresource) if part)


MESH = Kind("WesherMesh", "weshermeshes", GROUP, VERSION, namespaced=False)
WESHER_NODE = Kind("WesherNode", "weshernodes", GROUP, VERSION, namespaced=False)
WESHER_PEER = Kind("WesherPeer", "wesherpeers", GROUP, VERSION, namespaced=False)
NODE = Kind("Node", "nodes", namespaced=False)
SERVICE_CIDR = Kind("ServiceCIDR", "servicecidrs", "networking.k8s.io", namespaced=False)
API_SERVER_ENDPOINTS = Kind(
    "EndpointSlice",
    "endpointslices",
    "discovery.k8s.io",
    namespace="default",
    selector="kubernetes.io/service-name=kubernetes",
)
"""Where the API server itself listens, which it keeps under the Service ``kubernetes``."""
SECRET = Kind("Secret", "secrets")
"""Users' own keys too, which carry no label."""
CONFIG_MAP = Kind("ConfigMap", "configmaps", selector=MESH_LABEL)
DAEMON_SET = Kind("DaemonSet", "daemonsets", "apps", selector=MESH_LABEL)
POD = Kind("Pod", "pods", selector=MESH_LABEL)
EVERY_POD = Kind("Pod", "pods", namespaced=False)
"""Pods of all namespaces."""
EVENT = Kind("Event", "events", "events.k8s.io")
JOB = Kind("Job", "jobs", "batch")
ADMISSION_POLICY = Kind(
    "ValidatingAdmissionPolicy",
    "validatingadmissionpolicies",
    "admissionregistration.k8s.io",
    namespaced=False,
)
ADMISSION_BINDING = Kind(
    "ValidatingAdmissionPolicyBinding",
    "validatingadmissionpolicybindings",
    "admissionregistration.k8s.io",
    namespaced=False,
)
DEFINITION = Kind(
    "CustomResourceDefinition", "customresourcedefinitions", "apiextensions.k8s.io", namespaced=False
)


class NotPermitted(ClusterUnavailable):
    """The API server forbids what was asked; its text names verb and resource, for whoever writes roles."""


class WriteNotPermitted(InvalidSpec):
    """The operator's role does not allow a write."""


class ChangedMeanwhile(ClusterUnavailable):
    """The object is not in the version on which a write was based."""


class NotLeading(ClusterUnavailable):
    """This process may not write now, since its lease ran out."""


async def connect(kubeconfig: Path | None, identity: str) -> ApiClient:
    """Return a client, by a kubeconfig file or as the pod's ServiceAccount.

    Args:
        kubeconfig: the file; None means the pod's ServiceAccount.
        identity: who this process is; stands in the API server's audit log.

    Raises:
        InvalidSpec: the file cannot be read, or this is no pod.

    """
    configuration = Configuration()
    configuration.connection_pool_maxsize = 16
    # Python's stricter rules since 3.13 shut out clusters whose certificates do not name their issuer's
    # key; kubectl and Kubernetes' other clients take them.
    configuration.disable_strict_ssl_verification = True
    try:
        if kubeconfig is not None:
            await client_config.load_kube_config(  # type: ignore[no-untyped-call]
                str(kubeconfig), client_configuration=configuration
            )
        else:
            client_config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        # It reads the certificates.
        api = ApiClient(configuration)
    except Exception as error:
        if kubeconfig is None:
            raise InvalidSpec("--kubeconfig", "is required outside a pod") from error
        # The library looks at nothing before it uses it, so a broken file may raise anything.
        said = " ".join(str(error).split())
        raise InvalidSpec("--kubeconfig", f"cannot be used: {said}", value=kubeconfig) from error
    api.user_agent = f"wesher-operator/{RELEASE} ({identity})"
    return api


class _WatchConnection(kopf.ConnectionInfo):
    """Judges certificates as the client's own requests do."""

    def as_ssl_context(self) -> ssl.SSLContext:
        context = super().as_ssl_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


async def watch_credentials(api: ApiClient) -> kopf.ConnectionInfo:
    """Return the client's own way in, for kopf's watches."""
    configuration = api.configuration
    settings = await configuration.auth_settings()
    header = settings.get("BearerToken", {}).get("value") or ""
    scheme, _, token = header.rpartition(" ")
    return _WatchConnection(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        scheme=scheme or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        insecure=not configuration.verify_ssl,
        proxy_url=configuration.proxy,
        # As the client's own requests do.
        trust_env=True,
    )


class Cluster:
    """The API server, as the operator uses it.

    Args:
        api: the client; whoever made it closes it.
        namespace: the operator's own, where its namespaced objects live.
        may_write: tells before each write whether this process leads.

    """

    def __init__(self, api: ApiClient, namespace: str, may_write: Callable[[], bool] = lambda: True) -> None:
        self._api = api
        self.namespace = namespace
        self._may_write = may_write
        self._next_write = 0.0
        self._server_time: tuple[datetime, float] | None = None
        """The API server's time, and the loop's when the reply with it came."""

    def server_time(self) -> datetime | None:
        """Return the API server's time, by the ``Date`` of its last reply; None if that had none."""
        if self._server_time is None:
            return None
        moment, at = self._server_time
        return moment + timedelta(seconds=asyncio.get_running_loop().time() - at)

    async def pages(self, kind: Kind, *, fields: str = "") -> AsyncIterator[Page]:
        """Yield every object of a kind that concerns us (of one namespace, where it has any), at one moment.

        Args:
            kind: which.
            fields: a field selector, where only some are wanted.

        Raises:
            ClusterUnavailable: the API server does not answer, or not with a list; or the moment is so
                long ago by now that it has forgotten the rest.

        """
        selectors = {"labelSelector": kind.selector, "fieldSelector": fields}
        query = {"limit": str(PAGE), **{key: value for key, value in selectors.items() if value}}
        while True:
            accept = _METADATA_LIST if kind.metadata_only else _JSON
            answer = await self._call("GET", kind.path(self.namespace), query=query, accept=accept)
            if answer is None:
                raise ClusterUnavailable(f"the API server does not serve {kind.plural}.{kind.group}")
            try:
                items = answer["items"]
                if items is None and kind.metadata_only:
                    items = []  # a list of no metadata has none
                page = Page(list(items), int(answer["metadata"]["resourceVersion"]))
            except (KeyError, TypeError, ValueError) as error:
                raise ClusterUnavailable(f"{kind.plural}: the API server sent no list") from error
            yield page
            if not (rest := answer["metadata"].get("continue")):
                return
            query["continue"] = rest

    async def list(self, kind: Kind, *, fields: str = "") -> list[Object]:
        """Return every object of a kind at once; see `pages`."""
        return [item async for page in self.pages(kind, fields=fields) for item in page.items]

    async def rows(self, kind: Kind, *, fields: str, limit: int) -> Sequence[Mapping[str, str]]:
        """Return the table of the first objects of a kind, as kubectl prints it, each row by column.

        A row has a few hundred bytes, where the object has thousands.

        Args:
            kind: which.
            fields: a field selector.
            limit: the largest number of rows.

        Raises:
            ClusterUnavailable: the API server does not answer, or not with a table.

        """
        query = {"limit": str(limit), "fieldSelector": fields, "includeObject": "None"}
        answer = await self._call("GET", kind.path(self.namespace), query=query, accept=_TABLE)
        try:
            columns = [str(column["name"]) for column in (answer or {})["columnDefinitions"]]
            rows = [row["cells"] for row in (answer or {})["rows"] or []]
            return [dict(zip(columns, map(str, cells), strict=True)) for cells in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise ClusterUnavailable(f"{kind.plural}: the API server sent no table") from error

    async def get(self, kind: Kind, name: str) -> Object | None:
        """Return an object, or None when there is none of that name.

        Raises:
            ClusterUnavailable: the API server does not answer.

        """
        return await self._call("GET", kind.path(self.namespace, name))

    async def serves(self, kind: Kind) -> bool:
        """Tell whether the API server knows a kind.

        Raises:
            ClusterUnavailable: it does not answer.

        """
        return await self._call("GET", kind.path(self.namespace), query={"limit": "1"}) is not None

    async def create(self, kind: Kind, body: Object) -> Object | None:
        """Create an object; None when one of that name is there already.

        Raises:
            ClusterUnavailable: the API server does not answer, or this process does not lead.
            InvalidSpec: it refuses the object.

        """
        try:
            query = {"fieldManager": FIELD_MANAGER}
            body = {"apiVersion": kind.api_version, "kind": kind.kind, **body}
            namespace = body["metadata"].get("namespace", self.namespace)
            return await self._write("POST", kind.path(namespace), query=query, body=body)
        except _ConflictError:
            return None

    async def apply(self, kind: Kind, body: Object, *, subresource: str = "") -> Object:
        """Make an object be as given, by server-side apply; return it as it now stands.

        Raises:
            ClusterUnavailable: the API server does not answer, or this process does not lead, or the
                object is not the one meant (by its uid) any more.
            InvalidSpec: it refuses the object.

        """
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **body}
        name = body["metadata"]["name"]
        try:
            applied = await self._write(
                "PATCH",
                kind.path(self.namespace, name, subresource),
                query={"fieldManager": FIELD_MANAGER, "force": "true"},
                body=body,
                content="application/apply-patch+yaml",
            )
        except _ConflictError as error:
            raise ClusterUnavailable(f"{kind.kind} {name} changed during the write: {error}") from error
        if applied is None:
            raise ClusterUnavailable(f"{kind.kind} {name} was deleted during the write")
        return applied

    async def annotate(self, kind: Kind, name: str, annotations: Mapping[str, str | None]) -> Object | None:
        """Set annotations of an object, or remove those without a value; return it, or None if it is gone.

        Raises:
            ClusterUnavailable: the API server does not answer, or this process does not lead, or others
                wrote the object all the while.
            InvalidSpec: it refuses the change.

        """
        try:
            return await self._write(
                "PATCH",
                kind.path(self.namespace, name),
                query={"fieldManager": FIELD_MANAGER},
                body={"metadata": {"annotations": dict(annotations)}},
                content="application/merge-patch+json",
            )
        except _ConflictError as error:
            raise ClusterUnavailable(f"{kind.kind} {name} changed during the write: {error}") from error

    async def patch(
        self, kind: Kind, name: str, body: Object, *, subresource: str = "", merges_lists: bool = False
    ) -> Object | None:
        """Change the given fields of an object; return it, or None if it is gone.

        Args:
            kind: of the object.
            name: of the object.
            body: the fields. With ``metadata.resourceVersion``, only that version is changed.
            subresource: such as ``status``.
            merges_lists: whether a list's entries are merged by their key, as Kubernetes' own kinds define
                it (a strategic merge patch), or the list is replaced.

        Raises:
            ChangedMeanwhile: the object has another version.
            ClusterUnavailable: the API server does not answer, or this process does not lead.
            WriteNotPermitted: the operator's role does not allow it.
            InvalidSpec: the API server refuses the change.

        """
        form = "strategic-merge-patch" if merges_lists else "merge-patch"
        try:
            return await self._write(
                "PATCH",
                kind.path(self.namespace, name, subresource),
                query={"fieldManager": FIELD_MANAGER},
                body=body,
                content=f"application/{form}+json",
            )
        except _ConflictError as error:
            raise ChangedMeanwhile(f"{kind.kind} {name} changed during the write: {error}") from error

    async def delete(self, kind: Kind, name: str, *, uid: str) -> None:
        """Delete exactly that object; one that is gone, or another by now, is left alone.

        Raises:
            ClusterUnavailable: the API server does not answer, or this process does not lead.
            InvalidSpec: it refuses the deletion.

        """
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self._write("DELETE", kind.path(self.namespace, name), body=body)
        except _ConflictError:
            _log.debug("not deleted: the object was replaced", kind=kind.kind, name=name)

    async def _write(self, method: str, path: str, **request: Any) -> Object | None:
        loop = asyncio.get_running_loop()
        self._next_write = max(self._next_write + _WRITE_SPACING, loop.time())
        await asyncio.sleep(self._next_write - loop.time())
        if not self._may_write():
            raise NotLeading("this process no longer holds the lease")
        return await self._call(method, path, seconds=WRITE_SECONDS, **request)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content: str = _JSON,
        accept: str = _JSON,
        seconds: float = _READ_SECONDS,
    ) -> Object | None:
        """Ask once; None means 404."""
        try:
            request = await self._api.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params={"Accept": accept, "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._api.call_api(*request, _request_timeout=seconds)
            text = await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ClusterUnavailable(f"the API server does not answer: {error or 'timeout'}") from error
        self._note_time(response.headers.get("Date", ""))
        return read_answer(response.status, text, method, path)

    def _note_time(self, text: str) -> None:
        try:
            moment = parsedate_to_datetime(text).astimezone(UTC)
        except ValueError:
            return
        self._server_time = moment, asyncio.get_running_loop().time()


class _ConflictError(Exception):
    """409: an object of that name is there, or it is not the one meant."""


def read_answer(status: int, text: bytes, method: str, path: str) -> Object | None:
    """Return what the API server sent; None for what is not there.

    Raises:
        ClusterUnavailable: it cannot say, or not now.
        WriteNotPermitted: the operator's role does not allow a write.
        InvalidSpec: it, or a policy or quota of the cluster, refuses a write; naming the field where it does.

    """
    what = f"{method} {path}"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if status == _NOT_FOUND:
        return None
    if not isinstance(content, dict):
        # What stands before an API server answers in its own way: a page, or a word.
        raise ClusterUnavailable(f"{what}: the API server answered {status} without an object")
    if status < 300:  # noqa: PLR2004 - HTTP's own line
        return content
    message = str(content.get("message", "")).replace("\n", " ")
    if status == _CONFLICT:
        raise _ConflictError(message)
    if status == _FORBIDDEN and method != "GET" and _NOT_AUTHORIZED.search(message):
        raise WriteNotPermitted(what, message)
    if status in _REFUSED or (status == _FORBIDDEN and method != "GET"):
        causes = (content.get("details") or {}).get("causes") or [{}]
        raise InvalidSpec(str(causes[0].get("field") or what), str(causes[0].get("message") or message))
    if status == _FORBIDDEN:
        raise NotPermitted(f"{message}: the operator's role does not allow this verb")
    raise ClusterUnavailable(f"{what}: {status} {message}")


def process_identity() -> str:
    """Return a name for this process that no other has: host, process and a random part."""
    return f"{os.uname().nodename}-{os.getpid()}-{os.urandom(3).hex()}"
