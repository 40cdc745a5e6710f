"""One agent an interface: a claim that only root, or the user of another agent, can take.

Each agent listens at an abstract socket with a random name. Such names belong to a network
namespace, as interfaces do, so they also tell agents in two containers on the network of one
host apart from each other, which share no directory; and they end with their process. Any
local user can take such a name. That is why each name that is found is asked for the user who
took it (SO_PEERCRED), and one of another user is ignored.

Agents of two users other than root do not notice each other here; their ports clash then.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from wesher_common.errors import InvalidSpec

_SOCKETS: Final = Path("/proc/net/unix")
_CREDENTIALS: Final = struct.Struct("3i")
"""pid, uid and gid, as of ``struct ucred``."""
_BACKLOG: Final = 4096
"""Connections wait here until the agent ends: one for each agent that starts in vain."""


def claim_interface(interface: str) -> socket.socket:
    """Keep other agents from an interface, whatever their files, for as long as the socket is open.

    Without it, one agent would adopt the device of another that runs. Of two agents that start
    at the same moment, both may be refused.

    Raises:
        InvalidSpec: another agent has it.

    """
    own = f"wesher/{interface}/{secrets.token_hex(8)}"
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(f"\0{own}")
        claim.listen(_BACKLOG)
        # Only now: of two agents, at least the later one sees the other.
        _refuse_if_claimed(interface, own)
    except BaseException:
        claim.close()
        raise
    return claim


def _refuse_if_claimed(interface: str, own: str) -> None:
    for name in _claims(interface):
        if name != own and (holder := _agent_behind(name)) is not None:
            shown = f" (pid {holder})" if holder else ""
            rule = f"is used by another agent on this host{shown}: choose another --interface"
            raise InvalidSpec("interface", rule, value=interface)


def _claims(interface: str) -> Iterator[str]:
    with suppress(OSError):
        for line in _SOCKETS.read_text(errors="surrogateescape").splitlines():
            _, found, name = line.partition(f" @wesher/{interface}/")
            if found:
                yield f"wesher/{interface}/{name}"


def _agent_behind(name: str) -> int | None:
    """Return the pid of the agent that has a name, 0 if it is in another container; None if it is not one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(0.0)
        try:
            client.connect(b"\0" + os.fsencode(name))
            found = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            # It has just ended, or does not listen as agents do. One with a full queue counts as such:
            # a user without rights can fill a queue, and must not keep an agent from starting.
            return None
    pid, uid, _ = _CREDENTIALS.unpack(found)
    return pid if uid in {0, os.geteuid()} else None
