"""A machine that runs the Go program, as far as any other member can tell.

hashicorp/memberlist gossips with the Go program's timing, encoding/gob writes and reads what
members say of themselves, and the tunnels are what it makes of that: its own key, each
member's overlay address alone, at the gossip address and the common port.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network

from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey
from wesher_common.overlay import candidate_address
from wesher_testing.agents.mesh import INTERFACE, ask_device
from wesher_testing.agents.process import wait_until
from wesher_testing.lab.namespaces import Host
from wesher_testing.peers.go_peer import JSON, GoPeer, go_peer
from wesher_testing.peers.gob_peer import GobPeer
from wesher_testing.run.toolbox import wireguard_go

_WIREGUARD_PORT = 51820
_MTU = "1420"


class GoWesher:
    """One such machine. Made by `go_wesher`.

    Attributes:
        address: its overlay address, by the Go program's rule.
        public_key: its WireGuard key.

    """

    def __init__(self, peer: GoPeer, host: Host, address: str, key: WireGuardPrivateKey) -> None:
        self.address = address
        self.public_key = key.public
        self._peer = peer
        self._host = host
        self._key = key

    async def connect(self, *members: str) -> None:
        """Make tunnels to these members once they have said which addresses and keys they have."""
        known = await self._peer.until_members(
            lambda told: all(name in told and told[name]["meta"] for name in members)
        )
        await asyncio.to_thread(self._configure, [known[name] for name in members])

    async def leave(self) -> None:
        """Leave the mesh, as at the program's end."""
        await self._peer.leave()

    def _configure(self, members: list[JSON]) -> None:
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
            commands.append(f"route add {said['addr']}/32 dev {INTERFACE} scope link")
        answer = ask_device(self._host, "\n".join([*lines, "", ""]).encode())
        if answer.strip() != b"errno=0":
            raise RuntimeError(f"{self._host.name}: wireguard-go answered {answer!r}")
        self._host.run(["ip", "-batch", "-"], text_in="\n".join(commands) + "\n")


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
    private_key = WireGuardPrivateKey.from_random(os.urandom(32))
    address = str(candidate_address(host.name, overlay))
    meta = GobPeer().encode("go", addr=address, key=str(private_key.public))
    carrier = host.popen(
        [wireguard_go(), "--foreground", INTERFACE],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with go_peer(
            host.name, str(host.ipv4), profile="wan", keys=[key], meta=meta, host=host
        ) as peer:
            await peer.join(str(seed))
            device = host.root / f"run/wireguard/{INTERFACE}.sock"
            await asyncio.to_thread(wait_until, device.exists, what=f"wireguard-go of {host.name} listens")
            yield GoWesher(peer, host, address, private_key)
    finally:
        carrier.kill()
        carrier.wait()
