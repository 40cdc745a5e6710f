"""Agents find each other, make tunnels, go and come back."""

from __future__ import annotations

import base64
import re
import shutil
import signal
from collections.abc import Callable
from ipaddress import ip_network

import pytest

from wesher_agent.tunnel.probe_plan import ANSWER_SECONDS, ROUND_SECONDS
from wesher_common.overlay import candidate_address, fnv1a_128
from wesher_testing.agents.process import (
    KEY,
    PATIENCE,
    WESHER,
    AgentProcess,
    run_to_end,
    wait_for_ping,
    wait_until,
)
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.peers.gossip_mesh import GOSSIP_PORT
from wesher_testing.run.machine_load import stretched

Start = Callable[..., AgentProcess]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]


def _pair(lab: Lab, start: Start, *flags: str) -> tuple[AgentProcess, AgentProcess]:
    a, b = lab.host("a"), lab.host("b")
    first = start(a, "--cluster-key", KEY, *flags)
    first.wait_for("a")
    second = start(b, "--cluster-key", KEY, "--join", str(a.ipv4), *flags)
    first.wait_for("a", "b")
    second.wait_for("a", "b")
    return first, second


def _wait_left(agent: AgentProcess, name: str) -> None:
    """Wait until an agent was told that a member left: one that it only misses fails."""
    wait_until(
        lambda: agent.members().get(name, {}).get("state") == "left",
        what=f"{agent.host.name} knows that {name} left",
    )


def _links(host: Host) -> str:
    return host.run(["ip", "-o", "link"]).stdout


def _hosts(host: Host) -> str:
    return (host.root / "etc/hosts").read_text()


def test_three_agents_form_a_mesh_in_which_every_pair_pings_by_name(lab: Lab, start: Start) -> None:
    hosts = [lab.host(name) for name in ("a", "b", "c")]
    agents = [start(host, "--cluster-key", KEY, "--join", str(hosts[0].ipv4)) for host in hosts]
    for agent in agents:
        agent.wait_for("a", "b", "c")
    for host in hosts:
        for other in hosts:
            if other is not host:
                wait_for_ping(host, other.name)
                address = agents[0].members()[other.name]["overlayIP"]
                route = host.run(["ip", "route", "get", address]).stdout
                assert "dev wgoverlay" in route
                assert f"{address}\t{other.name}\t# ! managed automatically by wesher" in _hosts(host)
    wait_until(lambda: agents[0].status()["peers"]["handshake"] == 2, what="both handshakes are told")
    wait_until(
        lambda: all(condition["status"] == "True" for condition in agents[0].status()["conditions"]),
        what="every condition is True",
    )
    # A peer is asked once its route is there, and not before.
    assert not [agent.host.name for agent in agents if "probe not sent" in agent.own_log]


@pytest.mark.parametrize("name", ["localhost", "10.0.0.5"])
def test_a_machine_without_a_hostname_has_tunnels_but_no_hosts_entry(
    lab: Lab, start: Start, name: str
) -> None:
    """A fresh image is called localhost."""
    a, b = lab.host("a"), lab.host("b")
    first = start(a, "--cluster-key", KEY)
    second = start(
        b,
        "--cluster-key",
        KEY,
        "--join",
        str(a.ipv4),
        wrapper=["sh", "-c", f'hostname {name}; exec "$0" "$@"'],
    )
    first.wait_for("a", name)
    wait_for_ping(b, "a")
    wait_for_ping(a, first.members()[name]["overlayIP"])
    assert f"{name}\t# ! managed" not in _hosts(a)
    assert f"member has a problem node={name} reason=BadName" in first.own_log
    warning = "other members write no hosts entry for this node: set a hostname or --node-name"
    assert re.findall(f"WARNING wesher.agent: {warning} node=(.*)", second.own_log) == [name]


def test_a_reserved_name_given_on_purpose_is_refused_in_one_line(lab: Lab) -> None:
    refused = run_to_end(lab.host("a"), "--cluster-key", KEY, "--node-name=localhost")
    rule = "is a reserved name, like localhost: choose another --node-name"
    assert refused.stderr == f"wesher: error: --node-name 'localhost': {rule}\n"
    assert refused.returncode == 1


def test_an_agent_waits_for_its_seed_for_as_long_as_it_takes(lab: Lab, start: Start) -> None:
    a, b = lab.host("a"), lab.host("b")
    second = start(b, "--cluster-key", KEY, "--join", str(a.ipv4))
    second.wait_for("b")
    wait_until(
        # Which of them depends on how long ago it started.
        lambda: second.conditions()["GossipJoined"] in {"Joining", "NobodyAnswers"},
        what="its seed does not answer yet",
    )
    first = start(a, "--cluster-key", KEY)
    second.wait_for("a", "b")
    first.wait_for("a", "b")


def test_another_cluster_key_is_named_on_both_sides(lab: Lab, start: Start) -> None:
    a, b = lab.host("a"), lab.host("b")
    first = start(a, "--cluster-key", base64.b64encode(bytes(32)).decode())
    first.wait_for("a")
    second = start(b, "--cluster-key", KEY, "--join", str(a.ipv4))
    wait_until(lambda: second.conditions()["GossipJoined"] == "WrongKey", what="the other key is named")
    [condition] = [c for c in second.status()["conditions"] if c["type"] == "GossipJoined"]
    assert second.status()["keyIDs"][0] in condition["message"]
    assert KEY not in condition["message"]
    assert f"peer has another cluster key peer={b.ipv4} answered=false" in first.own_log
    assert first.conditions()["Ready"] == "Ready"


def test_a_killed_agent_rejoins_from_its_state_with_its_key_and_address(lab: Lab, start: Start) -> None:
    first, second = _pair(lab, start)
    wait_for_ping(first.host, "b")
    before = first.members()["b"]
    second.wait_saved("a")
    second.end(signal.SIGKILL)
    assert "wgoverlay" in _links(second.host)
    again = start(second.host)
    again.wait_for("a", "b")
    wait_for_ping(first.host, "b")
    for after in (again.status(), first.members()["b"]):
        assert (after["publicKey"], after["overlayIP"]) == (before["publicKey"], before["overlayIP"])


def test_a_killed_agent_returns_from_another_address_before_it_was_missed(lab: Lab, start: Start) -> None:
    """Others hold the name at its former address; whoever comes back says itself that it left from there."""
    # With these times nobody is missed before half a minute, in which the slowest machine starts an agent.
    first, second = _pair(lab, start, "--gossip-profile=WAN")
    a, b = first.host, second.host
    overlay = first.members()["b"]["overlayIP"]
    second.wait_saved("a")
    second.end(signal.SIGKILL)
    elsewhere = b.ipv4 + 100
    b.run(["ip", "address", "del", f"{b.ipv4}/24", "dev", "eth0"])
    b.run(["ip", "address", "add", f"{elsewhere}/24", "dev", "eth0"])
    third = start(b, "--gossip-profile=WAN")
    wait_until(
        lambda: first.members()["b"]["address"] == f"{elsewhere}:{GOSSIP_PORT}",
        what="a knows where b is now",
    )
    assert "members dial the previous address: announcing the new one again" in third.own_log
    assert "member failed" not in first.own_log
    wait_until(lambda: third.conditions()["GossipJoined"] == "Joined", what="b has joined")
    assert first.members()["b"]["overlayIP"] == overlay
    wait_for_ping(a, overlay)
    wait_until(lambda: str(elsewhere) in first.members()["b"]["endpoint"], what="its tunnel leads there too")


def test_told_to_begin_anew_an_agent_keeps_no_more_of_its_mesh_than_its_own_key(
    lab: Lab, start: Start
) -> None:
    first, second = _pair(lab, start)
    before = second.status()
    assert before["keyIDs"] == first.status()["keyIDs"]
    second.end(signal.SIGKILL)
    again = start(second.host, "--init")
    again.wait_for("b")
    after = again.status()
    assert after["publicKey"] == before["publicKey"]
    assert after["keyIDs"] != before["keyIDs"]
    assert again.conditions()["GossipJoined"] == "OnlyMember"
    assert KEY not in (second.host.root / "var/lib/wesher/wgoverlay.json").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stopped_agent_leaves_and_takes_everything_with_it(
    lab: Lab, start: Start, number: signal.Signals
) -> None:
    first, second = _pair(lab, start)
    wait_for_ping(first.host, "b")
    assert second.end(number) == 0
    assert "wgoverlay" not in _links(second.host)
    assert "managed automatically" not in _hosts(second.host)
    assert not (second.host.root / "run/wesher/wgoverlay.sock").exists()
    _wait_left(first, "b")
    wait_until(lambda: "managed" not in _hosts(first.host), what="b is out of a's hosts file")


def test_the_leave_command_does_the_same(lab: Lab, start: Start) -> None:
    first, second = _pair(lab, start)
    kept = "/var/lib/wesher/wgoverlay.json"
    assert second.ask("leave") == {"node": "b", "interface": "wgoverlay", "kept": kept}
    assert second.process.wait(PATIENCE) == 0
    assert "wgoverlay" not in _links(second.host)
    _wait_left(first, "b")


def test_the_leave_command_says_what_it_keeps_and_forgets_it_on_demand(lab: Lab, start: Start) -> None:
    first, second = _pair(lab, start)
    state = "/var/lib/wesher/wgoverlay.json"
    said = second.host.run([WESHER, "leave"]).stdout.splitlines()
    assert said[0] == "b left the mesh on wgoverlay"
    assert said[1].startswith(
        f"kept: {state} holds the cluster key and this machine's WireGuard key, so the "
    )
    assert second.process.wait(PATIENCE) == 0
    again = start(second.host)
    again.wait_for("a", "b")
    again.wait_device()
    said = second.host.run([WESHER, "leave", "--forget"]).stdout.splitlines()
    assert said == ["b left the mesh on wgoverlay and deleted its state file with the keys"]
    assert again.process.wait(PATIENCE) == 0
    assert list((second.host.root / "var/lib/wesher").iterdir()) == []
    _wait_left(first, "b")


def test_keys_that_cannot_be_deleted_are_an_error(lab: Lab, start: Start) -> None:
    host, state = lab.host("a"), "/var/lib/wesher/wgoverlay.json"
    agent = start(host, "--cluster-key", KEY)
    agent.wait_device()
    host.run(["mount", "--bind", state, state])
    done = host.run([WESHER, "leave", "--forget"], check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == f"wesher: error: a left the mesh, but its keys could not be deleted: run rm -f {state} {state}.*\n"
    )
    assert agent.process.wait(PATIENCE) == 0


def test_told_to_stay_a_stopped_agent_keeps_its_device_and_place_for_the_next(lab: Lab, start: Start) -> None:
    first, second = _pair(lab, start, "--leave-on-exit=false")
    wait_for_ping(first.host, "b")
    assert second.end() == 0
    assert "wgoverlay" in _links(second.host)
    assert "managed automatically" in _hosts(second.host)
    wait_for_ping(first.host, "b")
    again = start(second.host)
    again.wait_for("a", "b")
    first.wait_for("a", "b")
    assert "member left" not in first.own_log
    wait_for_ping(first.host, "b")


@pytest.mark.parametrize(
    ("underlay", "overlay"), [(4, "fd42::/32"), (6, "10.77.0.0/16"), (6, "fd42::/32")], ids=str
)
def test_each_of_underlay_and_overlay_may_be_ipv6(
    lab: Lab, start: Start, underlay: int, overlay: str
) -> None:
    a, b = lab.host("a"), lab.host("b")
    one, other = (host.ipv4 if underlay == 4 else host.ipv6 for host in (a, b))
    shared = ("--cluster-key", KEY, "--overlay-net", overlay, "--bind-iface=")
    first = start(a, *shared, "--bind-addr", str(one))
    second = start(b, *shared, "--bind-addr", str(other), "--join", str(one))
    first.wait_for("a", "b")
    second.wait_for("a", "b")
    wait_for_ping(a, "b")
    wait_for_ping(b, "a")
    member = first.members()["b"]
    assert member["overlayIP"] == str(candidate_address("b", ip_network(overlay)))
    assert member["endpoint"] == (f"{other}:51820" if underlay == 4 else f"[{other}]:51820")


def test_the_device_takes_its_mtu_from_the_underlay_unless_it_is_told_another(lab: Lab, start: Start) -> None:
    a, b = lab.host("a"), lab.host("b")
    for host in (a, b):
        host.run(["ip", "link", "set", "eth0", "mtu", "1400"])
    first = start(a, "--cluster-key", KEY)
    second = start(b, "--cluster-key", KEY, "--join", str(a.ipv4), "--mtu=1300")
    first.wait_for("a", "b")
    wait_for_ping(a, "b")
    assert [agent.status()["wireguard"]["mtu"] for agent in (first, second)] == [1320, 1300]
    assert [re.findall(r"wgoverlay: .* mtu (\d+)", _links(host)) for host in (a, b)] == [["1320"], ["1300"]]
    # 28 bytes of headers make it as large as either device takes.
    a.run(["ping", "-c1", "-w30", "-M", "do", "-s", "1272", "b"])


def test_names_that_hash_to_one_address_are_settled_and_both_can_be_reached(lab: Lab, start: Start) -> None:
    one, other = _names_that_collide()
    a, b = lab.host(one), lab.host(other)
    flags = ("--cluster-key", KEY, "--overlay-net", "10.77.1.0/24")
    first, second = start(a, *flags), start(b, *flags, "--join", str(a.ipv4))
    first.wait_for(one, other)
    second.wait_for(one, other)
    wait_for_ping(a, other)
    wait_for_ping(b, one)
    kept, moved = (first.members()[name]["overlayIP"] for name in sorted((one, other)))
    assert kept == str(candidate_address(one, ip_network("10.77.1.0/24")))
    assert moved != kept
    assert "overlay address changed" in first.own_log + second.own_log
    given_up = [agent.counts()["overlayAddressesGivenUp"] for agent in (first, second)]
    assert sorted(given_up) == [0, 1]


def _names_that_collide() -> tuple[str, str]:
    seen: dict[int, str] = {}
    for number in range(1000):
        name = f"node{number}"
        host_part = fnv1a_128(name.encode()) & 0xFF
        if 0 < host_part < 0xFF and host_part in seen:
            return seen[host_part], name
        seen[host_part] = name
    raise AssertionError("no two of a thousand names share eight bits")


def test_a_clone_of_a_machine_with_its_disk_and_another_name_is_a_member_of_its_own(
    lab: Lab, start: Start
) -> None:
    first, second = _pair(lab, start)
    second.wait_saved("a")
    c = lab.host("c")
    shutil.copytree(second.host.root / "var/lib/wesher", c.root / "var/lib/wesher")
    # Neither key nor seed: the disk has both.
    third = start(c)
    for agent in (first, second, third):
        agent.wait_for("a", "b", "c")
    keys = {entry["publicKey"] for entry in first.members().values()}
    assert len(keys) == 3
    for one, other in ((first, "b"), (first, "c"), (second, "c"), (third, "a")):
        wait_for_ping(one.host, other)
    assert "wireguard key not reused: it was saved under another name node=c former=b" in third.own_log


def test_a_name_that_is_taken_stays_its_first_holders_and_the_other_says_so(lab: Lab, start: Start) -> None:
    first, second = _pair(lab, start)
    a, b = first.host, second.host
    third = start(lab.host("c"), "--cluster-key", KEY, "--join", str(a.ipv4), "--node-name=b")
    wait_until(
        lambda: third.conditions()["GossipJoined"] == "NameConflict",
        what="the newcomer knows that its name is taken",
    )
    assert f"other={b.ipv4}:7946" in third.own_log or f"holder={b.ipv4}:7946" in third.own_log
    assert first.members()["b"]["address"] == f"{b.ipv4}:{GOSSIP_PORT}"
    second.wait_for("a", "b")


def test_a_member_of_another_overlay_network_is_not_ready_and_leaves_the_others_ready(
    lab: Lab, start: Start
) -> None:
    a, b, c = lab.host("a"), lab.host("b"), lab.host("c")
    first = start(a, "--cluster-key", KEY, "--overlay-net=10.1.0.0/16")
    start(b, "--cluster-key", KEY, "--overlay-net=10.1.0.0/16", "--join", str(a.ipv4))
    other = start(c, "--cluster-key", KEY, "--overlay-net=10.2.0.0/16", "--join", str(a.ipv4))
    other.wait_for("a", "b", "c")
    wait_until(lambda: other.conditions()["Ready"] == "OverlayDiffers", what="the one is not ready")
    wait_until(lambda: first.conditions()["Ready"] == "Ready", what="the others are ready")
    assert "not in 10.2.0.0/16: give all members the same" in other.members()["a"]["note"]
    assert "not in 10.1.0.0/16: give all members the same" in first.members()["c"]["note"]


def test_two_meshes_on_one_host_do_not_know_of_each_other(lab: Lab, start: Start) -> None:
    a, b = lab.host("a"), lab.host("b")
    shared = ("--cluster-key", KEY, "--join", str(a.ipv4))
    other = ("--cluster-port=7947", "--wireguard-port=51821", "--overlay-net=10.99.0.0/16")
    one = [start(host, *shared) for host in (a, b)]
    two = [start(host, *shared, *other, interface="wg7") for host in (a, b)]
    for agents, network in ((one, "10.74."), (two, "10.99.")):
        agents[0].wait_for("a", "b")
        address = agents[0].members()["b"]["overlayIP"]
        assert address.startswith(network)
        wait_for_ping(a, address)
    ambiguous = a.run([WESHER, "status"], check=False)
    assert ambiguous.returncode == 1
    assert "several agents run on this host: choose one of wg7, wgoverlay" in ambiguous.stderr


def test_a_host_whose_own_tunnel_packets_are_lost_says_that_it_reaches_no_one(lab: Lab, start: Start) -> None:
    """The other still sends it probes and handshakes, which are not answers to its own."""
    first, second = _pair(lab, start)
    wait_for_ping(second.host, "a")
    second.host.drop_sent("udp", 51820)
    wait_until(
        lambda: second.conditions()["Ready"] == "PeersUnreachable",
        what="b says that its peer does not answer",
        deadline=stretched(ROUND_SECONDS + 2 * ANSWER_SECONDS),
    )
    wait_until(lambda: first.conditions()["Ready"] == "PeersUnreachable", what="a says so too")
    second.host.allow_all()
    wait_for_ping(second.host, "a")
    wait_until(lambda: second.conditions()["Ready"] == "Ready", what="b is ready again")
