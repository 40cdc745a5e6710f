"""``docs/operations.md``: the commands for machines outside a cluster, run on machines with systemd."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from wesher_testing.agents.process import wait_until
from wesher_testing.agents.service import Machines, alive, do, left, status
from wesher_testing.lab.machine import PROGRAM, Machine
from wesher_testing.operations_page import commands

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]


@pytest.fixture
def machines() -> Iterator[Machines]:
    """Return three machines, with nothing on them."""
    with Machines.run("a", "b", "c") as made:
        yield made


def test_an_upgrade_and_the_way_back_lose_no_ping_and_the_key_is_exchanged_under_pings(
    machines: Machines,
) -> None:
    machines.install()
    a, *_ = trio = list(machines.all.values())
    for machine in trio:
        do(machine, commands("machine-stay"))
        machines.wait_whole()
    before = {machine.name: status(machine)["publicKey"] for machine in trio}
    keys = {status(machine)["keyIDs"][0] for machine in trio}
    assert len(keys) == 1

    with machines.pinging() as pings:
        for machine in trio:
            do(machine, commands("machine-keep"))
            machine.write("/opt/wesher/bin/wesher", PROGRAM + "# newer\n", 0o755)
            do(machine, commands("machine-restart"))
        for machine in trio:
            do(machine, commands("machine-rollback"))
            assert machine.run("cat /opt/wesher/bin/wesher").stdout == PROGRAM

        do(a, commands("machine-new-key"))
        new = a.run("cat /etc/wesher/key.new").stdout
        for machine in trio:
            machine.write("/etc/wesher/key.new", new, 0o600)
            do(machine, commands("machine-use-key"))
        for machine in trio:
            wait_until(lambda machine=machine: alive(machine) == set(machines.all), what="all have joined")  # type: ignore[misc]
        said = [do(machine, commands("machine-check-key")) for machine in trio]

    assert sum(pings.lost.values()) == 0
    ids = {status(machine)["keyIDs"][0] for machine in trio}
    assert len(ids) == 1
    assert ids.isdisjoint(keys)
    assert [re.findall(r"cluster key: +id (.*)", text) for text in said] == [[*ids]] * len(said)
    assert {machine.name: status(machine)["publicKey"] for machine in trio} == before


def test_a_machine_comes_back_from_its_backup_and_leaves_nothing_when_it_is_removed(
    machines: Machines,
) -> None:
    machines.install()
    a, b, c = machines.all.values()
    before = status(c)
    # An agent saves a second after a change: a copy made before that would name no member to join through.
    wait_until(lambda: saved_members(c) == {"a", "b"}, what="c has saved the members")
    do(c, commands("machine-backup"))

    # The disk is lost, and the machine installed again; its settings name no member.
    c.run("systemctl stop wesher; rm -rf /var/lib/wesher/* /var/lib/wesher/.??* /etc/default/wesher")
    assert left(c) == []
    c.run("sed -i /JOIN/d /var/backups/wesher/default")
    do(c, commands("machine-restore"))
    machines.wait_whole()
    after = status(c)
    assert (after["publicKey"], after["overlayIP"]) == (before["publicKey"], before["overlayIP"])

    do(c, commands("machine-keep"), commands("machine-uninstall"))
    assert left(c) == []
    assert alive(a) == alive(b) == {"a", "b"}
    wesher_named = {path for path in files_of_an_installation(c) if "wesher" in path}
    assert wesher_named <= {"/opt/wesher", "/opt/wesher.before"}

    do(b, commands("machine-stay"))
    machines.wait_whole("a", "b")
    (stop, clean) = commands("machine-cleanup")
    b.run(stop)
    assert left(b)  # it kept its place
    b.run(clean)
    assert left(b) == []


def saved_members(machine: Machine) -> set[str]:
    """Return the members that a machine's state file names."""
    state = json.loads(machine.run("cat /var/lib/wesher/wgoverlay.json").stdout)
    return {node["Name"] for node in state["Nodes"]}


def files_of_an_installation(machine: Machine) -> set[str]:
    """Return the files where an installation puts some, those that systemd makes left out."""
    return set(machine.run("find /opt /usr/local /etc -xdev").stdout.split())
