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
from wesher_testing.cluster.workstation import Workstation
from wesher_testing.operations_page import commands

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


@pytest.fixture
def station(api: ApiServer, tmp_path: Path) -> Workstation:
    return Workstation(api, tmp_path)


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
    api: ApiServer, nodes: None, mesh: Mesh, report: Report, station: Workstation
) -> None:
    had = certified(api, mesh, report)
    (command,) = commands("revoke", {"worker-3": "b"})
    said = station.run(command)
    assert refused(api, had) is Refusal.REVOKED
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
    # Before the operator has read the report, the message says KEY.
    command = f"kubectl wesher admit b --key {B.public}"
    eventually(lambda: until_node(api, "b", "Revoked")["message"], within=SOON, until=lambda m: command in m)
    assert certificate(api, "b") is None
    assert wesher(api, "admit", "b", "--key", str(B.public))[0] == 0
    eventually(lambda: certificate(api, "b"), within=SOON)
    assert place(api, "b")["serial"] > void_until(api, "b")

    api.kubectl("label", "node", "b", f"{OUT}=")
    until_gone(api, "b")
    (command,) = commands("readmit", {"worker-3": "b", "out-default": "out-demo"})
    station.run(command)
    certify(api, report, b=B)
    assert wesher(api, "revoke", "nobody") == (
        2,
        "kubectl wesher: error: NAME 'nobody': no such Node, WesherPeer, or revoked member\n",
    )


def test_what_is_signed_offline_is_taken_over_and_a_lie_of_an_agent_is_not(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report, station: Workstation
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

    ours = {"n wesher": f"n {NAMESPACE}", "default-": "demo-", "wmesh default": "wmesh demo"}
    for command in (*commands("cluster-backup", ours), *commands("revoke-offline", {"worker-3": "b"})):
        station.run(command)
    ((kind, data),) = unpack_news((station.directory / "revoked.news").read_bytes())
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
