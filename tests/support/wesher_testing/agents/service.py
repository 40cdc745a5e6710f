"""wesher as a service of systemd on machines outside a cluster, and what its administrator does there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Self

from wesher_testing.agents.process import KEY, wait_until
from wesher_testing.lab.machine import PROGRAM, Machine
from wesher_testing.lab.namespaces import Lab
from wesher_testing.lab.pings import Pinging

SETTINGS = "WESHER_USERSPACE_BINARY=/usr/local/bin/wireguard-go\n"
"""What every machine's settings need here."""


class Machines:
    """Machines by their names, with nothing of wesher on them at first."""

    def __init__(self, machines: Mapping[str, Machine]) -> None:
        self.all = machines

    @classmethod
    @contextmanager
    def run(cls, *names: str) -> Iterator[Self]:
        """Run machines of these names in a lab of their own until the block ends."""
        with Lab() as lab, ExitStack() as stack:
            made = {name: Machine(lab.host(name)) for name in names}
            for machine in made.values():
                stack.callback(machine.close)
            yield cls(made)

    def install(self) -> None:
        """Install and start wesher on all, with the key in a file."""
        for machine in self.all.values():
            self.give(machine)
            machine.run("systemctl daemon-reload; systemctl enable --now wesher")
        self.wait_whole()

    def give(self, machine: Machine, program: str = PROGRAM) -> None:
        """Install wesher with its settings, and do not start it."""
        machine.install(program)
        machine.write("/etc/wesher/key", KEY + "\n", 0o600)
        seed = "" if machine.name == "a" else "WESHER_JOIN=192.0.2.1\n"
        machine.write(
            "/etc/default/wesher",
            f"{SETTINGS}WESHER_CLUSTER_KEY_FILE=/etc/wesher/key\n{seed}",
            0o600,
        )

    def wait_whole(self, *names: str) -> None:
        """Wait until these, or all, reach each other by name."""
        chosen = [self.all[name] for name in names or self.all]
        for machine in chosen:
            for other in chosen:
                if other is not machine:
                    wait_until(
                        lambda machine=machine, other=other: reaches(machine, other),  # type: ignore[misc]
                        what=f"{machine.name} reaches {other.name}",
                    )

    def pinging(self) -> Pinging:
        """Return pings, ten a second, between all pairs."""
        addresses = {name: status(machine)["overlayIP"] for name, machine in self.all.items()}
        return Pinging(self.all, addresses)


def reaches(machine: Machine, other: Machine) -> bool:
    """Tell whether a ping of another machine's name is answered."""
    return machine.run(f"ping -c1 -W1 {other.name}", check=False).returncode == 0


def status(machine: Machine) -> dict[str, Any]:
    """Return what the agent says of itself."""
    answer: dict[str, Any] = json.loads(machine.run("wesher status -o json").stdout)
    return answer


def alive(machine: Machine) -> set[str]:
    """Return the members that the agent holds for alive."""
    members = json.loads(machine.run("wesher members -o json").stdout)
    return {member["name"] for member in members if member["state"] == "alive"}


def do(machine: Machine, *blocks: tuple[str, ...]) -> str:
    """Run the commands of blocks on a machine; return what they printed."""
    return "".join(machine.run(command).stdout for block in blocks for command in block)


def left(machine: Machine) -> list[str]:
    """Return what shows that wesher was there."""
    found = [f"device {name}" for name in ("wgoverlay",) if name in machine.run("ip -o link").stdout]
    for family in ("-4", "-6"):
        found += machine.run(f"ip {family} route show table all proto 87").stdout.splitlines()
    hosts = machine.run("cat /etc/hosts").stdout.splitlines()
    found += [line for line in hosts if "wesher" in line]
    files = "ls -d /var/lib/wesher/* /var/lib/wesher/.??* /run/wesher/* /run/wireguard/*"
    return found + machine.run(files, check=False).stdout.split()
