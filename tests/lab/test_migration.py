"""``docs/operations.md``: machines move from costela/wesher one by one, and one of them goes back."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from wesher_common.overlay import candidate_address
from wesher_testing.agents.process import KEY, wait_until
from wesher_testing.agents.service import SETTINGS, Machines, alive, do, reaches, status
from wesher_testing.lab.machine import Machine
from wesher_testing.operations_page import commands
from wesher_testing.run.cache import cache_dir
from wesher_testing.run.toolbox import REPOSITORY

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

OVERLAY = IPv4Network("10.0.0.0/8")
# What stands for the Go program finds its libraries where this checkout has them.
OLD_PROGRAM = f"""#!/bin/sh
export PYTHONPATH={REPOSITORY}/tests/support WESHER_CACHE={cache_dir()} PYTHONDONTWRITEBYTECODE=1
exec {sys.executable} -m wesher_testing.peers.go_wesher
"""
OLD_UNIT = """[Unit]
After=network-online.target
[Service]
EnvironmentFile=-/etc/default/wesher
ExecStart=/usr/local/sbin/wesher
Restart=on-failure
Type=simple
# It is one process, where what stands for it here is several.
KillMode=mixed
[Install]
WantedBy=multi-user.target
"""


def install_the_go_program(machine: Machine) -> None:
    """Put it where costela/wesher's README does, with the key and a member to join in its settings."""
    machine.write("/usr/local/sbin/wesher", OLD_PROGRAM, 0o755)
    machine.write("/etc/systemd/system/wesher.service", OLD_UNIT)
    seed = "" if machine.name == "a" else "WESHER_JOIN=192.0.2.1\n"
    machine.write("/etc/default/wesher", f"WESHER_CLUSTER_KEY={KEY}\n{seed}", 0o600)


@pytest.fixture
def machines() -> Iterator[Machines]:
    """Return three machines, with nothing on them."""
    with Machines.run("a", "b", "c") as made:
        yield made


def test_machines_move_from_the_go_program_one_by_one_and_one_goes_back(machines: Machines) -> None:
    """All reach each other at every stage, at the same overlay addresses."""
    addresses = {name: str(candidate_address(name, OVERLAY)) for name in machines.all}
    for machine in machines.all.values():
        install_the_go_program(machine)
        machine.run("systemctl daemon-reload; systemctl enable --now wesher")

    def all_reach_each_other() -> None:
        pairs = [(machine, address) for machine in machines.all.values() for address in addresses.values()]
        # All pairs each time, not up to the first that fails: the Go program sets up all its tunnels
        # again for each member that comes or goes, and only its own packets tell the others at once.
        wait_until(lambda: False not in [pings(*pair) for pair in pairs], what="all reach each other")

    def move(machine: Machine) -> None:
        do(machine, commands("move-stop"))
        # Settings without key and members, so that both come from the state file.
        machine.write("/etc/default/wesher", SETTINGS, 0o600)
        machine.install()
        said = do(machine, commands("move-start"))
        assert all(name in said for name in machines.all)
        assert status(machine)["overlayIP"] == addresses[machine.name]

    all_reach_each_other()
    a, b, c = machines.all.values()
    move(a)
    all_reach_each_other()
    assert alive(a) == set(machines.all)
    move(b)
    all_reach_each_other()
    assert reaches(a, b)
    assert reaches(a, c)

    do(b, commands("move-back"))
    assert "go_wesher" in b.run("ps -C wesher,python3,python -o args=", check=False).stdout
    all_reach_each_other()

    for machine in (b, c):
        move(machine)
        all_reach_each_other()
    for machine in machines.all.values():
        do(machine, commands("move-end"))
    machines.wait_whole()


def pings(machine: Machine, address: str) -> bool:
    """Tell whether a ping of an address is answered."""
    return machine.run(f"ping -c1 -W1 {address}", check=False).returncode == 0


def test_machines_with_the_state_file_of_release_0_2_find_each_other_at_their_addresses() -> None:
    """Its form is the later one, at another place."""
    with Machines.run("a", "b") as machines:
        a, b = machines.all.values()
        for machine, other in ((a, b), (b, a)):
            install_the_go_program(machine)
            node = {"Name": other.name, "Addr": str(other.host.ipv4)}
            machine.run("mkdir -p /var/lib/wesher")
            state = json.dumps({"ClusterKey": KEY, "Nodes": [node]})
            machine.write("/var/lib/wesher/state.json", state, 0o600)
            do(machine, commands("move-stop"))
            machine.write("/etc/default/wesher", SETTINGS, 0o600)
            machine.install()
        start, enable, check, look = commands("move-start")
        do(a, (start, enable))
        assert a.run(check, check=False).returncode == 1
        do(b, (start, enable))
        machines.wait_whole()
        for machine in (a, b):
            do(machine, (check, look))
            assert status(machine)["overlayIP"] == str(candidate_address(machine.name, OVERLAY))
