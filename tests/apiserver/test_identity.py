"""The operator as authority: whom it certifies on a real API server, and whom not."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any

import pytest

from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.certified_agents import (
    announced,
    boot,
    certificate,
    certify,
    counts_for,
    identity,
    issued_names,
    place,
    private_key,
    proven,
    until_node,
)
from wesher_testing.cluster.operator_process import MANIFESTS, NAMESPACE, SOON, eventually

POLICY = "wesher-agent-own-node"
A, B, C = (private_key(name) for name in "abc")
OTHER = private_key("another machine")
Mesh = Callable[..., None]
Report = Callable[..., None]

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def nodes(api: ApiServer) -> None:
    for number, name in enumerate("ab", start=1):
        api.node(name, f"192.168.7.{number}")
        boot(api, name, f"boot-{name}")


def mesh_status(api: ApiServer) -> dict[str, Any]:
    return dict(api.get("wmesh", "demo").get("status", {}))


def mesh_condition(api: ApiServer) -> tuple[str, str]:
    entries = mesh_status(api).get("conditions", [])
    found = next((entry for entry in entries if entry["type"] == "Certified"), {})
    return found.get("status", ""), found.get("reason", "")


def until_mesh(api: ApiServer, status: str, reason: str) -> None:
    eventually(lambda: mesh_condition(api), within=SOON, until=(status, reason).__eq__)


def test_each_node_that_proves_its_key_is_certified_and_the_mesh_is_bound(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    mesh()
    certify(api, report, a=A, b=B)
    for node, key in (("a", A), ("b", B)):
        assert counts_for(api, node, key, ip_address(place(api, node)["overlayIP"])) is None
        assert until_node(api, node, "Issued")["status"] == "True"
    assert set(issued_names(api)) == {"a", "b"}
    header, line = api.kubectl("get", "wnode", "demo.a").splitlines()
    assert line[header.index("CERT") :].split()[0] == "30"

    assert not identity(api).bound  # nobody has announced a certificate yet
    report("a", **announced(api, "a", A))
    eventually(
        lambda: mesh_status(api)["identity"], within=SOON, until=lambda found: found["certified"] == "1/2"
    )
    assert mesh_status(api)["identity"]["waitingFor"] == ["b"]
    report("b", **announced(api, "b", B))
    eventually(lambda: identity(api).bound, within=SOON)
    assert (identity(api).mode, identity(api).form) == ("Verified", "Compact")
    found = eventually(lambda: mesh_status(api)["identity"], within=SOON, until=lambda each: each["bound"])
    assert found["mode"] == "Verified"
    assert found["authority"] == str(identity(api).authorities[0])
    until_mesh(api, "True", "AllCertified")


def test_the_key_of_the_authority_is_in_no_pod(api: ApiServer, nodes: None, mesh: Mesh) -> None:
    mesh()
    identity(api)
    found = eventually(lambda: api.get("daemonset", "demo-agent", "-n", NAMESPACE), within=SOON)
    assert "demo-authority" not in str(found)
    assert api.get("secret", "demo-authority", "-n", NAMESPACE)["data"].keys() == {"seed"}


def test_the_token_of_one_node_cannot_have_the_key_of_another_certified(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    """The policy lets it write its own WesherNode, where it publishes the other's key."""
    mesh()
    certify(api, report, b=B)
    stolen = {**proven(api, "a", A), "publicKey": str(B.public)}
    path = "/apis/wesher.dev/v1alpha1/weshernodes/demo.a/status"
    place(api, "a")
    status, _ = api.patch(path, {"status": stolen}, token=api.token("wesher-agent", NAMESPACE, node="a"))
    assert status == HTTPStatus.OK
    assert until_node(api, "a", "KeyProof")["status"] == "False"
    assert certificate(api, "a") is None
    assert "a" not in issued_names(api)


def test_a_key_that_is_certified_for_one_node_is_not_certified_for_another(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    """As with a cloned disk: both can prove it."""
    mesh()
    certify(api, report, a=A)
    report("b", **proven(api, "b", A))
    assert until_node(api, "b", "KeyInUse")["status"] == "False"
    assert certificate(api, "b") is None


def test_without_the_admission_policy_nothing_is_issued_until_it_is_back(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    mesh()
    certify(api, report, a=A)
    had = certificate(api, "a")
    api.kubectl("delete", "validatingadmissionpolicybinding", POLICY)
    try:
        report("b", **proven(api, "b", B))
        until_mesh(api, "False", "NodeRestrictionOff")
        until_node(api, "b", "NodeRestrictionOff")
        assert certificate(api, "b") is None
        assert certificate(api, "a") == had
    finally:
        api.kubectl("apply", "--server-side", "-f", str(MANIFESTS / "wesher.yaml"))
    eventually(lambda: certificate(api, "b"), within=SOON)


def test_a_changed_key_is_certified_after_a_reboot_and_not_without(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    mesh()
    certify(api, report, a=A)
    had = certificate(api, "a")
    report("a", **proven(api, "a", OTHER))
    command = f"kubectl wesher admit a --key {OTHER.public} --mesh demo"
    assert command in until_node(api, "a", "KeyChanged")["message"]
    until_mesh(api, "False", "KeyChanged")
    assert certificate(api, "a") == had

    boot(api, "a", "boot-after-a-reinstallation")
    eventually(lambda: certificate(api, "a"), within=SOON, until=lambda found: found != had)
    assert counts_for(api, "a", OTHER, ip_address(place(api, "a")["overlayIP"])) is None
    until_node(api, "a", "Issued")


def test_a_reboot_allows_no_change_of_the_key_once_the_former_one_was_proven_after_it(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    mesh()
    certify(api, report, a=A)
    before = issued_names(api)["a"]
    boot(api, "a", "boot-again")
    machine = eventually(
        lambda: place(api, "a")["machine"], within=SOON, until=lambda found: found != before.get("machine")
    )
    eventually(lambda: reported(api, report, machine), within=SOON, until=lambda found: found != before)
    report("a", **proven(api, "a", OTHER), machine=machine)
    until_node(api, "a", "KeyChanged")


def reported(api: ApiServer, report: Report, machine: str) -> dict[str, str]:
    """Report as the agent does that has started after the reboot; return the ledger's entry."""
    report("a", **proven(api, "a", A), machine=place(api, "a")["machine"])
    return issued_names(api)["a"]


def test_an_authority_that_is_gone_is_not_replaced_by_another(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    mesh()
    certify(api, report, a=A)
    secret = api.get("secret", "demo-authority", "-n", NAMESPACE)
    former, had = identity(api).authorities, certificate(api, "a")
    api.kubectl("delete", "secret", "demo-authority", "-n", NAMESPACE)
    until_mesh(api, "False", "AuthorityLost")
    report("b", **proven(api, "b", B))
    eventually(lambda: mesh_status(api)["identity"]["certified"], within=SOON)
    assert api.get("secret", "demo-authority", "-n", NAMESPACE) is None
    assert (identity(api).authorities, certificate(api, "a"), certificate(api, "b")) == (former, had, None)

    metadata = {"name": "demo-authority", "namespace": NAMESPACE}
    api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": secret["data"]})
    eventually(lambda: certificate(api, "b"), within=SOON)


def test_an_explicit_verified_cuts_off_members_without_a_certificate_and_names_them(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    """While the field is unset, the mesh waits for them."""
    mesh()
    certify(api, report, a=A, b=B)
    laptop = {"outsiders": [{"name": "laptop", "kind": "Go"}]}
    report("a", **announced(api, "a", A), **laptop)
    report("b", **announced(api, "b", B))
    eventually(lambda: mesh_status(api)["identity"].get("waitingFor"), within=SOON, until=["laptop"].__eq__)
    assert not identity(api).bound

    mesh(identity="Verified")
    eventually(lambda: identity(api).bound, within=SOON)
    eventually(
        lambda: api.kubectl("describe", "wmesh", "demo"),
        within=SOON,
        until=lambda text: "UncertifiedCutOff" in text and "laptop" in text,
    )
    mesh(identity="Open")
    eventually(lambda: not identity(api).bound, within=SOON)
