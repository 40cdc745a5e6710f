"""One request at a time to an API server: where it is, by which right we ask, and the connection.

An agent asks a few questions an hour, but all that it loads it loads at every start,
while a device in user space carries nothing; and every node pays for it in memory.
Kubernetes' client library would double both. Only it reads kubeconfig files, which
agents in pods do not have, so it is an extra.

What HTTP looks like is left to `exchange`; what to ask and what answers mean, to `own_objects`.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from wesher_agent.kube.exchange import Answer, Exchange
from wesher_common.errors import ClusterUnavailable, InvalidSpec

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
HOST_VARIABLE, PORT_VARIABLE = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"
REQUEST_SECONDS = 10.0
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServer:
    """An API server and the right to ask it."""

    url: str
    tls: Callable[[], ssl.SSLContext]
    """Made for each request: certificates are renewed on disk."""
    authorization: Callable[[], Awaitable[str]]
    """The header's value, empty for none; a token lives an hour."""
    server_name: str = ""
    """What its certificate names, where that is not the URL's host."""

    async def request(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b""
    ) -> Answer:
        """Ask once.

        Args:
            method: of HTTP.
            path: with the query.
            headers: further ones.
            body: to send; empty sends none.

        Raises:
            ClusterUnavailable: there is no whole answer within 10 s.

        """
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return await self._request(method, path, headers, body)
        except ValueError as error:
            raise ClusterUnavailable(str(error)) from error
        except OSError as error:
            why = str(error) or f"timed out after {REQUEST_SECONDS:.0f} s"
            raise ClusterUnavailable(f"the API server does not answer: {why}") from error

    async def _request(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        url = urlsplit(self.url)
        secure = url.scheme == "https"
        fields = {"Host": url.netloc, **headers}
        if authorization := await self.authorization():
            fields["Authorization"] = authorization
        exchange = Exchange(method, f"{url.path.rstrip('/')}{path}", fields, body)
        reader, writer = await asyncio.open_connection(
            url.hostname,
            url.port or (443 if secure else 80),
            ssl=self.tls() if secure else None,
            server_hostname=self.server_name or None if secure else None,
        )
        try:
            writer.write(exchange.request)
            await writer.drain()
            while (answer := exchange.receive(await reader.read(_CHUNK))) is None:
                pass
            return answer
        finally:
            # Not closed: a server that is silent now would be waited for once more, for TLS' own farewell.
            writer.transport.abort()


def in_cluster(environ: Mapping[str, str] = os.environ, account: Path = ACCOUNT) -> ApiServer:
    """Return the API server of the cluster that this pod runs in, by the pod's ServiceAccount.

    Raises:
        InvalidSpec: this process does not run in a pod.

    """
    host, port = environ.get(HOST_VARIABLE, ""), environ.get(PORT_VARIABLE, "")
    if not host or not port or not (account / "token").is_file():
        raise InvalidSpec("--kubeconfig", "is required outside a pod")

    async def authorization() -> str:
        return f"Bearer {(account / 'token').read_text().strip()}"

    return ApiServer(
        url=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        tls=lambda: _trusting(cafile=str(account / "ca.crt")),
        authorization=authorization,
    )


async def from_kubeconfig(path: Path) -> ApiServer:
    """Return the API server of a kubeconfig's present context.

    Raises:
        InvalidSpec: the file cannot be used, or the package `kubernetes` is not installed.

    """
    # Only here: it takes as long as all other imports together, and only the extra `kubeconfig` installs it.
    try:
        from kubernetes.aio import config  # noqa: PLC0415
        from kubernetes.aio.client import Configuration  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InvalidSpec(
            "--kubeconfig",
            "needs the Python package kubernetes: "
            "install wesher with pip or pipx and the extra kubeconfig, as wesher[agent,kubeconfig]",
        ) from error

    settings = Configuration()
    try:
        await config.load_kube_config(str(path), client_configuration=settings)  # type: ignore[no-untyped-call]
    except Exception as error:
        # The library looks at nothing before it uses it, so a broken file may raise anything.
        said = " ".join(str(error).split())
        raise InvalidSpec("--kubeconfig", f"cannot be used: {said}", value=path) from error

    async def authorization() -> str:
        header = (await settings.auth_settings()).get("BearerToken", {})
        return str(header.get("value") or "")

    def tls() -> ssl.SSLContext:
        context = _trusting(cafile=settings.ssl_ca_cert, cadata=settings.ca_cert_data)
        if not settings.verify_ssl:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if settings.cert_file:
            context.load_cert_chain(settings.cert_file, settings.key_file)
        return context

    return ApiServer(
        url=settings.host, tls=tls, authorization=authorization, server_name=settings.tls_server_name or ""
    )


def _trusting(*, cafile: str | None, cadata: str | bytes | None = None) -> ssl.SSLContext:
    """Return what trusts an authority as Kubernetes' own clients do.

    Python since 3.13 also refuses certificates that do not name their issuer's key, which
    those of many clusters do not.
    """
    context = ssl.create_default_context(cafile=cafile, cadata=cadata)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
