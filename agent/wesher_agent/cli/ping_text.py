"""``wesher ping``: its texts, and the reason that the agent knows for a missing answer; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wesher_common.printable import printable
from wesher_common.tables import age

FRESH_SECONDS = 180.0
"""How old the last handshake of a working tunnel is at most (WireGuard's REJECT_AFTER_TIME)."""
_MILLISECONDS = 1000.0


def answer_line(sequence: int, member: Mapping[str, Any], seconds: float) -> str:
    """Return the line of one answer."""
    who = f"{member['name']} ({member['overlayIP']})"
    return printable(f"answer from {who}: seq={sequence} time={_ms(seconds)} ms")


def failure_line(member: Mapping[str, Any], why: str) -> str:
    """Return the last line of a ping without an answer.

    Args:
        member: as the agent answered.
        why: what is the matter, after the member's name.

    """
    return printable(f"{member['name']} {why}")


def summary_line(sent: int, times: Sequence[float]) -> str:
    """Return how many were answered, and the round-trip times in seconds as milliseconds."""
    counts = f"{sent} sent, {len(times)} answered"
    if not times:
        return counts
    spread = "/".join(_ms(value) for value in (min(times), sum(times) / len(times), max(times)))
    return f"{counts}, min/avg/max {spread} ms"


def why_no_tunnel(member: Mapping[str, Any]) -> str:
    """Return why nothing can be sent to a member; empty if it has a tunnel."""
    # Of a member that left, WireGuard may have the peer for a moment longer.
    if member["receivedBytes"] is not None and member["state"] != "left":
        return ""
    return _state_reason(member) or member["note"] or "it is not set up yet: try again in a few seconds"


def why_no_answer(member: Mapping[str, Any]) -> str:
    """Return what the agent knows about a member whose tunnel exists and that did not answer."""
    if member["state"] == "left":
        return _state_reason(member)
    known = [_state_reason(member), member["note"], _handshake_reason(member)]
    return "; ".join(reason for reason in known if reason)


def _state_reason(member: Mapping[str, Any]) -> str:
    for_how_long = f"{age(member['stateSeconds'])} ago"
    match member["state"]:
        case "left":
            return f"it left the mesh {for_how_long}"
        case "failed":
            return f"it failed {for_how_long}: it does not answer gossip either"
        case "suspect":
            return f"it has not answered gossip for {age(member['stateSeconds'])}"
    return ""


def _handshake_reason(member: Mapping[str, Any]) -> str:
    endpoint, seconds = member["endpoint"] or "an unknown endpoint", member["handshakeSeconds"]
    if seconds is None:
        return f"no handshake with {endpoint} yet: check that its UDP port is open between both hosts"
    if seconds > FRESH_SECONDS:
        return (
            f"no handshake with {endpoint} for {age(seconds)}: "
            "check that its UDP port is open between both hosts"
        )
    told = f"the last handshake with {endpoint} is {age(seconds)} old"
    if member["state"] != "alive":
        return told
    return f"{told}, so the tunnel itself may work: check whether a firewall on that host drops pings"


def _ms(seconds: float) -> str:
    value = seconds * _MILLISECONDS
    digits = 2 if value < 10 else 1 if value < 100 else 0  # noqa: PLR2004 - three digits that mean something
    return f"{value:.{digits}f}"
