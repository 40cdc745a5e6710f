"""The real ``wesher`` as processes in a lab's hosts.

An agent here is what a user starts: the installed command with flags. Tests ask
it over its control socket, as the commands do, and look at the host it runs on.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wesher_agent.control import AgentUnreachable, ask, socket_path
from wesher_agent.files.state_format import parse_state
from wesher_testing.lab.loopback import free_port
from wesher_testing.lab.namespaces import Host
from wesher_testing.peers.gossip_mesh import GOSSIP_PORT
from wesher_testing.run.toolbox import wireguard_go

WESHER = Path(sys.executable).parent / "wesher"
SECRET = bytes(range(100, 132))
KEY = base64.b64encode(SECRET).decode()
PATIENCE = 60.0
"""Seconds for what takes a moment, or a few, on a machine that has nothing else to do."""
_LOOK_SECONDS = 0.1


def wait_until(reached: Callable[[], object], *, what: str, deadline: float = PATIENCE) -> float:
    """Wait for something in the real world; return how many seconds it took.

    Raises:
        AssertionError: it did not come about within ``deadline`` seconds.

    """
    start = time.monotonic()
    while not reached():
        assert time.monotonic() < start + deadline, f"not within {deadline} s: {what}"
        time.sleep(_LOOK_SECONDS)
    return time.monotonic() - start


def agent_without_device(directory: Path, interface: str) -> subprocess.Popen[bytes]:
    """Start an agent that cannot have a device, on the loopback; return once it answers commands."""
    agent = subprocess.Popen(
        [
            WESHER,
            f"--interface={interface}",
            "--bind-addr=127.0.0.1",
            f"--cluster-port={free_port('127.0.0.1')}",
            f"--state-dir={directory}",
            f"--run-dir={directory}",
            "--init",
            "--wireguard-mode=Userspace",
            "--userspace-binary=/nowhere/wireguard-go",
            "--no-etc-hosts",
        ],
        env={**os.environ, "WESHER_CLUSTER_KEY": KEY},
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: socket_path(directory, interface).is_socket(), what="the agent answers")
    return agent


class AgentProcess:
    """One running agent.

    Args:
        host: where it runs.
        flags: further than `standard_flags`, whose values they may override.
        wrapper: what to start it through, such as setpriv.
        interface: its WireGuard interface.
        bare: whether to leave `standard_flags` away, which mesh.json decides in Kubernetes.
        options: for ``subprocess.Popen``.

    """

    def __init__(
        self,
        host: Host,
        *flags: str | Path,
        wrapper: Sequence[str] = (),
        interface: str = "wgoverlay",
        bare: bool = False,
        **options: Any,
    ) -> None:
        self.host = host
        self.interface = interface
        self.log = host.root / "run/agent.log"
        usual = _common_flags() if bare else [*standard_flags(), f"--interface={interface}"]
        command = [*wrapper, WESHER, *usual, *flags]
        self._before = self.log_text
        # Settings of the tests, such as WESHER_CACHE, are unknown to an agent, which says so.
        env = {name: value for name, value in os.environ.items() if not name.startswith("WESHER_")}
        if options:
            self.process: subprocess.Popen[Any] = host.popen(command, env=env, **options)
        else:
            self.process = host.log_of(command, self.log, env=env)

    @property
    def log_text(self) -> str:
        """Everything this host's agents have said so far."""
        # A line may be read while it is written, in the middle of a character.
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def own_log(self) -> str:
        """What this one has said."""
        return self.log_text.removeprefix(self._before)

    def ask(self, command: str) -> Any:
        """Return the agent's answer; None while nobody answers."""
        try:
            return ask(self.host.root / f"run/wesher/{self.interface}.sock", command)
        except AgentUnreachable:
            return None

    def status(self) -> dict[str, Any]:
        """Return its status, once it answers: a busy agent may let a question pass."""
        status: dict[str, Any] = self._answer("status")
        return status

    def members(self) -> dict[str, dict[str, Any]]:
        """Return the members by name, once it answers."""
        return {entry["name"]: entry for entry in self._answer("members")}

    def counts(self) -> dict[str, int]:
        """Return how often each kind of trouble happened, once it answers."""
        counts: dict[str, int] = self.status()["counts"]
        return counts

    def conditions(self) -> dict[str, str]:
        """Return the reason of each condition, once it answers."""
        return {entry["type"]: entry["reason"] for entry in self.status()["conditions"]}

    def _answer(self, command: str) -> Any:
        answers: list[Any] = []

        def answered() -> bool:
            answers.append(self.ask(command))
            return answers[-1] is not None

        wait_until(answered, what=f"the agent of {self.host.name} answers")
        return answers[-1]

    def sees(self, *alive: str) -> bool:
        """Tell whether exactly these are alive, ourselves included; not while the agent does not answer."""
        members = self.ask("members") or []
        return {entry["name"] for entry in members if entry["state"] == "alive"} == set(alive)

    def wait_for(self, *alive: str, deadline: float = PATIENCE) -> float:
        """Wait until exactly these are alive; return how long it took."""
        try:
            what = f"{self.host.name} sees {', '.join(alive)}"
            return wait_until(lambda: self.sees(*alive), deadline=deadline, what=what)
        except AssertionError as error:
            error.add_note(self.own_log[-3000:])
            raise

    def wait_device(self) -> None:
        """Wait until it has set its device up: it answers before."""
        wait_until(lambda: "device ready" in self.own_log, what=f"the device of {self.host.name} is ready")

    def wait_saved(self, *others: str) -> None:
        """Wait until its state file names these members, so that a start after a kill finds them."""
        state = self.host.root / f"var/lib/wesher/{self.interface}.json"

        def names() -> set[str]:
            return {node.name for node in parse_state(state.read_bytes(), gossip_port=GOSSIP_PORT)[0].nodes}

        wait_until(
            lambda: state.exists() and names() >= set(others),
            what=f"the state file of {self.host.name} names {', '.join(others)}",
        )

    def end(self, number: int = signal.SIGTERM, *, deadline: float = PATIENCE) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(deadline)


def standard_flags() -> list[str | Path]:
    """Return what every agent outside Kubernetes is started with: fast gossip and the lab's link."""
    return [*_common_flags(), "--gossip-profile=LAN", "--bind-iface=eth0"]


def _common_flags() -> list[str | Path]:
    return ["--log-level=debug", f"--userspace-binary={wireguard_go()}"]


def run_to_end(host: Host, *flags: str | Path) -> subprocess.CompletedProcess[str]:
    """Run an agent that is expected to end by itself at once."""
    return host.run([WESHER, *standard_flags(), *flags], check=False, timeout=PATIENCE)


def pings(host: Host, target: str) -> bool:
    """Tell whether a name or address answers a ping."""
    return host.run(["ping", "-c1", "-W2", target], check=False).returncode == 0


def wait_for_ping(host: Host, target: str, *, deadline: float = PATIENCE) -> float:
    """Wait until a name or address answers a ping; return how long it took.

    WireGuard tries a handshake that was lost again after 5 s, and once more after 10.
    """
    return wait_until(lambda: pings(host, target), deadline=deadline, what=f"{host.name} pings {target}")
