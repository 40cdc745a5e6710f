"""Whom an agent in a pod trusts to be its API server, over real TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from wesher_agent.kube import api as api_module
from wesher_agent.kube.api import Answer, ApiServer, in_cluster
from wesher_common.errors import ClusterUnavailable
from wesher_testing.virtual.loop_clock import LoopClock

SECONDS = 20.0
"""Less than the half minute for which TLS waits for a farewell."""


@dataclass(frozen=True)
class _Authority:
    """A cluster's authority, whose certificates say of nobody by which key they were signed, as many do."""

    name: x509.Name
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls) -> _Authority:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
        return cls(name, ec.generate_private_key(ec.SECP256R1()))

    def trust(self, account: Path) -> None:
        """Have a pod's account trust this authority."""
        usage = x509.BasicConstraints(ca=True, path_length=None)
        own = self._sign(self.name, self.key, (usage, True))
        (account / "ca.crt").write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def certify(self, address: str, file: Path) -> ssl.SSLContext:
        """Return what a server at an address shows; ``file`` holds it."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
        certificate = self._sign(subject, key, (names, False))
        form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        file.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, *form)
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extension: tuple[x509.ExtensionType, bool],
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder(self.name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(*extension)
            .sign(self.key, hashes.SHA256())
        )


@asynccontextmanager
async def _served(context: ssl.SSLContext, account: Path) -> AsyncIterator[ApiServer]:
    """Serve empty objects over TLS; yield the server as a pod finds it."""
    (account / "token").write_text("first")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        assert asked.startswith(b"GET /x HTTP/1.1\r\n")
        assert b"\r\nAuthorization: Bearer first\r\n" in asked
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield _found_by_a_pod(server.sockets[0].getsockname()[1], account)


def _found_by_a_pod(port: int, account: Path) -> ApiServer:
    inside = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port)}
    return in_cluster(inside, account)


async def test_an_authority_is_trusted_whose_certificates_do_not_name_their_issuer_s_key(
    tmp_path: Path,
) -> None:
    """Python since 3.13 refuses them unless told otherwise; Kubernetes' clients and curl never did."""
    authority = _Authority.make()
    authority.trust(tmp_path)
    async with _served(authority.certify("127.0.0.1", tmp_path / "server"), tmp_path) as api:
        assert await api.request("GET", "/x", headers={}) == Answer(status=200, body=b"{}")


async def test_an_authority_is_trusted_from_the_moment_it_stands_on_disk(tmp_path: Path) -> None:
    former, present = _Authority.make(), _Authority.make()
    former.trust(tmp_path)
    async with _served(present.certify("127.0.0.1", tmp_path / "server"), tmp_path) as api:
        with pytest.raises(ClusterUnavailable, match="certificate verify failed"):
            await api.request("GET", "/x", headers={})
        present.trust(tmp_path)
        assert (await api.request("GET", "/x", headers={})).status == 200


async def test_a_certificate_for_another_address_is_none(tmp_path: Path) -> None:
    authority = _Authority.make()
    authority.trust(tmp_path)
    async with _served(authority.certify("127.0.0.2", tmp_path / "server"), tmp_path) as api:
        with pytest.raises(ClusterUnavailable, match="certificate is not valid for"):
            await api.request("GET", "/x", headers={})


async def test_a_server_that_says_nothing_is_let_go_of_at_once_and_called_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even TLS' own farewell is waited for, which takes half a minute more."""
    monkeypatch.setattr(api_module, "REQUEST_SECONDS", 3600.0)
    clock = LoopClock()
    authority = _Authority.make()
    authority.trust(tmp_path)
    (tmp_path / "token").write_text("first")
    context = authority.certify("127.0.0.1", tmp_path / "server")

    def hear_and_say_nothing() -> None:
        connection, _ = listener.accept()
        connection.settimeout(SECONDS)
        secured = context.wrap_socket(connection, server_side=True)
        secured.recv(4096)
        clock.advance(api_module.REQUEST_SECONDS)
        with socket.socket(fileno=secured.detach()) as bare:
            bare.settimeout(SECONDS)
            while bare.recv(4096):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)
        heard = asyncio.create_task(asyncio.to_thread(hear_and_say_nothing))
        api = _found_by_a_pod(listener.getsockname()[1], tmp_path)
        with pytest.raises(
            ClusterUnavailable, match=r"^the API server does not answer: timed out after 3600 s$"
        ):
            await api.request("GET", "/x", headers={})
        await heard
