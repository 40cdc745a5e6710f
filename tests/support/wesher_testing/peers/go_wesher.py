"""A machine that runs the Go program, as far as any other member can tell.

hashicorp/memberlist gossips with the Go program's timing, encoding/gob writes and reads what
members say of themselves, and the tunnels are what it makes of that: its own key, each
member's overlay address alone, at the gossip address and the common port.

``python -m wesher_testing.peers.go_wesher`` runs it on this machine, as the Go program's service
does: with its variables ``WESHER_CLUSTER_KEY`` and ``WESHER_JOIN`` and its state file. SIGTERM
makes it leave and end.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey
from wesher_common.overlay import candidate_address
from wesher_testing.agents.mesh import INTERFACE, ask_socket, device_socket
from wesher_testing.agents.process import wait_until
from wesher_testing.lab.namespaces import Host
from wesher_testing.peers.go_peer import JSON, GoPeer, go_peer
from wesher_testing.peers.gob_peer import GobPeer
from wesher_testing.run.toolbox import wireguard_go

_WIREGUARD_PORT = 51820
_MTU = "1420"
_OVERLAY = IPv4Network("10.0.0.0/8")
"""The Go program's default."""
_STATE = Path("/var/lib/wesher/wgoverlay.json")
_LOOK_SECONDS = 0.2
Run = Callable[[Sequence[str], str], object]
"""Runs a program with this text on its standard input."""


class GoWesher:
    """One such machine. Made by `go_wesher`.

    Attributes:
        address: its overlay address, by the Go program's rule.
        public_key: its WireGuard key.

    """

    def __init__(self, peer: GoPeer, run: Run, device: Path, address: str, key: WireGuardPrivateKey) -> None:
        self.address = address
        self.public_key = key.public
        self.peer = peer
        self._run = run
        self._device = device
        self._key = key

    async def connect(self, *members: str) -> None:
        """Make tunnels to these members once they have said which addresses and keys they have.

        In a form that Go reads: a mesh that was bound speaks the compact one until all agents know better.
        """
        known = await self.peer.until_members(
            lambda told: all(name in told and _is_gob(told[name]["meta"]) for name in members)
        )
        await asyncio.to_thread(self.configure, [known[name] for name in members])

    async def leave(self) -> None:
        """Leave the mesh, as at the program's end."""
        await self.peer.leave()

    def configure(self, members: list[JSON]) -> None:
        """Make tunnels to these members, and to no others."""
        lines = [
            *("set=1", f"private_key={self._key.secret.hex()}", f"listen_port={_WIREGUARD_PORT}"),
            "replace_peers=true",
        ]
        commands = [
            f"address replace {self.address}/32 dev {INTERFACE}",
            f"link set dev {INTERFACE} mtu {_MTU} up",
        ]
        for member in members:
            said = GobPeer().decode(bytes.fromhex(member["meta"]))
            lines += [
                f"public_key={WireGuardPublicKey.from_base64(said['key']).raw.hex()}",
                f"endpoint={member['addr']}:{_WIREGUARD_PORT}",
                f"allowed_ip={said['addr']}/32",
            ]
            commands.append(f"route replace {said['addr']}/32 dev {INTERFACE} scope link")
        answer = ask_socket(self._device, "\n".join([*lines, "", ""]).encode())
        if answer.strip() != b"errno=0":
            raise RuntimeError(f"{self.peer.name}: wireguard-go answered {answer!r}")
        self._run(["ip", "-batch", "-"], "\n".join(commands) + "\n")


@asynccontextmanager
async def go_wesher(
    host: Host, *, key: bytes, overlay: IPv4Network, seed: IPv4Address
) -> AsyncIterator[GoWesher]:
    """Run the program on a host, joined to a mesh, and end it without leaving on the way out.

    Args:
        host: whose name is the member's.
        key: the cluster key.
        overlay: the mesh's network, of whole octets.
        seed: where a member gossips.

    """
    carrier = host.popen(
        [wireguard_go(), "--foreground", INTERFACE],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        private_key, address, meta = _identity(host.name, overlay)
        async with go_peer(
            host.name, str(host.ipv4), profile="wan", keys=[key], meta=meta, host=host
        ) as peer:
            await peer.join(str(seed))
            device = device_socket(host.root)
            await asyncio.to_thread(wait_until, device.exists, what=f"wireguard-go of {host.name} listens")

            def run(argv: Sequence[str], text: str) -> object:
                return host.run(argv, text_in=text)

            yield GoWesher(peer, run, device, address, private_key)
    finally:
        carrier.kill()
        carrier.wait()


def _is_gob(meta: str) -> bool:
    """Tell whether metadata, in hexadecimal digits, is there and begins as gob does."""
    return bool(meta) and not meta.startswith("00")


def _identity(name: str, overlay: IPv4Network) -> tuple[WireGuardPrivateKey, str, bytes]:
    """Return a new key, the overlay address, and what a member says of itself."""
    private_key = WireGuardPrivateKey.from_random(os.urandom(32))
    address = str(candidate_address(name, overlay))
    return private_key, address, GobPeer().encode("go", addr=address, key=str(private_key.public))


async def serve() -> None:
    """Run the program on this machine until SIGTERM, then leave."""
    saved: dict[str, Any] = json.loads(_STATE.read_text()) if _STATE.exists() else {"Nodes": []}
    key = os.environ.get("WESHER_CLUSTER_KEY") or saved["ClusterKey"]
    seeds = [seed for seed in os.environ.get("WESHER_JOIN", "").split(",") if seed]
    seeds = seeds or [node["Addr"] for node in saved["Nodes"]]
    name = socket.gethostname()
    private_key, overlay_address, meta = _identity(name, _OVERLAY)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    carrier = subprocess.Popen([wireguard_go(), "--foreground", INTERFACE], stdin=subprocess.DEVNULL)
    address = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()[0]
    try:
        async with go_peer(name, address, profile="wan", keys=[base64.b64decode(key)], meta=meta) as peer:
            device = device_socket(Path("/"))
            await asyncio.to_thread(wait_until, device.exists, what="wireguard-go listens")
            member = GoWesher(peer, _run_here, device, overlay_address, private_key)
            known: list[JSON] | None = None
            while not ended.is_set():
                if seeds and not known:
                    for seed in seeds:
                        with suppress(RuntimeError):
                            await peer.join(seed)
                present = [
                    told for told in (await peer.members()).values() if told["name"] != name and told["meta"]
                ]
                if known is None or _by_name(present) != _by_name(known):
                    known = present
                    _save(key, known)
                    await asyncio.to_thread(member.configure, known)
                with suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), _LOOK_SECONDS)
            _save(key, known or [])
            await member.leave()
    finally:
        carrier.terminate()
        carrier.wait()


def _by_name(members: list[JSON]) -> dict[str, tuple[str, str]]:
    return {told["name"]: (told["addr"], told["meta"]) for told in members}


def _save(key: str, members: list[JSON]) -> None:
    nodes = [
        {
            "Name": told["name"],
            "Addr": told["addr"],
            "Meta": base64.b64encode(bytes.fromhex(told["meta"])).decode(),
            "OverlayAddr": "",
            "PubKey": "",
        }
        for told in members
    ]
    _STATE.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _STATE.touch(mode=0o600)
    _STATE.write_text(json.dumps({"ClusterKey": key, "Nodes": nodes}, indent=2))


def _run_here(argv: Sequence[str], text: str) -> object:
    return subprocess.run(argv, input=text, text=True, check=True, capture_output=True)


if __name__ == "__main__":
    asyncio.run(serve())
