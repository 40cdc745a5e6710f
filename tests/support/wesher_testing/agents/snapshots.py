"""Moments of an agent, for tests of what it says about itself."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from wesher_agent.mesh.cover import Cover
from wesher_agent.mesh.roster import RosterMember
from wesher_agent.mesh.view import MemberView
from wesher_agent.status.snapshot import Snapshot
from wesher_testing.virtual.members import local_node

_OF_THE_MEMBER = {field.name for field in fields(MemberView)}


def snapshot(*members: RosterMember, **changes: Any) -> Snapshot:
    """Return an agent whose parts all work and that knows these members.

    Args:
        members: the others.
        changes: other values for fields of the snapshot, or of the member's view in it.

    """
    member: dict[str, Any] = {
        "now": 1000.0,
        "local": local_node("a"),
        "members": {entry.name: entry for entry in members},
        "problems": (),
        "cover": Cover("Overlay"),
        "can_probe": True,
        "claimants": (),
        "rival": "",
        "copy": "",
        "other_key_at": "",
        "listen_problem": "",
        "save_problem": "",
        "news_number": 0,
        "unpublished_news": b"",
        "uptime": 61.04,
    }
    agent: dict[str, Any] = {
        "device_ready": True,
        "device_reason": "",
        "device_problem": "",
        "mode": "Kernel",
        "mtu": 1420,
        "hosts": "written",
        "observed": {},
        "reachable": frozenset(),
        "unreachable": (),
        "mostly_unreachable": False,
        "probes_settled": True,
        "rejected": {},
        "counts": {},
        "source_problem": "",
        "health_problem": "",
        "carry_problems": (),
        "removed": False,
        "generation": 1,
        "machine": "",
        "version": "1.0",
        "wall_clock": 1_000_000.0,
        "changed_at": {},
    }
    for name, value in changes.items():
        (member if name in _OF_THE_MEMBER else agent)[name] = value
    member.setdefault("has_seeds_elsewhere", bool(member["local"].seeds))
    return Snapshot(member=MemberView(**member), **agent)
