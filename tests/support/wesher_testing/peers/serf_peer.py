"""Runs Debian's serf, the other program over memberlist that is in wide use."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from wesher_testing.peers.gossip_mesh import GOSSIP_PORT
from wesher_testing.run import toolbox

_RPC_PORT = 7373
_PATIENCE = 60.0


class SerfPeer:
    """One running serf agent, asked over its RPC port. Made by `serf_peer`."""

    def __init__(self, program: str, process: asyncio.subprocess.Process, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.meta = ""
        """Its tag ``role``."""
        self._program = program
        self._process = process

    async def alive(self) -> dict[str, str]:
        """Return the role of everyone it holds for alive."""
        listing = json.loads(await self._ask("members", "-status=alive", "-format=json"))
        return {member["name"]: member["tags"].get("role", "") for member in listing["members"]}

    async def join(self, address: str) -> None:
        """Join the mesh of the member at an address."""
        await self._ask("join", address)

    async def update(self, meta: str) -> None:
        """Change its role."""
        self.meta = meta
        await self._ask("tags", "-set", f"role={meta}")

    async def leave(self) -> None:
        """Leave; serf ends by itself then."""
        await self._ask("leave")
        await asyncio.wait_for(self._process.wait(), _PATIENCE)

    async def crash(self) -> None:
        """End it as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def serve(self) -> None:
        """Wait until it answers."""
        async with asyncio.timeout(_PATIENCE):
            while True:
                try:
                    await self.alive()
                except RuntimeError:
                    assert self._process.returncode is None, f"serf {self.name} ended"
                    await asyncio.sleep(0.1)
                else:
                    return

    async def _ask(self, verb: str, *arguments: str) -> bytes:
        asked = await asyncio.create_subprocess_exec(
            self._program,
            verb,
            f"-rpc-addr={self.address}:{_RPC_PORT}",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(asked.communicate(), _PATIENCE)
        if asked.returncode != 0:
            raise RuntimeError(f"serf {verb} of {self.name}: {said.decode().strip()}")
        return said


@asynccontextmanager
async def serf_peer(
    name: str,
    address: str,
    meta: str,
    *,
    profile: Literal["lan", "wan"] = "lan",
    key: bytes | None = None,
    compress: bool = True,
) -> AsyncIterator[SerfPeer]:
    """Run a serf agent, and end it without leaving on the way out."""
    root = await asyncio.to_thread(toolbox.debian_package_root, "serf")
    program = str(root / "usr/bin/serf")
    process = await asyncio.create_subprocess_exec(
        program,
        "agent",
        f"-node={name}",
        f"-bind={address}:{GOSSIP_PORT}",
        f"-rpc-addr={address}:{_RPC_PORT}",
        f"-profile={profile}",
        f"-tag=role={meta}",
        *([f"-encrypt={base64.b64encode(key).decode()}"] if key else []),
        *(["-disable-compression"] if not compress else []),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    peer = SerfPeer(program, process, name, address)
    peer.meta = meta
    try:
        await peer.serve()
        yield peer
    finally:
        await peer.crash()
