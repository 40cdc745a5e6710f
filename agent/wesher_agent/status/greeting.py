"""What an agent that starts on a terminal says first; pure."""

from __future__ import annotations

from collections.abc import Sequence

from wesher_agent.flags import FLAGS
from wesher_agent.status.answers import join_flags
from wesher_agent.status.snapshot import Snapshot
from wesher_common.printable import as_lines, shell_line

_DEFAULTS = {flag.name: str(flag.default) for flag in FLAGS}


def greeting(now: Snapshot, *, reach: Sequence[str]) -> str:
    """Return four lines: the name, the overlay address, how to add a machine and how to see the mesh.

    Args:
        now: the agent after its start.
        reach: the flags with which a command asks this agent.

    """
    address, interface = now.local.overlay_address, now.local.document.wireguard.interface
    more = shell_line(["wesher", "join-command", *reach])
    return as_lines(
        [
            f"name:            {now.local.name}",
            f"overlay address: {address} on {interface}",
            f"add a machine:   {join_flags(now).command(defaults=_DEFAULTS)}  ({more} shows how)",
            f"see the mesh:    {shell_line(['wesher', 'members', *reach])}",
        ]
    )
