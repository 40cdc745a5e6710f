"""The demo's plain machines: three hosts, an agent on each, nothing of Kubernetes.

Runs on the machine's own Python, so it imports nothing but the standard library and
what needs no more.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wesher_testing.lab.capture import Capture
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.run.demo.kept import how_to_end, on_script, script
from wesher_testing.run.demo.narrator import ClaimFailed, Narrator
from wesher_testing.run.demo.proof import Markers, leads_to, show_wires
from wesher_testing.run.toolbox import REPOSITORY, system_program

NAMES = ("alpha", "beta", "gamma")
INTERFACE = "wgoverlay"
KEY_FILE = "/etc/wesher/cluster-key"
SOON = 60.0
"""Seconds for what takes a few where nothing else runs."""


class Machines:
    """The hosts and their agents; use it as a context, at whose end nothing is left.

    Args:
        say: prints what is shown.
        python: a Python with the agent's libraries.
        wireguard: wireguard-go, or ``None`` where the kernel has WireGuard.

    """

    def __init__(self, say: Narrator, python: Path, wireguard: Path | None) -> None:
        self._say = say
        self._python = python
        self._wireguard = wireguard
        self._markers = Markers()
        self._captures: dict[str, Capture] = {}
        self._agents: dict[str, subprocess.Popen[Any]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._lab = self._stack.enter_context(Lab())
        self._programs = self._lab.directory / "bin"
        self._programs.mkdir()
        packages = ":".join(str(REPOSITORY / folder) for folder in ("agent", "common"))
        script(
            self._programs / "wesher",
            f"export PYTHONPATH={shlex.quote(packages)}",
            f'exec {shlex.quote(str(self._python))} -m wesher_agent "$@"',
        )
        if self._wireguard is not None:
            (self._programs / "wireguard-go").symlink_to(self._wireguard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def logs(self) -> list[Path]:
        """The agents' logs so far."""
        return sorted(self._lab.directory.glob("*.log"))

    def show(self) -> None:
        """Show everything; what is claimed and does not hold raises `ClaimFailed`."""
        stages: tuple[Callable[[], None], ...] = (
            self._make_hosts,
            self._join,
            self._ping_every_pair,
            self._cut_and_heal,
            self._show_wires,
        )
        for stage in stages:
            stage()

    def how_to_use(self, how_long: str = "") -> str:
        """Write a script that reaches into the hosts, and return how to use and end them.

        Args:
            how_long: until when they stay up, if that is not for the user to say.

        """
        on = on_script(self._lab, self._programs)
        usage = (
            f"The machines stay up{how_long and f' {how_long}'}. As root, in another terminal:",
            f"  {on} {NAMES[0]} wesher members",
            f"  {on} {NAMES[0]} ping {NAMES[2]}",
            f"  {on} {NAMES[1]}    # a shell there",
            f"  ls {self._lab.directory}/*.log",
        )
        return "\n".join(usage if how_long else (*usage, how_to_end()))

    def _make_hosts(self) -> None:
        with self._say.stage("Three hosts on one LAN", "tcpdump listens on all of them from now on."):
            for name in NAMES:
                host = self._lab.host(name)
                self._captures[name] = Capture(host, "eth0", self._lab.directory / f"{name}.pcap")
                self._say.note(f"{name:<6} {host.ipv4}")

    def _join(self) -> None:
        first, _, last = self._hosts()
        with self._say.stage("A mesh", "Each host needs the same key and the address of one member."):
            self._say.command(f"wesher keygen > {KEY_FILE}   # the same file on every host")
            key = self._on(first, "wesher", "keygen", quiet=True)
            for host in self._hosts():
                (host.root / "etc/wesher").mkdir(exist_ok=True)
                file = host.root / KEY_FILE.lstrip("/")
                file.touch(mode=0o600)
                file.write_text(key)
            for host in self._hosts():
                join = () if host is first else (f"--join={first.ipv4}",)
                self._start_agent(host, *join)
                if host is first:
                    self._wait(f"the agent of {host.name} answers", partial(self._answers, host))
            self._wait(f"{first.name} reaches {last.name} by name", lambda: self._reaches(first, last))
            self._on(first, "ping", "-c", "1", last.name)
            self._wait(f"the route to {last.name} is dev {INTERFACE}", lambda: self._leads(first, last))
        self._say.headline(f"first encrypted ping on the screen after {self._say.elapsed:.0f} s")

    def _ping_every_pair(self) -> None:
        pairs = list(itertools.permutations(self._hosts(), 2))
        with self._say.stage("Every pair, by name", "Each ping carries 16 random bytes to look for later."):
            self._wait(
                "every host knows the others' names and sends to them through WireGuard",
                lambda: all(self._leads(a, b) for a, b in pairs),
            )
            missing = [f"{a.name}→{b.name}" for a, b in pairs if not self._markers.ping(a, b)]
            self._say.claim(f"all {len(pairs)} pairs ping each other{_listed(missing)}", not missing)
            self._on(self._hosts()[0], "wesher", "members")

    def _cut_and_heal(self) -> None:
        first, _, victim = self._hosts()
        with self._say.stage("A cut that heals", f"The network cable of {victim.name} is pulled."):
            victim.cut()
            self._wait(
                f"{first.name} sees that {victim.name} failed", lambda: self._state(first, victim) == "failed"
            )
            self._say.claim(f"{victim.name} does not answer", not self._markers.ping(first, victim, count=1))
            self._on(first, "wesher", "members")
            self._say.note("The cable is put back.")
            victim.restore()
            self._wait(f"{victim.name} answers again", lambda: self._markers.ping(first, victim, count=1))
            self._wait(
                "all three are alive to each other",
                lambda: all(
                    self._state(a, b) == "alive" for a, b in itertools.permutations(self._hosts(), 2)
                ),
            )

    def _show_wires(self) -> None:
        first, second, _ = self._hosts()
        with self._say.stage("What the wires showed"):
            self._say.claim(
                "for comparison, one ping is sent outside the mesh",
                self._markers.ping_in_clear(first, second),
            )
            for capture in self._captures.values():
                capture.stop()
            self._show_packets(self._captures[first.name])
            packets = {name: capture.packets() for name, capture in self._captures.items()}
            overlay = json.loads(self._on(first, "wesher", "status", "-o", "json", quiet=True))["overlayNet"]
            show_wires(self._say, self._markers, packets, ip_network(overlay))

    def _show_packets(self, capture: Capture) -> None:
        """Show some encrypted packets as tcpdump prints them."""
        wireguard = "udp port 51820 and udp[8] = 4"
        self._say.command(f"tcpdump -n -t -c 3 -r {capture.file.name} '{wireguard}'")
        done = subprocess.run(
            [system_program("tcpdump"), "-n", "-t", "-c", "3", "-r", capture.file, wireguard],
            capture_output=True,
            text=True,
            check=True,
            timeout=SOON,
        )
        self._say.output(done.stdout)

    def _start_agent(self, host: Host, *flags: str) -> None:
        argv = [f"--cluster-key-file={KEY_FILE}", "--gossip-profile=LAN", *flags]
        self._say.command(f"wesher {' '.join(argv)}   # on {host.name}")
        self._agents[host.name] = host.log_of(
            [self._programs / "wesher", *argv],
            self._lab.directory / f"{host.name}.log",
            env=self._environment(),
        )

    def _environment(self) -> dict[str, str]:
        # Settings of the demo, such as WESHER_CACHE, are unknown to an agent, which says so.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WESHER_")}
        return {**kept, "PATH": f"{self._programs}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}

    def _hosts(self) -> list[Host]:
        return [self._lab.hosts[name] for name in NAMES]

    def _on(self, host: Host, *argv: str, quiet: bool = False) -> str:
        """Run a command on a host, show it unless it is quiet, and return its output."""
        done = host.run(argv, env=self._environment())
        if not quiet:
            self._say.command(f"{' '.join(argv)}   # on {host.name}")
            self._say.output(done.stdout)
        return done.stdout

    def _answers(self, host: Host) -> bool:
        return bool(self._members(host))

    def _members(self, host: Host) -> list[dict[str, Any]]:
        """Return what a host's agent knows; nothing while it is too busy to answer."""
        done = host.run(["wesher", "members", "-o", "json"], check=False, env=self._environment())
        members: list[dict[str, Any]] = json.loads(done.stdout) if done.returncode == 0 else []
        return members

    def _state(self, host: Host, other: Host) -> str:
        return self._seen(host, other, "state")

    def _leads(self, host: Host, other: Host) -> bool:
        address = self._seen(host, other, "overlayIP")
        return bool(address) and leads_to(host, other.name, address, INTERFACE)

    def _seen(self, host: Host, other: Host, field: str) -> str:
        return next(
            (str(member[field]) for member in self._members(host) if member["name"] == other.name), ""
        )

    def _reaches(self, host: Host, other: Host) -> bool:
        return host.run(["ping", "-c", "1", "-W", "1", other.name], check=False).returncode == 0

    def _wait(self, text: str, holds: Callable[[], object]) -> None:
        def holds_now() -> object:
            for name, agent in self._agents.items():
                if agent.poll() is not None:
                    raise ClaimFailed(f"the agent of {name} ended with status {agent.returncode}")
            return holds()

        self._say.eventually(text, holds_now, within=SOON)


def _listed(names: list[str]) -> str:
    return f" (without an answer: {', '.join(names)})" if names else ""
