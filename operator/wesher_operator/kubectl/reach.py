"""The user's way to the API server: kubeconfig and context as kubectl takes them, and plain requests.

Library errors end here, as one line that says who must act.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

import urllib3
from kubernetes.client import ApiClient, Configuration
from kubernetes.config import kube_config, load_kube_config
from urllib3.util.ssl_ import create_urllib3_context

from wesher_common.errors import ClusterUnavailable, InvalidSpec, WesherError
from wesher_common.version import VERSION

Object = dict[str, Any]
"""An object as JSON."""

_SECONDS = 15.0
_PAGE = "500"
_PART_OF = "app.kubernetes.io/part-of=wesher"
_JSON = "application/json"
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _CONFLICT = 401, 403, 404, 409


class NotPermitted(WesherError):  # noqa: N818 - reads as the fact it states
    """The user may not ask this; the text is the API server's."""


class ApiServer:
    """An API server, asked as the user of a kubeconfig.

    Args:
        api: a client.

    """

    def __init__(self, api: ApiClient) -> None:
        self._api = api
        self.now = datetime.now(UTC)
        """The API server's clock at its last answer: ours may be wrong, and ages are told by it."""

    def get(self, path: str, **query: str) -> Object | None:
        """Return an object or a list; None for what is not there.

        Raises:
            NotPermitted: the user may not.
            ClusterUnavailable: there is no answer, or none that can be read.

        """
        answer = self._ask("GET", path, query=query)
        return None if answer is None else _parsed(answer, path)

    def items(self, path: str, **query: str) -> list[Object]:
        """Return every object of a collection, none of a kind that is not served.

        Raises: as `get`.
        """
        found: list[Object] = []
        rest = ""
        while True:
            page = self.get(path, **query, limit=_PAGE, **({"continue": rest} if rest else {})) or {}
            found += page.get("items") or []
            rest = (page.get("metadata") or {}).get("continue") or ""
            if not rest:
                return found

    def text(self, path: str, **query: str) -> str:
        """Return what stands at a path as it is, such as a container's log; empty for what is not there.

        Raises: as `get`.
        """
        answer = self._ask("GET", path, query=query)
        return "" if answer is None else answer.decode(errors="replace")

    def create(self, path: str, body: Object) -> Object:
        """Create an object and return it as it now stands.

        Raises: as `get`.
        """
        answer = self._ask("POST", path, query={}, body=body)
        if answer is None:
            raise ClusterUnavailable(f"the API server does not serve {path}")
        return _parsed(answer, path)

    def patch(self, path: str, body: Object) -> Object:
        """Change an object, as a JSON merge patch says, and return it as it now stands.

        With a ``resourceVersion`` it is changed only if it is still as it was read.

        Raises: as `get`.
        """
        answer = self._ask("PATCH", path, query={}, body=body, content="application/merge-patch+json")
        if answer is None:
            raise ClusterUnavailable(f"{path} was deleted meanwhile")
        return _parsed(answer, path)

    def delete(self, path: str) -> None:
        """Delete an object; one that is gone is left alone.

        Raises: as `get`.
        """
        self._ask("DELETE", path, query={})

    def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        body: Object | None = None,
        content: str = _JSON,
    ) -> bytes | None:
        try:
            request = self._api.param_serialize(
                method,
                path,
                query_params=list(query.items()),
                header_params={"Accept": "application/json, */*", "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
            )
            response = self._api.call_api(*request, _request_timeout=_SECONDS)
            said = bytes(response.read() or b"")  # type: ignore[no-untyped-call]
        except (urllib3.exceptions.HTTPError, OSError) as error:
            where = self._api.configuration.host
            raise ClusterUnavailable(f"the API server {where} does not answer: {error}") from error
        if date := response.headers.get("Date"):
            self.now = parsedate_to_datetime(date)
        if response.status < 300:  # noqa: PLR2004 - HTTP's own line
            return said
        if response.status != _NOT_FOUND:
            self._refuse(response.status, said, f"{method} {path}")
        return None

    def _refuse(self, status: int, content: bytes, what: str) -> NoReturn:
        try:
            message = str(json.loads(content).get("message", ""))
        except (ValueError, AttributeError):
            message = ""
        if status == _FORBIDDEN:
            raise NotPermitted(message or f"{what}: forbidden")
        if status == _CONFLICT:
            raise ClusterUnavailable(f"{what}: the object changed meanwhile: run the command again")
        if status == _UNAUTHORIZED:
            host = self._api.configuration.host
            raise ClusterUnavailable(f"the API server {host} does not accept these credentials")
        raise ClusterUnavailable(f"{what}: {status} {message}")


def connect(kubeconfig: str, context: str) -> ApiServer:
    """Return the API server that kubectl would ask.

    Args:
        kubeconfig: a file; empty means ``$KUBECONFIG`` or ``~/.kube/config``.
        context: of that file; empty means its current one.

    Raises:
        InvalidSpec: the file cannot be used, or has no such context.

    """
    configuration = Configuration()
    # A command that waits through retries looks hung; whoever typed it can type it again.
    configuration.retries = False
    try:
        load_kube_config(  # type: ignore[no-untyped-call]
            kubeconfig or None, context or None, configuration, persist_config=False
        )
    except Exception as error:
        # The library looks at nothing before it uses it, so a broken file may raise anything.
        said = " ".join(str(error).split())
        flag, value = "--kubeconfig", kubeconfig or kube_config.KUBE_CONFIG_DEFAULT_LOCATION
        if context and f"name {context} in" in said:
            flag, value = "--context", context
        raise InvalidSpec(flag, f"cannot be used: {said}", value=value) from error
    api = ApiClient(configuration)
    api.rest_client.pool_manager.connection_pool_kw["ssl_context"] = _trust()
    api.user_agent = f"kubectl-wesher/{VERSION}"
    return ApiServer(api)


def operator_deployments(api: ApiServer, namespace: str) -> list[Object]:
    """Return the operators' Deployments of one namespace, or of all when that is empty.

    Raises:
        NotPermitted: the user may not look.
        ClusterUnavailable: there is no answer.

    """
    within = f"/namespaces/{namespace}" if namespace else ""
    return api.items(f"/apis/apps/v1{within}/deployments", labelSelector=_PART_OF)


def operator_deployment(api: ApiServer, namespace: str) -> Object:
    """Return the operator's Deployment, looked for in one namespace, or in all when that is empty.

    Raises:
        InvalidSpec: there is none, or one in each of several namespaces.
        NotPermitted: the user may not look.
        ClusterUnavailable: there is no answer.

    """
    found = operator_deployments(api, namespace)
    if not found:
        rule = "no operator found: install the chart, or set the namespace of the operator"
        raise InvalidSpec("--namespace", rule, value=namespace or None)
    if len(found) > 1:
        places = ", ".join(sorted({str(each["metadata"]["namespace"]) for each in found}))
        raise InvalidSpec("--namespace", f"several operators found, choose one of {places}")
    return found[0]


def _trust() -> ssl.SSLContext:
    """Return what judges certificates as kubectl does.

    Python's stricter rules since 3.13 shut out clusters whose certificates do not name their
    issuer's key. urllib3 adds the authorities that a kubeconfig names.
    """
    context = create_urllib3_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _parsed(content: bytes, path: str) -> Object:
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError) as error:
        raise ClusterUnavailable(f"GET {path}: the answer is not a JSON object") from error
