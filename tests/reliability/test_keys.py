"""The cluster key is exchanged under traffic, by the files that Kubernetes mounts.

The phases that an operator goes through are gone through by hand here.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from wesher_common.keys import ClusterKey
from wesher_testing.agents.mesh import RealMesh
from wesher_testing.agents.mounted_files import document, mount
from wesher_testing.agents.process import wait_until
from wesher_testing.lab.namespaces import Lab

Say = Callable[[str], None]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
PHASES = ((OLD, NEW), (NEW, OLD), (NEW, ""))
"""Distributing, promoting, retiring: the primary key, and what is accepted besides."""
MEMBERS = 20


def test_the_key_is_exchanged_without_a_lost_ping_and_one_that_was_off_comes_back(
    lab: Lab, say: Say, tmp_path: Path
) -> None:
    hosts = [lab.host(f"n{number:02}") for number in range(MEMBERS)]
    mesh = RealMesh.mounted(*hosts, key=OLD)
    names = list(mesh.agents)
    *present, off = names
    mesh.wait_whole()

    with mesh.watched(tmp_path) as seen, mesh.pinging_round() as pings:
        mesh.kill(off)
        for primary, accepted in PHASES:
            for name in present:
                mount(mesh.hosts[name], document(hosts[0]), key=primary, accepted=accepted)
            ring = [ClusterKey.from_base64(key).id for key in (primary, accepted) if key]
            for name in present:
                wait_until(
                    lambda name=name, ring=ring: mesh.agents[name].status()["keyIDs"] == ring,  # type: ignore[misc]
                    what=f"the ring of {name} is {ring}",
                )
        # A kubelet brings the present Secret before it starts the pod.
        mount(mesh.hosts[off], document(hosts[0]), key=NEW)
        mesh.start(off)
        back = mesh.wait_whole()

    lost = sum(pings.lost.values())
    say(f"{MEMBERS} members: {lost} pings lost of all, one that was off is back in {back:.1f} s; {seen}")
    assert lost == 0
    for name in present:
        failed = {line for line in mesh.agents[name].log_text.splitlines() if "member failed" in line}
        assert not [line for line in failed if f"node={off}" not in line]
