"""Certified members with clocks that are wrong, in a mesh whose operator and API server are away."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from ipaddress import IPv4Network, ip_address
from pathlib import Path

import pytest

from wesher_common.certificate import Authority, Subject
from wesher_common.keys import WireGuardPrivateKey
from wesher_common.mesh_document import MeshDocument
from wesher_testing.agents.mesh import RealMesh
from wesher_testing.agents.mounted_files import document, mount, mounted_flags, remember
from wesher_testing.agents.process import AgentProcess
from wesher_testing.lab.namespaces import Host, Lab

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

AUTHORITY = Authority(b"a" * 32)
KEY = base64.b64encode(b"k" * 32).decode()
DAY = 24 * 3600.0
TO_1970, IN_2037 = -time.time() + DAY, 11 * 365 * DAY
_CLOCK = """
import os
import time

_read, _ahead = time.time, float(os.environ["CLOCK_AHEAD"])
time.time = lambda: _read() + _ahead
"""
"""What Python runs before the agent. wireguard-go has the right clock; only the agent reads certificates."""


def test_certificates_count_on_hosts_whose_clocks_are_wrong_and_after_60_days_without_an_operator(
    lab: Lab, tmp_path: Path, say: Callable[[str], None]
) -> None:
    """Two have never known the time; two others are rebooted into a clock that is 60 days ahead."""
    (tmp_path / "sitecustomize.py").write_text(_CLOCK)
    ahead = {"right": 0.0, "early": TO_1970, "late": IN_2037, "reboots-1": 0.0, "reboots-2": 0.0}
    hosts = [lab.host(name) for name in ahead]
    identity = {
        "mode": "Verified",
        "bound": True,
        "form": "Compact",
        "authorities": [str(AUTHORITY.key)],
        "trusted": [],
    }
    content = document(hosts[0], identity=identity)
    before = MeshDocument.from_json(json.dumps(content))
    for number, host in enumerate(hosts):
        mount(host, content, key=KEY)
        private_key = WireGuardPrivateKey.from_random(bytes([number + 1]) * 32)
        subject = Subject(
            name=host.name, public_key=private_key.public, address=ip_address(f"10.99.0.{number + 10}")
        )
        certificate = AUTHORITY.issue(subject, serial=round(time.time() * 1000))
        remember(host, subject.address, private_key=private_key, certificate=certificate, mesh=before)

    def launch(host: Host) -> AgentProcess:
        clock = ("env", f"PYTHONPATH={tmp_path}", f"CLOCK_AHEAD={ahead[host.name]}")
        return AgentProcess(host, *mounted_flags(host), bare=True, wrapper=clock)

    mesh = RealMesh(hosts, launch, IPv4Network("10.99.0.0/16"))
    mesh.wait_whole()
    assert _uncertified(mesh) == {}
    assert "2037-" in mesh.agents["late"].own_log
    assert "1970-" in mesh.agents["early"].own_log

    with mesh.pinging("right", "early", "late") as pinging:
        for name in ("reboots-1", "reboots-2"):
            ahead[name] = 60 * DAY
            mesh.power_off(name)
        for name in ("reboots-1", "reboots-2"):
            mesh.start(name)
        back = mesh.wait_whole()
    assert _uncertified(mesh) == {}
    lost = sum(pinging.lost.values())
    say(f"wrong clocks and no operator: all tunnels up {back:.1f} s after the reboots, {lost} pings lost")
    assert lost == 0


def _uncertified(mesh: RealMesh) -> dict[tuple[str, str], str]:
    """Return why a member does not take another's certificate, by both names; itself included."""
    return {
        (name, member): entry["uncertified"]
        for name, agent in mesh.agents.items()
        for member, entry in agent.members().items()
        if entry["uncertified"]
    }
