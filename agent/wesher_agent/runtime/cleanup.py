"""Removes what an agent left on this host that no longer runs here: device, routes, rules, files.

It sends nothing to other members, and needs no API server: after a namespace was
deleted, there is neither. It refuses while an agent runs.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from wesher_agent.control import socket_path
from wesher_agent.files.atomic import CannotWrite
from wesher_agent.files.hosts import HostsFile
from wesher_agent.files.link_memory import LinkMemory
from wesher_agent.files.state import StateFile
from wesher_agent.mesh.saved_state import SavedState
from wesher_agent.netlink.rights import check_rights
from wesher_agent.runtime.claim import claim_interface
from wesher_agent.wireguard.carrying import remove_carrying
from wesher_agent.wireguard.device import find_device
from wesher_agent.wireguard.link import link_index, remove_own_unreachable
from wesher_agent.wireguard.ownership import Owner
from wesher_common.errors import InvalidSpec
from wesher_common.keys import KEY_BYTES, WireGuardPrivateKey
from wesher_common.overlay import IPNetwork

CARRIED_REMOVED = "rules, routes and link settings of carried traffic removed"
_GOSSIP_PORT = 7946
"""Of saved members without one. They are not used here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """Where an agent may have left something."""

    interface: str
    state_dir: Path
    run_dir: Path
    hosts_file: Path
    overlay: IPNetwork
    """Used where the state file does not name the overlay, as outside Kubernetes."""


def interfaces_with_state(state_dir: Path) -> list[str]:
    """Return the interfaces whose agents left a state file."""
    return sorted(path.stem for path in state_dir.glob("*.json") if path.name != "state.json")


def clean_up(left: Leftovers) -> list[str]:
    """Remove it all; return a line for each thing that was removed, or was left to another program.

    Raises:
        InvalidSpec: an agent runs on the interface, or this process may not change the network.
        WesherError: something could not be removed. What comes before it is gone, and the
            state file, which tells whose device it is, goes last.

    """
    check_rights()
    with ExitStack() as held:
        try:
            held.enter_context(claim_interface(left.interface))
        except InvalidSpec as error:
            rule = "an agent runs on it: stop it first, or run `wesher leave --forget`"
            raise InvalidSpec("interface", rule, value=left.interface) from error
        state_file = StateFile(left.state_dir / f"{left.interface}.json", gossip_port=_GOSSIP_PORT)
        saved = SavedState()
        if left.state_dir.is_dir():
            state_file.lock()
            held.callback(state_file.unlock)
            saved = state_file.load().state
        return [*_network(left, saved), *_files(left, state_file)]


def _network(left: Leftovers, saved: SavedState) -> list[str]:
    interface, overlay = left.interface, saved.mesh.overlay if saved.mesh is not None else left.overlay
    # Without a saved key, routes and addresses tell whether the device is wesher's.
    key = saved.private_key or WireGuardPrivateKey.from_random(os.urandom(KEY_BYTES))
    memory = LinkMemory(left.state_dir, interface)
    lines = []
    if remove_carrying(interface, memory):
        lines.append(CARRIED_REMOVED)
    had_device = link_index(interface) is not None
    if had_device:
        asyncio.run(_remove_device(interface, Owner(key.public, overlay), memory))
        if link_index(interface) is None:
            lines.append(f"device {interface} removed, with its routes")
        else:
            lines.append(f"device {interface} kept: it belongs to another program")
    # They outlast a device.
    if (count := remove_own_unreachable(interface, overlay)) and not had_device:
        lines.append(f"{count} unreachable routes removed")
    return lines


async def _remove_device(interface: str, owner: Owner, memory: LinkMemory) -> None:
    device = await find_device(interface, memory)
    if device is not None:
        await device.remove(owner)


def _files(left: Leftovers, state_file: StateFile) -> list[str]:
    lines = []
    if left.hosts_file.exists() and HostsFile(left.hosts_file, left.interface).remove():
        lines.append(f"hosts entries removed from {left.hosts_file}")
    control = socket_path(left.run_dir, left.interface)
    try:
        control.unlink(missing_ok=True)
    except OSError as error:
        raise CannotWrite(control, error.strerror or str(error)) from error
    path = state_file.present_path()
    if left.state_dir.is_dir():
        state_file.remove()
    if path is not None:
        lines.append(f"state file {path} removed, with the keys")
    return lines
