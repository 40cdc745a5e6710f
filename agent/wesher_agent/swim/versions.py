"""Whether all members understand each other (`state.go`, verifyProtocol).

A state exchange fails as a whole if any two versions in it do not fit. So versions that
would not fit are refused, both in a state exchange and, unlike memberlist, in gossip.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wesher_agent.swim.members import Member
from wesher_agent.wire.messages import Alive, PushNodeState, State, Versions
from wesher_common.errors import PeerMisbehaved


def verify_range(versions: Versions) -> None:
    """Accept versions whose range of protocols is not empty.

    Raises:
        PeerMisbehaved: ``bad-versions``.

    """
    if not 0 < versions.protocol_min <= versions.protocol_max:
        raise PeerMisbehaved("bad-versions", f"{versions.protocol_min} to {versions.protocol_max}")


def verify_gossiped(claim: Alive, usual: Versions, members: Iterable[Member]) -> None:
    """Refuse an alive whose versions would make every state exchange fail (memberlist does not).

    A state exchange checks the versions of all members. Gossip reaches a member without
    such a check, so that one packet could keep new members from joining.

    Args:
        claim: the alive.
        usual: versions that need no check.
        members: everyone known.

    Raises:
        PeerMisbehaved: ``bad-versions`` or ``incompatible-version``.

    """
    verify_range(claim.vsn)
    if claim.vsn == usual:
        return
    others = [member for member in members if member.name != claim.node]
    claimed = PushNodeState(
        claim.node, claim.addr, claim.port, claim.meta, claim.incarnation, State.ALIVE, claim.vsn
    )
    verify_protocol(others, [claimed])


def verify_protocol(local: Iterable[Member], remote: Sequence[PushNodeState]) -> None:
    """Accept a merge after which each member speaks versions that every living one understands.

    Raises:
        PeerMisbehaved: ``incompatible-version``, naming the member and the range.

    """
    spoken: dict[Versions, str] = {}
    living: set[Versions] = set()
    for member in local:
        spoken[member.versions] = member.name
        if member.state is State.ALIVE:
            living.add(member.versions)
    for node in remote:
        spoken[node.vsn] = node.name
        if node.state is State.ALIVE and node.vsn != _UNSET:
            living.add(node.vsn)
    if not living:
        return
    protocol = max(v.protocol_min for v in living), min(v.protocol_max for v in living)
    delegate = max(v.delegate_min for v in living), min(v.delegate_max for v in living)
    for versions, name in spoken.items():
        _check(name, "protocol", versions.protocol_current, protocol)
        _check(name, "delegate", versions.delegate_current, delegate)


_UNSET = Versions(0, 0, 0, 0, 0, 0)
"""A member that sent none; it narrows nobody's range, but has to fit it."""


def _check(name: str, kind: str, version: int, common: tuple[int, int]) -> None:
    if not common[0] <= version <= common[1]:
        raise PeerMisbehaved(
            "incompatible-version",
            f"{name} uses {kind} version {version}; supported are {common[0]} to {common[1]}",
        )
