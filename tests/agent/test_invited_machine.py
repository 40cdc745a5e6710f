"""A machine outside Kubernetes: one line on a fresh host, a restart, and a return after a long absence.

The nodes are agents with mounted files. The test is their operator as far as signing goes.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from subprocess import PIPE

import pytest

from wesher_common.certificate import Authority, Kind, Subject
from wesher_common.join_file import JoinFile
from wesher_common.keys import ClusterKey, KeyRing, WireGuardPrivateKey, WireGuardPublicKey
from wesher_common.mesh_document import IdentitySettings, MeshDocument
from wesher_common.news import NewsKind, PeerCertificate, key_hash, pack_news, seal_ring, unpack_news
from wesher_testing.agents.mounted_files import document, mount, mounted_flags, remember
from wesher_testing.agents.process import (
    WESHER,
    AgentProcess,
    pings,
    run_to_end,
    wait_for_ping,
    wait_until,
)
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.run.machine_load import stretched
from wesher_testing.run.soak import soaking
from wesher_testing.virtual.members import private_key

Start = Callable[..., AgentProcess]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

AUTHORITY = Authority(bytes([3]) * 32)
OLD, NEW = (ClusterKey(bytes([number]) * 32) for number in (1, 2))
GIVEN = ip_address("10.99.0.200")
SEED = bytes([9]) * 32
FLOOD = """
import socket, sys, time
from concurrent.futures import ThreadPoolExecutor

host, token, seconds = sys.argv[1], bytes.fromhex(sys.argv[2]), float(sys.argv[3])
end, answers = time.monotonic() + seconds, []

def knock(number):
    while time.monotonic() < end:
        try:
            with socket.create_connection((host, 7946), timeout=2) as door:
                door.sendall(bytes([0x57, 1]) + (token if number % 2 else bytes(16)))
                answer = b""
                while piece := door.recv(65536):
                    answer += piece
                answers.append(len(answer))
        except OSError:
            answers.append(0)

with ThreadPoolExecutor(16) as pool:
    list(pool.map(knock, range(16)))
print(len(answers), sum(size > 0 for size in answers))
"""


def now_ms() -> int:
    return int(time.time() * 1000)


class Nodes:
    """The hosts of the cluster, and what their operator does."""

    def __init__(self, lab: Lab, start: Start, count: int = 2) -> None:
        self.hosts = [lab.host(f"n{number}") for number in range(count)]
        mesh = MeshDocument.from_json(json.dumps(document(self.hosts[0])))
        identity = IdentitySettings(mode="Verified", bound=True, authorities=(AUTHORITY.key,))
        self.mesh = replace(mesh, identity=identity).to_dict()
        self.key, self.items = OLD, list[tuple[NewsKind, bytes]]()
        self.publish()
        for number, host in enumerate(self.hosts):
            self._certify(host, number)
        self.agents = [start(host, *mounted_flags(host), bare=True) for host in self.hosts]
        names = [host.name for host in self.hosts]
        for agent in self.agents:
            agent.wait_for(*names)

    def _certify(self, host: Host, number: int) -> None:
        address, key = ip_address(f"10.99.0.{number + 10}"), private_key(host.name)
        subject = Subject(name=host.name, public_key=key.public, address=address)
        certificate = AUTHORITY.issue(subject, serial=now_ms() - 60_000)
        former = MeshDocument.from_json(json.dumps(document()))
        remember(host, address, private_key=key, certificate=certificate, mesh=former)

    def publish(self, *items: tuple[NewsKind, bytes]) -> None:
        """Mount these items, and the key ring."""
        for host in self.hosts:
            mount(host, self.mesh, key=self.key.reveal_base64(), news=pack_news(items))

    def certify(self, agent: AgentProcess) -> tuple[NewsKind, bytes]:
        """Certify the key that a machine shows to its administrator."""
        return self.certify_key(WireGuardPublicKey.from_base64(agent.status()["publicKey"]))

    def certify_key(self, key: WireGuardPublicKey) -> tuple[NewsKind, bytes]:
        """Certify a key."""
        subject = Subject(name="laptop", public_key=key, address=GIVEN)
        issued = AUTHORITY.issue(subject, serial=now_ms(), kind=Kind.PEER)
        return NewsKind.CERTIFICATE, PeerCertificate(subject=subject, certificate=issued).packed()

    def ring_for_key(self, key: WireGuardPublicKey) -> tuple[NewsKind, bytes]:
        """Seal the present key ring to a WireGuard key."""
        ephemeral = WireGuardPrivateKey.from_random(bytes(range(32)))
        sealed = seal_ring(AUTHORITY, [self.key.secret], key, number=now_ms(), ephemeral=ephemeral)
        return NewsKind.RING, sealed.packed()

    def invite(self, host: Host, name: str = "laptop") -> str:
        """Write a join file; return the flag."""
        join = JoinFile(
            mesh_name="m",
            mesh_uid="u-1",
            ring=KeyRing(OLD),
            seeds=MeshDocument.from_json(json.dumps(document(*self.hosts))).cluster_seeds,
            label="",
            profile="LAN",
            overlay=MeshDocument.from_json(json.dumps(document())).overlay,
            name=name,
            authority=AUTHORITY.key,
            enrol_seed=SEED,
        )
        path = host.root / "run/join.json"
        path.write_text(join.to_json())
        path.chmod(0o600)
        return "--join-file=/run/join.json"


def alive(agent: AgentProcess) -> set[str]:
    return {entry["name"] for entry in agent.ask("members") or [] if entry["state"] == "alive"}


def test_one_line_on_a_fresh_host_leads_to_a_ping(lab: Lab, start: Start) -> None:
    nodes, host = Nodes(lab, start), lab.host("fresh")
    join = nodes.invite(host)
    began = time.monotonic()
    laptop = start(host, join)
    wait_until(lambda: "laptop" in alive(nodes.agents[1]), what="the nodes see the machine")
    assert not pings(host, "10.99.0.10"), "it has no certificate yet"
    nodes.publish(nodes.certify(laptop))
    wait_for_ping(host, "n0.m.wesher.internal")
    took = time.monotonic() - began
    assert took < stretched(20.0)
    wait_for_ping(nodes.hosts[1], str(GIVEN))
    wait_until(
        lambda: laptop.status()["identity"]["certificateExpires"], what="its status has the certificate"
    )
    identity = laptop.status()["identity"]
    assert (identity["mode"], identity["authority"]) == ("Verified", str(AUTHORITY.key))
    said = host.run([WESHER, "status"]).stdout
    assert "Verified, bound, certificate until " in said
    assert "overlay address assigned address=10.99.0.200" in laptop.own_log

    # The next start needs neither the file nor the operator; what contradicts the invite is refused.
    (host.root / "run/join.json").unlink()
    nodes.publish()
    laptop.end()
    refused = run_to_end(host, "--node-name=tablet")
    rule = "contradicts the invite that this machine joined with, which says laptop: leave it out"
    assert refused.stderr == f"wesher: error: --node-name 'tablet': {rule}\n"
    again = start(host, "--leave-on-exit=false")
    again.wait_for("n0", "n1", "laptop")
    wait_for_ping(host, "n1.m.wesher.internal")
    assert again.status()["overlayIP"] == str(GIVEN)

    # Another key: its certificate does not count for it, and the former tunnel is closed to it.
    key = again.status()["publicKey"]
    done = host.run([WESHER, "rekey"]).stdout
    assert f"it was {key}" in done
    wait_until(lambda: again.status()["publicKey"] != key, what="the agent has another key")
    assert f"`kubectl wesher admit laptop --key {again.status()['publicKey']}`" in done
    again.wait_for("n0", "n1", "laptop")
    assert again.status()["identity"]["uncertified"] == "Uncertified"
    nodes.publish(nodes.certify(again))
    wait_for_ping(host, "n0.m.wesher.internal")


KNOCK = """
import socket, sys

with socket.create_connection((sys.argv[1], 7946), timeout=5) as door:
    door.sendall(bytes([0x57, 1]) + bytes.fromhex(sys.argv[2]))
    while piece := door.recv(65536):
        print(piece.hex(), end="")
"""


def knock(host: Host, at: Host, key: WireGuardPublicKey) -> bytes:
    """Ask at a node's door by hand; return the answer."""
    return bytes.fromhex(host.run(["python3", "-c", KNOCK, str(at.ipv4), key_hash(key).hex()]).stdout)


def test_a_flooded_door_stays_open_and_harms_neither_gossip_nor_joins(lab: Lab, start: Start) -> None:
    """One host knocks without end from its address, for a key that has news and for guesses."""
    nodes, flooder, other = Nodes(lab, start), lab.host("flooder"), lab.host("other")
    host = lab.host("fresh")
    key = private_key("laptop").public
    items = [nodes.certify_key(key), nodes.ring_for_key(key)]
    nodes.publish(*items)
    wait_until(lambda: knock(other, nodes.hosts[0], key), what="the node has the news")
    command = ["python3", "-c", FLOOD, str(nodes.hosts[0].ipv4), key_hash(key).hex(), "12"]
    with flooder.popen(command, stdout=PIPE, text=True) as flood:
        wait_until(
            lambda: nodes.agents[0].status()["gossip"]["rejected"].get("knock-refused", 0) > 100,
            what="the flood arrives",
        )
        for _ in range(30):
            if answer := knock(other, nodes.hosts[0], key):
                break
            # The door answers one host once a second: this one asks no faster.
            time.sleep(1.0)
        assert unpack_news(answer) == items
        machine = start(host, nodes.invite(host))
        took = machine.wait_for("n0", "n1", "laptop", deadline=stretched(20.0))
        assert took < stretched(20.0)
        asked, answered = map(int, flood.communicate()[0].split())
    assert asked > 200
    assert answered <= 15, "one a second"
    for agent in nodes.agents:
        assert agent.counts()["membersFailed"] == 0


if soaking(short=False, long=True):
    # It waits for more than a minute. `sim/test_invited_machine.py` has the same in virtual time.

    def test_a_machine_that_missed_a_change_of_the_cluster_key_comes_back_through_a_flooded_door(
        lab: Lab, start: Start
    ) -> None:
        nodes, host, flooder = Nodes(lab, start), lab.host("fresh"), lab.host("flooder")
        laptop = start(host, nodes.invite(host), "--leave-on-exit=false")
        wait_until(lambda: "laptop" in alive(nodes.agents[0]), what="the nodes see the machine")
        key = WireGuardPublicKey.from_base64(laptop.status()["publicKey"])
        certificate = nodes.certify_key(key)
        nodes.publish(certificate)
        wait_for_ping(host, "n0.m.wesher.internal")
        state = host.root / "var/lib/wesher/wgoverlay.json"
        wait_until(lambda: json.loads(state.read_text())["Certificate"], what="the certificate is saved")
        laptop.process.kill()
        laptop.process.wait()
        nodes.key = NEW
        nodes.publish(certificate, nodes.ring_for_key(key))
        for agent in nodes.agents:
            wait_until(
                lambda agent=agent: agent.status()["keyIDs"] == [NEW.id], what="the nodes have the key"
            )
        command = ["python3", "-c", FLOOD, str(nodes.hosts[0].ipv4), key_hash(key).hex(), "80"]
        with flooder.popen(command, stdout=PIPE, text=True) as flood:
            again = start(host, "--leave-on-exit=false")
            wait_until(
                lambda: again.status()["keyIDs"] == [NEW.id],
                what="it has the new key",
                deadline=stretched(110.0),
            )
            again.wait_for("n0", "n1", "laptop")
            wait_for_ping(host, "n0.m.wesher.internal")
            flood.communicate()
        saved = json.loads(state.read_text())
        assert base64.b64decode(saved["ClusterKey"]) == NEW.secret
        assert "no node answers: asking seeds for a newer key ring" in again.own_log


def test_a_machine_without_an_authority_is_open_and_says_so(lab: Lab, start: Start) -> None:
    host = lab.host("a")
    agent = start(host, "--cluster-key", OLD.reveal_base64())
    assert agent.status()["identity"]["mode"] == ""
    said = host.run([WESHER, "status"]).stdout
    assert "no authority: every machine with the cluster key is a member" in said
