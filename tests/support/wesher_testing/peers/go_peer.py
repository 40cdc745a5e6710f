"""Runs ``tests/support/go/gossip_peer``: a real member over hashicorp/memberlist itself."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from wesher_testing.lab.namespaces import Host
from wesher_testing.run import toolbox

Library = Literal["0.6", "0.7"]
LIBRARIES: tuple[Library, ...] = ("0.6", "0.7")

_MODULE = toolbox.REPOSITORY / "tests/support/go/gossip_peer"
_MODFILES = {"0.6": "go.mod", "0.7": "newest.mod"}
_PATIENCE = 60.0
"""Seconds for what should take a moment, on a machine that is busy."""

JSON = dict[str, Any]


@functools.cache
def binary(library: Library) -> Path:
    """Return the peer built against that release of memberlist."""
    return toolbox.go_binary(_MODULE, ".", f"gossip_peer-{library}", modfile=_MODFILES[library])


class GoPeer:
    """One running Go member: what it told, and commands to it.

    Made by `go_peer`. The commands are the verbs of ``main.go``.
    """

    def __init__(self, process: asyncio.subprocess.Process, name: str, address: str, port: int) -> None:
        self.name = name
        self.address = address
        self.port = port
        self.meta = ""
        """What it says of itself, where that is text."""
        self.events: list[JSON] = []
        """Everything it told unasked, in order."""
        self._process = process
        self._asked: deque[asyncio.Future[JSON]] = deque()
        """One for each command that waits for its answer, in the order in which they were written."""
        self._told = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def ask(self, command: str) -> JSON:
        """Give one command and return its answer.

        Raises:
            RuntimeError: the library refused it, in its words.
            AssertionError: the member ended, or answers nothing.

        """
        verb = command.split(maxsplit=1)[0]
        assert self._process.stdin is not None
        assert not self._reading.done(), f"{self.name}: {verb}: the member ended"
        answered: asyncio.Future[JSON] = asyncio.get_running_loop().create_future()
        self._asked.append(answered)
        self._process.stdin.write(command.encode() + b"\n")
        try:
            answer = await asyncio.wait_for(answered, 2 * _PATIENCE)
        except TimeoutError:
            raise AssertionError(f"{self.name}: {verb}: no answer") from None
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {verb}: {answer['error']}")
        return answer

    async def members(self) -> dict[str, JSON]:
        """Return whom it holds for alive or suspect, by name."""
        return {member["name"]: member for member in (await self.ask("members"))["members"]}

    async def alive(self) -> dict[str, str]:
        """Return the metadata, as text, of everyone it holds for alive or suspect."""
        return {name: bytes.fromhex(told["meta"]).decode() for name, told in (await self.members()).items()}

    async def join(self, address: str) -> None:
        """Exchange state with the member at an address, at its own port."""
        await self.ask(f"join {address}:{self.port}")

    async def update(self, meta: str) -> None:
        """Announce other metadata."""
        self.meta = meta
        await self.ask(f"meta {meta.encode().hex()}")

    async def leave(self) -> None:
        """Leave, and end once that has gone out."""
        await self.ask("leave")
        await self.crash()

    async def received(self) -> dict[str, int]:
        """Return how often it met each wrapper on what it received."""
        counts: dict[str, int] = (await self.ask("wrappers"))["received"]
        return counts

    async def told(self, event: str, *, timeout: float = _PATIENCE, **fields: Any) -> JSON:
        """Return the first event of that kind with those fields, waiting for it if need be."""

        def matching() -> list[JSON]:
            wanted = {"event": event, **fields}
            return [told for told in self.events if wanted.items() <= told.items()]

        try:
            async with self._told, asyncio.timeout(timeout):
                await self._told.wait_for(matching)
        except TimeoutError:
            raise AssertionError(f"{self.name} told no {event} {fields} but {self.events}") from None
        return matching()[0]

    async def until_members(
        self, satisfied: Callable[[dict[str, JSON]], bool], *, timeout: float = _PATIENCE
    ) -> dict[str, JSON]:
        """Return its members as soon as they are as wanted.

        Raises:
            AssertionError: they are not in time; the text says what they are.

        """
        members: dict[str, JSON] = {}
        try:
            async with asyncio.timeout(timeout):
                while not satisfied(members := await self.members()):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{self.name} after {timeout} s: {members}") from None
        return members

    async def crash(self) -> None:
        """End it as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message = json.loads(line)
            if "answer" in message:
                # Not a queue: a later caller could take the answer before the waiting one wakes.
                answered = self._asked.popleft()
                if not answered.done():
                    answered.set_result(message)
                continue
            async with self._told:
                self.events.append(message)
                self._told.notify_all()
        for answered in self._asked:
            if not answered.done():
                answered.set_exception(AssertionError(f"{self.name}: the member ended"))


@asynccontextmanager
async def go_peer(
    name: str,
    address: str,
    *,
    library: Library = "0.6",
    port: int = 7946,
    profile: Literal["lan", "wan", "local"] = "lan",
    probe_interval: float = 0.0,
    probe_timeout: float = 0.0,
    keys: Sequence[bytes] = (),
    label: str = "",
    compress: bool = True,
    protocol: int = 2,
    meta: bytes = b"",
    user_state: bytes = b"",
    tcp_pings: bool = True,
    mapped: bool = False,
    host: Host | None = None,
) -> AsyncIterator[GoPeer]:
    """Start a Go member, and end it without leaving on the way out.

    Args:
        name: the member's name.
        address: where it listens, a loopback address that no other test uses at the time.
        library: which release of memberlist.
        port: the UDP and TCP port.
        profile: memberlist's constants.
        probe_interval: in seconds; 0 for the profile's, as below.
        probe_timeout: of the direct ping.
        keys: the key ring, primary first; none sends in clear.
        label: the mesh's label.
        compress: whether it sends compressed what gets smaller by it.
        protocol: the protocol it speaks; 1 encrypts in version 0.
        meta: its metadata.
        user_state: what it adds to push/pulls.
        tcp_pings: whether it falls back to pings over TCP.
        mapped: whether it writes its IPv4 address in 16 bytes, as a member bound to 0.0.0.0 does.
        host: of a lab, where it runs; by default this machine.

    """
    switches = {"compress": compress, "tcp-pings": tcp_pings, "mapped": mapped}
    values = {
        "name": name,
        "bind": address,
        "port": port,
        "profile": profile,
        "probe-interval": f"{probe_interval}s",
        "probe-timeout": f"{probe_timeout}s",
        "keys": ",".join(key.hex() for key in keys),
        "label": label,
        "protocol": protocol,
        "meta": meta.hex(),
        "state": user_state.hex(),
        **{switch: str(on).lower() for switch, on in switches.items()},
    }
    command = [
        str(await asyncio.to_thread(binary, library)),
        *(f"-{flag}={value}" for flag, value in values.items()),
    ]
    process = await asyncio.create_subprocess_exec(
        *(host.command(command) if host is not None else command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    peer = GoPeer(process, name, address, port)
    peer.meta = meta.decode(errors="replace")
    try:
        await peer.told("ready")
        yield peer
    finally:
        await peer.crash()
