"""Machines outside Kubernetes on a real API server: who is admitted, by invite or by key, and who is not."""

from __future__ import annotations

import base64
import json
import stat
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from wesher_common.certificate import Authority, Kind
from wesher_common.conditions import rfc3339
from wesher_common.join_file import JoinFile
from wesher_common.keys import KEY_BYTES
from wesher_common.names import NUDGE_ANNOTATION
from wesher_operator.kubectl.admit_peer import admit_peer
from wesher_operator.kubectl.meshes import find_mesh
from wesher_operator.kubectl.reach import connect
from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.certified_agents import (
    announced,
    boot,
    certificate,
    identity,
    issued_names,
    private_key,
    proven,
    void_until,
)
from wesher_testing.cluster.invited_machines import (
    counts,
    machine,
    peer_condition,
    peer_status,
    published_certificates,
    published_rings,
)
from wesher_testing.cluster.operator_process import NAMESPACE, SOON, eventually
from wesher_testing.cluster.workstation import CommandRefused, Workstation
from wesher_testing.operations_page import commands

A, LAPTOP, OTHER = (private_key(name) for name in ("a", "laptop", "another machine"))
ADDRESSES = ip_network("10.189.0.0/16")
Mesh = Callable[..., None]
Plugin = Callable[..., subprocess.CompletedProcess[str]]
Report = Callable[..., None]
See = Callable[..., None]

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def see(api: ApiServer, mesh: Mesh, report: Report) -> See:
    """Have a node with a certificate; ``see(*machines)`` has its agent report external members."""
    api.node("a", "192.168.7.1")
    boot(api, "a", "boot-a")
    mesh()
    eventually(lambda: api.get("wnode", "demo.a"), within=SOON)
    known = {**proven(api, "a", A), "endpoint": "192.168.7.1:51820"}
    report("a", **known)
    eventually(lambda: certificate(api, "a"), within=SOON)

    def reported(*machines: dict[str, Any]) -> None:
        report("a", **known, outsiders=list(machines))

    return reported


@pytest.fixture
def invite(plugin: Plugin, see: See, tmp_path: Path) -> Callable[..., JoinFile]:
    """Run ``kubectl wesher invite`` and return the join file."""

    def run(name: str, *words: str) -> JoinFile:
        file = tmp_path / f"{name}.join"
        done = plugin("invite", name, f"--output={file}", *words)
        assert done.returncode == 0, done.stderr
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        return JoinFile.from_json(file.read_text())

    return run


def until(api: ApiServer, reason: str, name: str = "demo.laptop") -> dict[str, Any]:
    return eventually(
        lambda: peer_condition(api, name), within=SOON, until=lambda found: found.get("reason") == reason
    )


def peer(api: ApiServer, name: str = "demo.laptop", **spec: Any) -> None:
    api.apply(
        {
            "apiVersion": "wesher.dev/v1alpha1",
            "kind": "WesherPeer",
            "metadata": {"name": name},
            "spec": {"meshRef": {"name": "demo"}, **spec},
        }
    )


def test_an_invited_machine_is_certified_with_the_key_that_it_comes_with(
    api: ApiServer, see: See, invite: Callable[..., JoinFile]
) -> None:
    joins_with = invite("laptop", "--ttl=2h")
    assert joins_with.member_name == "laptop"
    assert [str(seed) for seed in joins_with.seeds] == ["192.168.7.1"]
    assert (joins_with.authority,) == identity(api).authorities
    spec = api.get("wpeer", "demo.laptop")["spec"]
    assert spec["enrolKey"] == str(Authority(joins_with.enrol_seed).key)
    assert until(api, "NotEnrolled")["status"] == "Unknown"
    address = peer_status(api, "demo.laptop")["overlayIP"]

    see(machine("laptop", LAPTOP, invite=joins_with))
    assert until(api, "Issued")["status"] == "True"
    found = eventually(lambda: published_certificates(api), within=SOON)["laptop"]
    assert counts(api, found) is None
    assert found.certificate.kind is Kind.PEER
    assert found.subject.public_key == LAPTOP.public
    assert str(found.subject.address) == address
    assert found.subject.address in ADDRESSES
    status = peer_status(api, "demo.laptop")
    assert (status["publicKey"], status["serial"]) == (str(LAPTOP.public), found.certificate.serial)
    assert issued_names(api)["laptop"]["key"] == str(LAPTOP.public)
    header, line = api.kubectl("get", "wpeer", "demo.laptop").splitlines()
    assert line[header.index("CERT ") :].split()[0] == "30"


def test_an_agent_is_nudged_to_send_a_machine_its_first_certificate(
    api: ApiServer, report: Report, invite: Callable[..., JoinFile]
) -> None:
    """Without that, its kubelet may show the agent the certificate a minute later."""
    joins_with = invite("laptop")
    report("a", **announced(api, "a", A), outsiders=[machine("laptop", LAPTOP, invite=joins_with)])
    until(api, "Issued")
    serial = peer_status(api, "demo.laptop")["serial"]

    def is_nudged() -> bool:
        metadata = api.get("pod", "agent-a", "-n", NAMESPACE)["metadata"]
        return str(serial) in (metadata.get("annotations") or {}).get(NUDGE_ANNOTATION, "")

    eventually(is_nudged, within=SOON)


def test_an_invite_admits_one_key_and_no_second(
    api: ApiServer, see: See, invite: Callable[..., JoinFile]
) -> None:
    joins_with = invite("laptop")
    see(machine("laptop", LAPTOP, invite=joins_with))
    until(api, "Issued")
    issued = published_certificates(api)
    see(machine("laptop", OTHER, invite=joins_with))
    refused = until(api, "InviteUsed")
    assert (refused["status"], str(OTHER.public) in refused["message"]) == ("False", True)
    assert published_certificates(api) == issued
    assert issued_names(api)["laptop"]["key"] == str(LAPTOP.public)
    see(machine("laptop", LAPTOP, certificateSerial=issued["laptop"].certificate.serial))
    until(api, "Issued")


def test_an_invite_is_good_for_one_name(api: ApiServer, see: See, invite: Callable[..., JoinFile]) -> None:
    joins_with, of_tablet = invite("laptop"), invite("tablet")
    see(machine("phone", LAPTOP, invite=joins_with))
    assert "named phone" in until(api, "InviteOtherName")["message"]
    see(machine("tablet", LAPTOP, invite=joins_with))
    until(api, "InviteDiffers", "demo.tablet")
    until(api, "InviteOtherName")
    assert published_certificates(api) == {}
    see(machine("tablet", LAPTOP, invite=of_tablet))
    until(api, "Issued", "demo.tablet")
    until(api, "NotEnrolled")


def test_a_machine_that_comes_after_the_end_of_its_invite_is_not_admitted(api: ApiServer, see: See) -> None:
    seed = bytes(range(KEY_BYTES))
    until_then = datetime.now(UTC) + timedelta(seconds=2)
    peer(api, enrolKey=str(Authority(seed).key), enrolUntil=rfc3339(until_then))
    assert "unused: delete this WesherPeer" in until(api, "InviteExpired")["message"]
    uid = api.get("wmesh", "demo")["metadata"]["uid"]
    late = JoinFile.from_json(join_file(uid, seed))
    see(machine("laptop", LAPTOP, invite=late))
    eventually(
        lambda: peer_condition(api, "demo.laptop")["message"],
        within=SOON,
        until=lambda said: f"the machine with the key {LAPTOP.public} came too late" in said,
    )
    assert published_certificates(api) == {}


def join_file(uid: str, seed: bytes) -> str:
    key = base64.b64encode(bytes(KEY_BYTES)).decode()
    return json.dumps(
        {
            "version": 1,
            "mesh": {"name": "demo", "uid": uid},
            "name": "laptop",
            "seeds": ["192.168.7.1"],
            "overlay": str(ADDRESSES),
            "authority": str(Authority(seed).key),
            "clusterKeys": [key],
            "enrolSeed": base64.b64encode(seed).decode(),
        }
    )


def test_an_invite_of_more_than_seven_days_admits_no_machine(api: ApiServer, see: See) -> None:
    far = datetime.now(UTC) + timedelta(days=7, minutes=5)
    peer(api, enrolKey=str(Authority(bytes(KEY_BYTES)).key), enrolUntil=rfc3339(far))
    assert "at most 7 days" in until(api, "InviteTooLong")["message"]


def test_a_machine_is_admitted_by_its_key_and_later_by_another(
    api: ApiServer, see: See, plugin: Plugin
) -> None:
    user = connect(str(api.kubeconfig), "")
    mesh = find_mesh(user, "demo")
    assert "key admitted" in admit_peer(user, mesh, "laptop", str(LAPTOP.public))
    until(api, "Issued")
    first = published_certificates(api)["laptop"]
    assert first.subject.public_key == LAPTOP.public
    assert "admitted already" in admit_peer(user, mesh, "laptop", str(LAPTOP.public))

    see(machine("laptop", OTHER))
    assert f"--key {OTHER.public} --mesh demo" in until(api, "KeyChanged")["message"]
    assert published_certificates(api)["laptop"] == first
    admit_peer(user, mesh, "laptop", str(OTHER.public))
    until(api, "Issued")
    second = eventually(
        lambda: published_certificates(api)["laptop"], within=SOON, until=lambda found: found != first
    )
    assert second.subject.public_key == OTHER.public
    assert second.subject.address == first.subject.address
    assert second.certificate.serial > first.certificate.serial
    assert counts(api, second) is None


def test_a_key_admits_the_machine_of_an_invite_and_ends_the_invite(
    api: ApiServer, see: See, invite: Callable[..., JoinFile]
) -> None:
    joins_with = invite("laptop")
    user = connect(str(api.kubeconfig), "")
    admit_peer(user, find_mesh(user, "demo"), "laptop", str(LAPTOP.public))
    until(api, "Issued")
    assert api.get("wpeer", "demo.laptop")["spec"].keys() == {"meshRef", "publicKey"}
    see(machine("laptop", OTHER, invite=joins_with))
    until(api, "KeyChanged")
    assert published_certificates(api)["laptop"].subject.public_key == LAPTOP.public


def test_the_key_of_a_node_or_of_another_machine_is_not_certified_again(api: ApiServer, see: See) -> None:
    peer(api, publicKey=str(A.public))
    assert "certified for a:" in until(api, "KeyInUse")["message"]
    peer(api, "demo.one", publicKey=str(LAPTOP.public))
    until(api, "Issued", "demo.one")
    peer(api, "demo.two", publicKey=str(LAPTOP.public))
    assert "certified for one:" in until(api, "KeyInUse", "demo.two")["message"]
    assert set(published_certificates(api)) == {"one"}


def test_a_machine_cannot_have_the_name_of_a_node(api: ApiServer, see: See, plugin: Plugin) -> None:
    peer(api, "demo.a", publicKey=str(LAPTOP.public))
    assert "a Node has the name a" in until(api, "NameInUse", "demo.a")["message"]
    done = plugin("invite", "a")
    assert (done.returncode, done.stdout) == (2, "")
    assert "NAME 'a': a Node has this name: choose another one" in done.stderr
    peer(api, publicKey=str(LAPTOP.public))
    until(api, "Issued")
    api.node("laptop", "192.168.7.2")
    until(api, "NameInUse")
    eventually(lambda: published_certificates(api), within=SOON, until=lambda found: not found)


def test_a_deleted_machine_leaves_the_news_and_its_address_waits_for_it(api: ApiServer, see: See) -> None:
    peer(api, publicKey=str(LAPTOP.public))
    until(api, "Issued")
    address = peer_status(api, "demo.laptop")["overlayIP"]
    api.kubectl("delete", "wpeer", "demo.laptop")
    eventually(lambda: published_certificates(api), within=SOON, until=lambda found: not found)
    released = json.loads(api.get("configmap", "demo-released", "-n", NAMESPACE)["data"]["released.json"])
    assert released["holders"] == {address: "laptop"}
    assert "laptop" in released["names"]
    assert "laptop" in issued_names(api)

    peer(api, publicKey=str(LAPTOP.public))
    until(api, "Issued")
    assert peer_status(api, "demo.laptop")["overlayIP"] == address


def test_a_machine_gets_a_free_address_and_keeps_it(api: ApiServer, see: See) -> None:
    node = api.get("wnode", "demo.a")["spec"]["overlayIP"]
    peer(api, "demo.fixed", publicKey=str(OTHER.public), overlayIP=node)
    until(api, "AddressInUse", "demo.fixed")
    peer(api, "demo.far", publicKey=str(OTHER.public), overlayIP="10.190.0.1")
    until(api, "AddressNotAllowed", "demo.far")
    peer(api, publicKey=str(LAPTOP.public))
    until(api, "Issued")
    first = peer_status(api, "demo.laptop")["overlayIP"]
    see(machine("laptop", LAPTOP), machine("stranger", OTHER, address=first))
    eventually(lambda: peer_status(api, "demo.laptop").get("lastSeen"), within=SOON)
    assert peer_status(api, "demo.laptop")["overlayIP"] == first


def test_a_certified_machine_does_not_keep_a_verified_mesh_from_being_bound(
    api: ApiServer, see: See, report: Report, invite: Callable[..., JoinFile]
) -> None:
    joins_with = invite("laptop")
    see(machine("laptop", LAPTOP, invite=joins_with))
    until(api, "Issued")
    report("a", **announced(api, "a", A), outsiders=[machine("laptop", LAPTOP, invite=joins_with)])
    eventually(
        lambda: api.get("wmesh", "demo")["status"]["identity"].get("waitingFor"),
        within=SOON,
        until=["laptop"].__eq__,
    )
    serial = published_certificates(api)["laptop"].certificate.serial
    report("a", **announced(api, "a", A), outsiders=[machine("laptop", LAPTOP, certificateSerial=serial)])
    eventually(lambda: identity(api).bound, within=SOON)


def test_the_key_ring_is_sealed_to_a_machine_that_is_not_seen_with_it(api: ApiServer, see: See) -> None:
    peer(api, publicKey=str(LAPTOP.public))
    (item,) = eventually(lambda: published_rings(api), within=SOON)
    data = api.get("secret", "demo-key", "-n", NAMESPACE)["data"]["cluster-key"]
    raw = base64.b64decode(base64.b64decode(data))
    assert item.opened(LAPTOP) == (raw,)
    assert item.opened(OTHER) is None
    (authority,) = identity(api).authorities
    assert item.is_signed_by(authority)
    assert item.number == api.get("wmesh", "demo")["status"]["key"]["ringNumber"]

    new = bytes(range(50, 82))
    entries = {
        "cluster-key": base64.b64encode(base64.b64encode(new)).decode(),
        "accepted-keys": base64.b64encode(base64.b64encode(raw)).decode(),
    }
    api.kubectl(
        *("patch", "secret", "demo-key", "-n", NAMESPACE, "--type=merge"), "-p", json.dumps({"data": entries})
    )
    (later,) = eventually(
        lambda: published_rings(api), within=SOON, until=lambda found: bool(found) and found[0] != item
    )
    assert later.opened(LAPTOP) == (new, raw)
    assert later.number > item.number


def test_the_documented_commands_admit_and_remove_a_machine(api: ApiServer, see: See, tmp_path: Path) -> None:
    station = Workstation(api, tmp_path)
    ours = {"default": "demo"}
    for command in commands("peer-invite", ours):
        said = station.run(command)
    assert "demo.laptop" in said
    assert JoinFile.from_json((tmp_path / "laptop.join").read_text()).name == "laptop"
    for command in commands("peer-admit", {**ours, "KEY": str(LAPTOP.public)}):
        assert "key admitted" in station.run(command)
    until(api, "Issued")
    assert "laptop" in station.run("kubectl wesher status demo || true")
    for command in commands("peer-remove", ours):
        station.run(command)
    eventually(lambda: published_certificates(api), within=SOON, until=lambda found: not found)


def test_the_join_file_is_not_shown_on_a_terminal_unless_it_is_to_be(
    api: ApiServer, see: See, tmp_path: Path
) -> None:
    station = Workstation(api, tmp_path)
    on_terminal = "script --quiet --return --command 'kubectl wesher invite laptop {}' /dev/null"
    with pytest.raises(CommandRefused, match="the join file holds keys: name a file, or pipe it"):
        station.run(on_terminal.format(""))
    assert api.get("wpeer", "demo.laptop") is None
    assert '"clusterKeys"' in station.run(on_terminal.format("--force"))


def test_the_join_file_goes_to_a_pipe_and_what_is_wrong_is_one_line(
    api: ApiServer, see: See, plugin: Plugin, tmp_path: Path
) -> None:
    done = plugin("invite", "laptop", "--mesh=demo")
    assert done.returncode == 0
    assert JoinFile.from_json(done.stdout).name == "laptop"
    assert "valid until" in done.stderr

    there = tmp_path / "there"
    there.write_text("mine")
    for words, line in [
        (("laptop",), "WesherPeer demo.laptop exists: to invite the machine again, first run kubectl delete"),
        (("Tablet",), "NAME 'Tablet': must be a lower-case DNS name"),
        (("localhost",), "NAME 'localhost': must be a lower-case DNS name"),
        (("tablet", "--ttl=8d"), "--ttl '8d': must be a duration from 1m to 7d"),
        (("tablet", "--ttl=soon"), "--ttl 'soon': must be a duration from 1m to 7d"),
        (("tablet", "--mesh=other"), "MESH 'other': no such WesherMesh"),
        (("tablet", f"--output={there}"), f"--output '{there}': cannot be written: File exists"),
        (("tablet", f"--output={tmp_path}/no/file"), "cannot be written: No such file or directory"),
    ]:
        refused = plugin("invite", *words)
        assert (refused.returncode, refused.stdout) == (2, ""), words
        assert line in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    assert there.read_text() == "mine"
    assert api.get("wpeer", "demo.tablet") is None


def test_one_command_revokes_a_machine(
    api: ApiServer, see: See, invite: Callable[..., JoinFile], plugin: Plugin
) -> None:
    see(machine("laptop", LAPTOP, invite=invite("laptop")))
    until(api, "Issued")
    serial = published_certificates(api)["laptop"].certificate.serial
    done = plugin("revoke", "laptop")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("laptop: revoked")
    assert "kubectl wesher invite laptop --mesh demo" in done.stdout
    assert void_until(api, "laptop") >= serial
    assert api.get("wpeer", "demo.laptop") is None
    assert "laptop" not in published_certificates(api)
