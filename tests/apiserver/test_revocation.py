"""Revocation on a real API server: who is revoked, who stays out, and who comes back."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from wesher_common.certificate import Certificate, Refusal, Subject, Trust
from wesher_common.names import out_label
from wesher_common.news import NewsKind, Statement, unpack_news
from wesher_common.overlay import IPAddress
from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.certified_agents import (
    boot,
    certificate,
    certify,
    counts_for,
    identity,
    node_condition,
    place,
    private_key,
    proven,
    statement,
    until_node,
    until_void,
    void_until,
)
from wesher_testing.cluster.operator_process import NAMESPACE, SOON, eventually

A, B = (private_key(name) for name in "ab")
OUT = out_label("demo")
STATUS = "/apis/wesher.dev/v1alpha1/weshernodes/demo.{}/status"
Mesh = Callable[..., None]
Report = Callable[..., None]

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def nodes(api: ApiServer) -> None:
    for number, name in enumerate("ab", start=1):
        api.node(name, f"192.168.7.{number}")
        boot(api, name, f"boot-{name}")


def certified(api: ApiServer, mesh: Mesh, report: Report) -> dict[str, Any]:
    """Have the nodes a and b certified; return what b was given."""
    mesh()
    certify(api, report, a=A, b=B)
    until_node(api, "b", "Issued")
    return place(api, "b")


def wesher(api: ApiServer, *words: str) -> tuple[int, str]:
    """Run ``kubectl wesher``; return its exit code and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "wesher_operator.kubectl", *words, f"--kubeconfig={api.kubeconfig}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * SOON,
    )
    return done.returncode, done.stdout + done.stderr


def until_gone(api: ApiServer, node: str) -> None:
    eventually(lambda: api.get("wnode", f"demo.{node}") is None, within=SOON)


def refused(api: ApiServer, had: dict[str, Any]) -> Refusal | None:
    """Return why a member that has the published statement refuses b's former certificate."""
    issued, (authority,) = certificate_of(had), identity(api).authorities
    read = statement(api)
    assert read is not None
    subject = Subject(name="b", public_key=B.public, address=address_of(had))
    trust = Trust(key=authority, newest=read.number, revoked=read.revoked_ms)
    return trust.refusal(issued, subject, clock=read.number)


def certificate_of(spec: dict[str, Any]) -> Certificate:
    found = Certificate.from_base64(spec["certificate"])
    assert found is not None
    return found


def address_of(spec: dict[str, Any]) -> IPAddress:
    return ip_address(spec["overlayIP"])


def test_a_deleted_node_is_revoked_and_one_that_comes_back_gets_a_later_certificate(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    had = certified(api, mesh, report)
    assert refused(api, had) is None
    api.kubectl("delete", "node", "b")
    void = until_void(api, "b", had["serial"])
    assert refused(api, had) is Refusal.REVOKED
    until_gone(api, "b")

    api.node("b", "192.168.7.2")
    boot(api, "b", "boot-b")
    certify(api, report, b=B)
    assert place(api, "b")["serial"] > void
    assert counts_for(api, "b", B, address_of(place(api, "b"))) is None


def test_one_command_revokes_a_node_and_removing_its_label_lets_it_in_again(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    had = certified(api, mesh, report)
    code, said = wesher(api, "revoke", "b")
    assert (code, refused(api, had)) == (0, Refusal.REVOKED), said
    assert said.startswith("b: revoked")
    assert f"kubectl label node b {OUT}-" in said
    assert api.get("node", "b")["metadata"]["labels"][OUT] == "revoked"
    until_gone(api, "b")
    eventually(
        lambda: api.get("wmesh", "demo")["status"]["identity"]["revoked"], within=SOON, until=["b"].__eq__
    )
    assert "NodesRevoked" in api.kubectl("describe", "wmesh", "demo")
    assert wesher(api, "revoke", "b")[0] == 0, "it may be said twice"
    assert certificate(api, "a") is not None
    assert void_until(api, "a") == 0

    # The kubelet registers its Node again, without the label: that is not for the node to decide.
    api.kubectl("delete", "node", "b")
    api.node("b", "192.168.7.2")
    boot(api, "b", "boot-b")
    place(api, "b")
    report("b", **proven(api, "b", B))
    message = until_node(api, "b", "Revoked")["message"]
    assert certificate(api, "b") is None
    assert f"kubectl wesher admit b --key {B.public}" in message
    assert wesher(api, "admit", "b", "--key", str(B.public))[0] == 0
    eventually(lambda: certificate(api, "b"), within=SOON)
    assert place(api, "b")["serial"] > void_until(api, "b")

    api.kubectl("label", "node", "b", f"{OUT}=")
    until_gone(api, "b")
    api.kubectl("label", "node", "b", f"{OUT}-")
    certify(api, report, b=B)
    assert wesher(api, "revoke", "nobody") == (
        2,
        "kubectl wesher: error: NAME 'nobody': no such Node, WesherPeer, or revoked member\n",
    )


def test_what_is_signed_offline_is_taken_over_and_a_lie_of_an_agent_is_not(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report, tmp_path: Path
) -> None:
    had = certified(api, mesh, report)
    published = statement(api)
    assert published is not None
    token = api.token("wesher-agent", NAMESPACE, node="a")
    forged = Statement(authority=published.authority, number=published.number + 9, signature=bytes(64))
    lie = {"newsNumber": forged.number, "news": base64.b64encode(forged.packed()).decode()}
    assert api.patch(STATUS.format("a"), {"status": lie}, token=token)[0] == HTTPStatus.OK
    status, why = api.patch(STATUS.format("b"), {"status": lie}, token=token)
    assert status != HTTPStatus.OK
    assert "wesher-agent-own-node" in why
    for wrong in ({"news": "A" * 65537}, {"news": "not base64"}, {"newsNumber": -1}):
        status, _ = api.patch(STATUS.format("a"), {"status": wrong}, token=token)
        assert status == HTTPStatus.UNPROCESSABLE_ENTITY

    news = tmp_path / "signed"
    sign(api, tmp_path, news)
    ((kind, data),) = unpack_news(news.read_bytes())
    assert kind is NewsKind.STATEMENT
    signed = Statement.unpacked(data)
    assert signed.number > published.number
    assert void_until(api, "b") == 0, "the lie changed nothing"
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    told = {"newsNumber": signed.number, "news": base64.b64encode(data).decode(), "lastReportTime": now}
    assert api.patch(STATUS.format("a"), {"status": told}, token=token)[0] == HTTPStatus.OK
    until_void(api, "b", had["serial"])
    until_node(api, "b", "Revoked")
    assert statement(api) == signed
    assert node_condition(api, "a")["reason"] == "Issued"


def sign(api: ApiServer, folder: Path, output: Path) -> None:
    """Sign offline that the node b is revoked, from what an administrator has backed up."""
    seed = api.get("secret", "demo-authority", "-n", NAMESPACE)["data"]["seed"]
    news = api.get("configmap", "demo-config", "-n", NAMESPACE)["binaryData"]["news"]
    (folder / "seed").write_bytes(base64.b64decode(seed))
    (folder / "news").write_bytes(base64.b64decode(news))
    subprocess.run(
        [
            *(sys.executable, "-m", "wesher_operator", "sign-revocation"),
            *(f"--seed-file={folder / 'seed'}", f"--news-file={folder / 'news'}"),
            *("--names=b", f"--output={output}"),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=SOON,
    )
