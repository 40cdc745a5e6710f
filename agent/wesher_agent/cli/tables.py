"""The agent's answers laid out for people; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from wesher_common.certificate import Refusal
from wesher_common.errors import InvalidSpec
from wesher_common.join_command import KEY_FILE, TAKE_KEY
from wesher_common.printable import as_lines, shell_line
from wesher_common.tables import age, size, table

_NO_HINDRANCE = {"Ready", "TrafficCarried", "StateSaved"}
"""Conditions of peers, of what other members have to accept first, and of the next start."""
_FAILING = {
    "Ready": "not ready",
    "WireGuardReady": "WireGuard not ready",
    "GossipJoined": "gossip not joined",
    "KeyCurrent": "key or configuration not current",
    "TrafficCarried": "traffic of nodes and pods not carried",
    "StateSaved": "state not saved",
}
"""What each condition says while it is not True."""


_HEADING = (
    "NAME",
    "STATE",
    "SINCE",
    "OVERLAY-IP",
    "ENDPOINT",
    "HANDSHAKE",
    "RECEIVED",
    "SENT",
    "NOTE",
)
_BRANCH, _LAST_BRANCH = "├─ ", "└─ "
_ASCII = str.maketrans({"├": "|", "└": "`", "─": "-"})
NO_LOCATION = "(no location)"


def member_table(members: Sequence[Mapping[str, Any]]) -> str:
    """Return the members as a table, this one included."""
    shown = _Columns.of(members)
    return table(_heading(shown), [_row(member, shown) for member in members])


def member_tree(members: Sequence[Mapping[str, Any]], *, ascii_only: bool = False) -> str:
    """Return the members as a table with a line above those of each location; those without one come last.

    Args:
        members: as the agent answered.
        ascii_only: whether the terminal cannot show the branches.

    """
    places: dict[str, list[Mapping[str, Any]]] = {}
    for member in members:
        places.setdefault(member["location"], []).append(member)
    columns = _Columns.of(members)
    heading = _heading(columns)
    rows: list[tuple[str, ...]] = []
    for place in sorted(places, key=lambda place: (not place, place)):
        rows.append((place or NO_LOCATION, *("" for _ in heading[1:])))
        *others, last = (_row(member, columns) for member in places[place])
        rows += [(f"{_BRANCH}{name}", *cells) for name, *cells in others]
        rows.append((f"{_LAST_BRANCH}{last[0]}", *last[1:]))
    shown = rows
    if ascii_only:
        # Only what this function drew: a name keeps its letters.
        shown = [(_plain_branch(name), *cells) for name, *cells in rows]
    return table(heading, shown)


def _plain_branch(name: str) -> str:
    width = len(_BRANCH)
    return name[:width].translate(_ASCII) + name[width:]


class _Columns(NamedTuple):
    """Which columns there is something to say in."""

    certificate: bool
    """Not in a mesh without an authority."""
    carried: bool
    """Only where members have networks that can be carried."""

    @classmethod
    def of(cls, members: Sequence[Mapping[str, Any]]) -> _Columns:
        return cls(
            any(member.get("certificateExpires") or member.get("uncertified") for member in members),
            any(member.get("networks") for member in members),
        )


def _heading(columns: _Columns) -> tuple[str, ...]:
    *others, note = _HEADING
    return (*others, *["CERT"] * columns.certificate, *["CARRIED"] * columns.carried, note)


def _certificate(holder: Mapping[str, Any]) -> str:
    """Return until which day a certificate is valid, or why it does not count."""
    if holder["uncertified"]:
        return "none" if holder["uncertified"] == Refusal.UNCERTIFIED else str(holder["uncertified"])
    return str(holder["certificateExpires"]).partition("T")[0] if holder["certificateExpires"] else "-"


def _carried(member: Mapping[str, Any]) -> str:
    """Return to how many of a member's networks packets go through the tunnel."""
    return f"{len(member['carried'])}/{len(member['networks'])}" if member["networks"] else "-"


def _row(member: Mapping[str, Any], columns: _Columns) -> tuple[str, ...]:
    return (
        member["name"],
        member["state"],
        age(member["stateSeconds"]),
        member["overlayIP"] or "-",
        member["endpoint"] or "-",
        age(member["handshakeSeconds"]),
        size(member["receivedBytes"]),
        size(member["sentBytes"]),
        *([_certificate(member)] if columns.certificate else []),
        *([_carried(member)] if columns.carried else []),
        member["note"],
    )


def chosen_members(
    members: Sequence[Mapping[str, Any]], patterns: Sequence[str], state: str | None
) -> list[Mapping[str, Any]]:
    """Return the members that any of the patterns names and that are in a state.

    Args:
        members: as the agent answered.
        patterns: names, in which ``*`` and ``?`` stand for any characters; none means all.
        state: None means any.

    Raises:
        InvalidSpec: a pattern names no member.

    """
    names = [member["name"] for member in members]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InvalidSpec("MEMBER", no_such_member(pattern, names), value=pattern)
    return [
        member
        for member in members
        if (not patterns or any(fnmatchcase(member["name"], pattern) for pattern in patterns))
        and (state is None or member["state"] == state)
    ]


def find_member(members: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """Return the member with a name or an overlay address.

    Raises:
        InvalidSpec: there is none.

    """
    for member in members:
        if name and name in {member["name"], member["overlayIP"]}:
            return member
    raise InvalidSpec("MEMBER", no_such_member(name, [member["name"] for member in members]), value=name)


def no_such_member(name: str, names: Sequence[str]) -> str:
    """Return what an error says about a name that no member has."""
    nearest = get_close_matches(name, names, n=1)
    advice = f"did you mean {nearest[0]}?" if nearest else "`wesher members` lists them"
    return f"no such member: {advice}"


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
        ("identity", _identity(status["identity"])),
        ("peers", f"{known}, {peers['handshake']} with a fresh handshake"),
        ("covered", _covered(status)),
        ("traffic", _traffic(status["traffic"])),
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


def _identity(identity: Mapping[str, Any]) -> str:
    if not identity["mode"]:
        return "no authority: every machine with the cluster key is a member"
    if identity["uncertified"] == Refusal.UNCERTIFIED:
        certificate = "no certificate yet"
    elif identity["uncertified"]:
        certificate = f"certificate does not count ({identity['uncertified']})"
    else:
        certificate = f"certificate until {_certificate(identity)}"
    if identity["bound"]:
        mode = "Verified, bound"
    elif identity["mode"] == "Verified":
        mode = "Verified, not bound yet"
    else:
        mode = "Open"
    return f"{mode}, {certificate}"


def rekey_text(answer: Mapping[str, Any]) -> str:
    """Return what ``wesher rekey`` has done, and what is left to do."""
    node, key = answer["node"], answer["publicKey"]
    lines = [f"{node} has the WireGuard key {key} now; it was {answer['former']}"]
    if answer["needsAdmission"]:
        lines.append(
            "its certificate was for the former key: to admit the new one, run "
            f"`kubectl wesher admit {node} --key {key}`"
        )
    return as_lines(lines)


def _covered(status: Mapping[str, Any]) -> str:
    network, cover = status["overlayNet"], status["unreachableRoute"]
    if cover["covers"] == "Overlay":
        return f"{network} by an unreachable route"
    if cover["covers"] == "Members":
        return f"members of the last day by unreachable routes; not the rest of {network}: {cover['reason']}"
    return f"no unreachable routes cover {network}: {cover['reason']}"


def _traffic(traffic: Mapping[str, Any]) -> str:
    count = traffic["routed"]
    if not count and {traffic["nodes"], traffic["pods"]} == {"None"}:
        return "only between overlay addresses"
    own = ", ".join(traffic["networks"]) or "none"
    carried = f"{count} network{'s' * (count != 1)} of other members"
    return f"nodes {traffic['nodes']}, pods {traffic['pods']}: carried to {carried}; own networks: {own}"


def join_text(answer: Mapping[str, Any], *, reach: Sequence[str]) -> str:
    """Return what to run so that another machine joins, with what each is for as comments.

    Args:
        answer: as the agent gave it.
        reach: the flags with which this command asks the agent.

    """
    return as_lines(
        [
            "# 1. On this host, copy the cluster key to the new machine,",
            f"# into the file {KEY_FILE}, which only root can read:",
            f"{shell_line(['wesher', 'key', *reach])} | {TAKE_KEY}",
            "",
            "# 2. On the new machine, as root, after you have opened its ports to the members:",
            answer["command"],
        ]
    )


def news_text(answer: Mapping[str, Any]) -> str:
    """Return what became of revocations that an administrator gave."""
    names = f"{answer['names']} name{'' if answer['names'] == 1 else 's'}"
    if answer["isNew"]:
        done = f"the agent accepted statement {answer['number']}, which revokes {names}, and passes it on"
    else:
        done = f"the agent already has statement {answer['number']}, which revokes {names}"
    return as_lines([done])


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
            f"kept: {kept} {holds}, so the next start joins the same mesh again",
            f"to delete the keys too: {removal_hint(kept)} (`wesher leave --forget` leaves and deletes them)",
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
