"""Hosts and processes for stories about devices, where there is nothing but Python, ip, wg and ping.

The same stories run on a machine and inside a VM that has no shell. Everything
lives in namespaces under one process, so that when it ends the kernel ends the
rest: see `in_private_world`.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import select
import signal
import subprocess
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

_CLONE_NEWNS, _CLONE_NEWPID, _CLONE_NEWNET = 0x00020000, 0x20000000, 0x40000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_PR_SET_PDEATHSIG = 1
_PROGRAM_TIMEOUT = 60.0
_libc = ctypes.CDLL(None, use_errno=True)


class StoryFailed(AssertionError):  # noqa: N818 - reads as the fact it states
    """A story did not go as it should; the text holds the trace from inside."""


def in_private_world(story: Callable[[], Any], *, timeout: float) -> Any:
    """Run a story as the first process of pid, network and mount namespaces of its own.

    When it returns, fails or is too slow, the kernel kills what it started.

    Returns:
        What the story returned, as JSON can carry it.

    Raises:
        StoryFailed: it raised, or was not done in time.

    """
    reading, writing = os.pipe()
    outer = os.fork()
    if outer == 0:
        os.close(reading)
        _die_with_parent()
        _must(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWPID), "unshare")
        inner = os.fork()
        if inner == 0:
            _be_first_process(story, writing)
        os.close(writing)
        os.waitpid(inner, 0)
        os._exit(0)
    os.close(writing)
    try:
        report = _read_all(reading, timeout)
    finally:
        os.close(reading)
        os.kill(outer, signal.SIGKILL)
        os.waitpid(outer, 0)
    if report is None:
        raise StoryFailed(f"not done within {timeout:.0f} s")
    if not report:
        raise StoryFailed("its process ended without a word")
    outcome = json.loads(report)
    if "failure" in outcome:
        raise StoryFailed(outcome["failure"])
    return outcome["result"]


class AgentRaised(Exception):  # noqa: N818 - reads as the fact it states
    """A call raised in the agent's process; ``kind`` is the error's class there."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


@dataclass(slots=True)
class Host:
    """A network and mount namespace with loopback up and an empty ``/run/wireguard``."""

    holder: int
    _orders: Connection
    address: IPv4Address = field(default_factory=lambda: IPv4Address("127.0.0.1"))
    """On the cable to the other host, where there is one."""

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a program to its end in this host and return what it printed."""
        self._orders.send(("run", argv))
        status, said, complained = self._orders.recv()
        if check and status != 0:
            raise StoryFailed(f"{' '.join(argv)}: status {status}: {complained}{said}")
        return str(said if check else said + complained)

    def json(self, *argv: str) -> Any:
        """Return what ``ip -j`` says."""
        return json.loads(self.run("ip", "-j", *argv) or "[]")

    def start(self, *argv: str) -> None:
        """Start a program in this host; `finish` waits for it. One at a time."""
        self._orders.send(("start", argv))
        self._orders.recv()

    def finish(self) -> str:
        """Return what the program that was started printed, once it has ended."""
        self._orders.send(("finish", ()))
        return str(self._orders.recv()[1])

    def launch(self, *argv: str, says: Path, environment: Mapping[str, str]) -> int:
        """Start a program in this host that runs until it is sent a signal; return its pid.

        Args:
            argv: the program and its arguments.
            says: the file that its output is added to.
            environment: variables it gets besides ours.

        """
        self._orders.send(("launch", (argv, str(says), dict(environment))))
        return int(self._orders.recv()[0])

    def ended(self, pid: int) -> int:
        """Wait for a program that was launched, and return its status: negative for a signal."""
        self._orders.send(("ended", (pid,)))
        status, _, complained = self._orders.recv()
        if complained:
            raise StoryFailed(f"process {pid}: {complained}")
        return int(status)

    def agent(self, make_state: Callable[[], Awaitable[Any]]) -> Agent:
        """Start a process of ours in this host, with an event loop and a state of its own."""
        return Agent(self, make_state)


class Agent:
    """A process in a host that runs coroutine functions on its own state, one after the other."""

    def __init__(self, host: Host, make_state: Callable[[], Awaitable[Any]]) -> None:
        self._ours, theirs = Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._ours.close()
            only_ever(lambda: _be_agent(host, theirs, make_state))
        theirs.close()

    def call(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Return what a module-level coroutine function returned there.

        Raises:
            AgentRaised: it raised.

        """
        self._ours.send((function, arguments))
        result, error = self._ours.recv()
        if error is not None:
            raise AgentRaised(*error)
        return result

    def kill(self) -> None:
        """End the process as SIGKILL does: nothing is tidied up."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._ours.close()


def make_host() -> Host:
    """Return a new host, with no cable yet."""
    ours, theirs = Pipe()
    holder = os.fork()
    if holder == 0:
        ours.close()
        only_ever(lambda: _be_host(theirs))
    theirs.close()
    host = Host(holder, ours)
    host.run("ip", "link", "set", "lo", "up")
    return host


def two_hosts() -> tuple[Host, Host]:
    """Return two hosts on one cable: 192.0.2.1 and 192.0.2.2 on ``eth0``."""
    first, second = make_host(), make_host()
    first.run(
        "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(second.holder)
    )
    for number, host in enumerate((first, second), start=1):
        _give_address(host, number)
    return first, second


def hosts_on_a_switch(count: int) -> list[Host]:
    """Return hosts 192.0.2.1, .2 and so on, their ``eth0`` plugged into one bridge."""
    switch = make_host()
    switch.run("ip", "link", "add", "lan", "type", "bridge", "mcast_snooping", "0")
    switch.run("ip", "link", "set", "lan", "up")
    hosts = [make_host() for _ in range(count)]
    for number, host in enumerate(hosts, start=1):
        peer = ("type", "veth", "peer", "name", "eth0", "netns", str(host.holder))
        switch.run("ip", "link", "add", f"port{number}", *peer)
        switch.run("ip", "link", "set", f"port{number}", "master", "lan", "up")
        _give_address(host, number)
    return hosts


def enter(holder: int) -> None:
    """Enter the network and mount namespaces of a host, for good."""
    for name in ("net", "mnt"):
        with Path(f"/proc/{holder}/ns/{name}").open() as namespace:
            _must(_libc.setns(namespace.fileno(), 0), f"setns {name}")


def only_ever(task: Callable[[], object]) -> NoReturn:
    """End this forked process with the task, lest it go on with what its parent is doing."""
    try:
        task()
    except (EOFError, KeyboardInterrupt):
        pass
    except BaseException:  # noqa: BLE001 - there is nobody to raise it to
        traceback.print_exc()
    finally:
        os._exit(0)


def mount(kind: str, target: str, *, flags: int = 0) -> None:
    """Mount a file system without a device."""
    _must(_libc.mount(kind.encode(), target.encode(), kind.encode(), flags, None), f"mount {target}")


def _give_address(host: Host, number: int) -> None:
    host.address = IPv4Address(f"192.0.2.{number}")
    host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
    host.run("ip", "address", "add", f"2001:db8::{number}/64", "dev", "eth0", "nodad")
    host.run("ip", "link", "set", "eth0", "up")


def _be_first_process(story: Callable[[], Any], writing: int) -> NoReturn:
    _die_with_parent()
    try:
        _must(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "mount /")
        mount("proc", "/proc")
        outcome = {"result": story()}
    except BaseException:  # noqa: BLE001 - whatever it is, the other side prints it
        outcome = {"failure": traceback.format_exc()}
    with os.fdopen(writing, "w") as pipe:
        json.dump(outcome, pipe)
    os._exit(0)


def _be_agent(host: Host, calls: Connection, make_state: Callable[[], Awaitable[Any]]) -> None:
    enter(host.holder)
    asyncio.run(_serve(calls, make_state))


def _be_host(orders: Connection) -> NoReturn:
    """Run programs in namespaces of its own: starting them here spares a fork of all of Python."""
    _must(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET), "unshare")
    _private_run()
    started: subprocess.Popen[str] | None = None
    launched: dict[int, subprocess.Popen[bytes]] = {}
    options: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    while True:
        what, argv = orders.recv()
        if what == "start":
            started = subprocess.Popen(argv, **options)
            orders.send((0, "", ""))
            continue
        if what == "launch":
            running = _launch(*argv)
            launched[running.pid] = running
            orders.send((running.pid, "", ""))
            continue
        if what == "ended":
            orders.send(_status_of(launched.pop(argv[0])))
            continue
        program = started if what == "finish" and started is not None else subprocess.Popen(argv, **options)
        try:
            said, complained = program.communicate(timeout=_PROGRAM_TIMEOUT)
        except subprocess.TimeoutExpired:
            program.kill()
            said, complained = "", "not done in time"
        orders.send((program.wait(), said, complained))


def _launch(argv: Sequence[str], says: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with Path(says).open("ab") as words:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            env={**os.environ, **environment},
        )


def _status_of(program: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    try:
        return program.wait(_PROGRAM_TIMEOUT), "", ""
    except subprocess.TimeoutExpired:
        program.kill()
        return program.wait(), "", "did not end in time"


def _private_run() -> None:
    Path("/run/wireguard").mkdir(parents=True, exist_ok=True)
    mount("tmpfs", "/run/wireguard")


def _die_with_parent() -> None:
    _must(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")


async def _serve(connection: Connection, make_state: Callable[[], Awaitable[Any]]) -> None:
    state = await make_state()
    while True:
        try:
            function, arguments = await asyncio.to_thread(connection.recv)
        except EOFError:
            return
        result = error = None
        try:
            result = await function(state, *arguments)
        except Exception as raised:  # noqa: BLE001 - it is raised where the call was made
            error = (type(raised).__name__, str(raised) or traceback.format_exc())
        connection.send((result, error))


def _read_all(descriptor: int, timeout: float) -> bytes | None:
    data = b""
    while select.select([descriptor], [], [], timeout)[0]:
        more = os.read(descriptor, 1 << 16)
        if not more:
            return data
        data += more
    return None


def _must(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
