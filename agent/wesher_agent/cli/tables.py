"""The agent's answers laid out for people; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wesher_common.printable import as_lines, shell_line
from wesher_common.tables import age, table

_NO_HINDRANCE = {"Ready", "StateSaved"}
"""Conditions of peers, and of the next start."""
_FAILING = {
    "Ready": "not ready",
    "WireGuardReady": "WireGuard not ready",
    "GossipJoined": "gossip not joined",
    "KeyCurrent": "key or configuration not current",
    "StateSaved": "state not saved",
}
"""What each condition says while it is not True."""


def member_table(members: Sequence[Mapping[str, Any]]) -> str:
    """Return the members as a table, ourselves included."""
    return table(
        ("NAME", "STATE", "OVERLAY-IP", "ENDPOINT", "HANDSHAKE", "NOTE"),
        [
            (
                member["name"],
                member["state"],
                member["overlayIP"] or "-",
                member["endpoint"] or "-",
                age(member["handshakeSeconds"]),
                member["note"],
            )
            for member in members
        ],
    )


def status_text(status: Mapping[str, Any]) -> str:
    """Return the agent's state as labelled lines, then what is wrong, if anything is."""
    wireguard, gossip, peers = status["wireguard"], status["gossip"], status["peers"]
    joined = "joined" if gossip["joined"] else "not joined"
    known = ", ".join(f"{peers[state]} {state}" for state in ("known", "alive", "suspect", "failed"))
    lines = [
        ("node", status["node"]),
        ("interface", f"{status['interface']} ({_device(wireguard)})"),
        ("overlay", f"{status['overlayIP']} in {status['overlayNet']}"),
        ("public key", status["publicKey"]),
        ("gossip", f"{gossip['address']} {gossip['profile']}, {joined}"),
        ("cluster key", f"id {', '.join(status['keyIDs'])}"),
        ("peers", f"{known}, {peers['handshake']} with a fresh handshake"),
        ("covered", _covered(status)),
        ("hosts file", status["hosts"]),
        ("state file", status["state"]),
        ("up", age(status["uptimeSeconds"])),
        ("version", status["version"]),
    ]
    if gossip["rejected"]:
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(gossip["rejected"].items()))
        lines.append(("rejected packets", counts))
    width = max(len(label) for label, _ in lines) + 2
    facts = [f"{label + ':':{width}}{value}" for label, value in lines]
    return as_lines([*facts, *(f"! {problem}" for problem in _problems(status["conditions"]))])


def _covered(status: Mapping[str, Any]) -> str:
    network, cover = status["overlayNet"], status["unreachableRoute"]
    if cover["covers"] == "Overlay":
        return f"{network} by an unreachable route"
    if cover["covers"] == "Members":
        return f"members of the last day by unreachable routes; not the rest of {network}: {cover['reason']}"
    return f"nothing of {network} by unreachable routes: {cover['reason']}"


def left_text(left: Mapping[str, Any], *, forgot: bool) -> str:
    """Return what a leave did, and what it keeps on this machine and why."""
    done = f"{left['node']} left the mesh on {left['interface']}"
    if forgot:
        return as_lines([f"{done} and deleted its state file with the keys"])
    kept = left["kept"]
    if not kept:
        return as_lines([f"{done}; it has no state file with keys"])
    holds = "holds the cluster key and this machine's WireGuard key"
    return as_lines(
        [
            done,
            f"kept: {kept} {holds}, so that the next start joins the same mesh again",
            f"to remove the keys: {removal_hint(kept)} (`wesher leave --forget` does both)",
        ]
    )


def removal_hint(state_file: str) -> str:
    """Return the command that deletes a state file and its older copies."""
    quoted = shell_line([state_file])
    return f"rm -f {quoted} {quoted}.*"


def hindrances(status: Mapping[str, Any]) -> list[str]:
    """Return what keeps this host out of the mesh: neither bad peers nor a full disk may block a rollout."""
    return _problems([entry for entry in status["conditions"] if entry["type"] not in _NO_HINDRANCE])


def _device(wireguard: Mapping[str, Any]) -> str:
    return "no device" if wireguard["mode"] == "none" else f"{wireguard['mode']}, mtu {wireguard['mtu']}"


def _problems(conditions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each condition that is not True, Ready first; its cause is not repeated."""
    lines: dict[tuple[str, str], str] = {}
    for entry in conditions:
        if entry["status"] != "True":
            lines.setdefault((entry["reason"], entry["message"]), _problem(entry))
    return list(lines.values())


def _problem(condition: Mapping[str, Any]) -> str:
    what = _FAILING.get(condition["type"], f"{condition['type']} not true")
    yet = " yet" if condition["status"] == "Unknown" else ""
    return f"{what}{yet} ({condition['reason']}): {condition['message']}"
