"""What other hands change of a device is mended, and said."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from wesher_agent.wireguard.uapi import END
from wesher_common.overlay import candidate_address
from wesher_testing.agents.mesh import INTERFACE, RealMesh, ask_device, device
from wesher_testing.agents.process import wait_until
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.run.machine_load import stretched

Say = Callable[[str], None]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

WITHIN = 30.0


def looks(host: Host) -> dict[str, Any]:
    """Return all that is wished of a device; endpoints are WireGuard's own to change."""
    held = device(host)
    link = json.loads(host.run(["ip", "-json", "address", "show", "dev", INTERFACE]).stdout)[0]
    routes = host.run(["ip", "route", "show", "dev", INTERFACE]).stdout
    return {
        "key": held.public_key,
        "port": held.listen_port,
        "peers": {key: peer.allowed_ips for key, peer in held.peers.items()},
        "mtu": link["mtu"],
        "up": "UP" in link["flags"],
        "addresses": {entry["local"] for entry in link["addr_info"] if entry["family"] == "inet"},
        "routes": {line.split()[0] for line in routes.splitlines()},
        "unreachable": {*host.run(["ip", "route", "show", "type", "unreachable"]).stdout.splitlines()},
    }


def remove_a_peer_and_the_unreachable_routes(host: Host) -> None:
    # Not together with peers' routes: what is sent to them would then leave in clear until both are back.
    host.run(["ip", "route", "flush", "type", "unreachable"])
    first = min(device(host).peers)
    ask_device(host, f"set=1\npublic_key={first.raw.hex()}\nremove=true".encode() + END)


def give_a_peers_address_to_another(host: Host) -> None:
    peers = device(host).peers
    one, other = sorted(peers)[:2]
    (address,) = peers[one].allowed_ips
    ask_device(host, f"set=1\npublic_key={other.raw.hex()}\nallowed_ip={address}".encode() + END)


def delete_address_and_routes(host: Host) -> None:
    address = next(iter(looks(host)["addresses"]))
    host.run(["ip", "address", "delete", f"{address}/32", "dev", INTERFACE])
    host.run(["ip", "route", "flush", "dev", INTERFACE])


def set_it_down(host: Host) -> None:
    host.run(["ip", "link", "set", INTERFACE, "down", "mtu", "1300"])


EDITS = {
    "a": remove_a_peer_and_the_unreachable_routes,
    "b": give_a_peers_address_to_another,
    "c": delete_address_and_routes,
    "d": set_it_down,
}


def test_a_device_edited_by_hand_is_as_before_within_half_a_minute(
    plain: RealMesh, say: Say, tmp_path: Path
) -> None:
    plain.wait_whole()
    before = {name: looks(host) for name, host in plain.hosts.items()}
    repairs = {name: agent.counts()["deviceRepairs"] for name, agent in plain.agents.items()}
    with plain.watched(tmp_path) as seen:
        edited = {}
        for name, edit in EDITS.items():
            edit(plain.hosts[name])
            edited[name] = time.monotonic()
        took: dict[str, float] = {}

        def all_mended() -> bool:
            for name in EDITS.keys() - took.keys():
                if looks(plain.hosts[name]) == before[name]:
                    took[name] = time.monotonic() - edited[name]
            return len(took) == len(EDITS)

        wait_until(all_mended, deadline=4 * WITHIN, what="every device is mended")
        plain.wait_whole()
    words = (f"{EDITS[name].__name__} {seconds:.1f} s" for name, seconds in sorted(took.items()))
    say(f"mended after: {', '.join(words)}; {seen}")
    assert max(took.values()) <= stretched(WITHIN)
    for name, agent in plain.agents.items():
        wait_until(
            lambda name=name, agent=agent: agent.counts()["deviceRepairs"] > repairs[name],  # type: ignore[misc]
            what=f"{name} counts a repair",
        )
        assert "device repaired interface=wgoverlay" in agent.own_log


def test_a_route_that_another_program_holds_is_left_to_it_and_said_once(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    address = candidate_address("a", ip_network("10.0.0.0/8"))
    b.run(["ip", "route", "add", f"{address}/32", "dev", "eth0", "proto", "static"])
    mesh = RealMesh.plain(a, b)
    agent = mesh.agents["b"]

    wait_until(
        lambda: agent.sees("a", "b") and agent.counts()["routeConflicts"],
        what="the conflict is counted",
    )

    event = "route not added: conflicting route exists"
    said = f'{event} destination={address}/32 holder="{address}/32 dev eth0'
    assert agent.own_log.count(said) == 1
    assert "proto static" in b.run(["ip", "route", "show", f"{address}/32"]).stdout
