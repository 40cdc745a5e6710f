"""Packets to overlay addresses without a peer are refused, and the underlay is never cut off unasked."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from wesher_agent.mesh.cover import choose_cover, is_wide
from wesher_agent.mesh.desired import Desired, LocalPeer, desired
from wesher_agent.mesh.roster import MemberState, RosterMember
from wesher_testing.virtual.members import local_peer, meta, private_key, reasons, remembered

DEFAULT = ip_network("10.0.0.0/8")
SMALL = ip_network("10.200.0.0/16")


def own(overlay: Any = DEFAULT, **changes: Any) -> LocalPeer:
    return local_peer(overlay=overlay, address=ip_address("10.200.0.1"), **changes)


def at(name: str, address: str, ip: str = "192.0.2.1", **changes: Any) -> RosterMember:
    return remembered(name, ip, announced=meta(name, overlay_address=ip_address(address)), **changes)


def covered(wish: Desired) -> list[str]:
    return [str(network) for network in wish.device.unreachable]


@pytest.mark.parametrize(
    ("mode", "overlay", "underlay", "extent"),
    [
        ("auto", "10.0.0.0/8", [], "Members"),
        ("auto", "10.200.0.0/16", [], "Overlay"),
        ("auto", "10.200.0.0/16", ["192.0.2.1", "2001:db8::1"], "Overlay"),
        ("auto", "10.200.0.0/16", ["192.0.2.1", "10.200.3.4"], "Members"),
        ("auto", "fd42::/64", ["2001:db8::1"], "Overlay"),
        ("auto", "fd42::/64", ["fd42::1"], "Members"),
        ("on", "10.0.0.0/8", ["10.1.0.1"], "Overlay"),
        ("off", "10.200.0.0/16", [], "Nothing"),
    ],
)
def test_auto_covers_the_overlay_where_nothing_else_can_lie_in_it(
    mode: Any, overlay: str, underlay: list[str], extent: str
) -> None:
    network, addresses = ip_network(overlay), {ip_address(text) for text in underlay}
    for host, endpoints in ((addresses, set()), (set(), addresses)):
        cover = choose_cover(mode, in_kubernetes=False, overlay=network, host=host, endpoints=endpoints)
        assert cover.extent == extent
        assert bool(cover.reason) == (extent != "Overlay")


def test_in_kubernetes_the_operator_has_seen_to_it_that_the_overlay_overlaps_nothing() -> None:
    inside = {ip_address("10.1.0.1")}
    for mode, extent in (("auto", "Overlay"), ("on", "Overlay"), ("off", "Nothing")):
        cover = choose_cover(mode, in_kubernetes=True, overlay=DEFAULT, host=inside, endpoints=inside)  # type: ignore[arg-type]
        assert cover.extent == extent


@pytest.mark.parametrize(
    ("overlay", "wide"),
    [
        ("10.0.0.0/8", True),
        ("8.0.0.0/6", True),
        ("10.0.0.0/9", False),
        ("10.189.0.0/16", False),
        ("172.16.0.0/12", True),
        ("172.16.0.0/13", False),
        ("172.0.0.0/8", True),
        ("192.168.0.0/16", True),
        ("192.168.0.0/17", False),
        ("100.64.0.0/10", True),
        ("11.0.0.0/8", False),
        ("fd00::/8", True),
        ("fc00::/7", True),
        ("fd42:1:2::/48", False),
        ("fd42:1:2:3::/64", False),
    ],
)
def test_a_network_is_wide_when_a_whole_private_range_lies_in_it(overlay: str, wide: bool) -> None:  # noqa: FBT001 - a row of a table
    assert is_wide(ip_network(overlay)) is wide


def test_under_a_wide_overlay_each_known_members_address_is_covered() -> None:
    members = [
        at("alive", "10.200.0.2"),
        at("suspect", "10.200.0.3", state=MemberState.SUSPECT),
        at("failed", "10.200.0.4", state=MemberState.FAILED),
        at("left", "10.200.0.5", state=MemberState.LEFT),
        remembered("unreadable", problem="metadata-missing"),
    ]
    wish = desired(own(), members, {ip_address("10.77.0.9"), ip_address("192.0.2.77")})
    assert covered(wish) == [
        "10.77.0.9/32",
        "10.200.0.2/32",
        "10.200.0.3/32",
        "10.200.0.4/32",
        "10.200.0.5/32",
    ]
    assert wish.cover.extent == "Members"


def test_a_member_without_a_tunnel_is_covered_too() -> None:
    """Its key is another member's; its address is still one of the mesh."""
    clone = remembered(
        "c",
        "192.0.2.3",
        announced=meta("c", overlay_address=ip_address("10.200.0.3"), public_key=private_key("b").public),
    )
    wish = desired(own(), [at("b", "10.200.0.2"), clone])
    assert reasons(wish) == {"c": "KeyClash"}
    assert covered(wish) == ["10.200.0.2/32", "10.200.0.3/32"]


def test_neither_the_underlay_nor_this_member_is_covered() -> None:
    members = [
        at("gateway", "10.1.0.1"),
        at("here", "10.200.0.1", state=MemberState.LEFT),
        at("b", "10.200.0.2", "10.1.0.2"),
        at("endpoint", "10.1.0.2"),
    ]
    wish = desired(own(underlay=frozenset({ip_address("10.1.0.1")})), members)
    assert covered(wish) == ["10.200.0.2/32"]


def test_a_members_endpoint_in_the_overlay_leaves_its_members_covered() -> None:
    """Without it the whole overlay is; with it, no packet to a member that left leaves in clear either."""
    gone = at("gone", "10.200.0.9", state=MemberState.LEFT)
    assert covered(desired(own(SMALL), [at("b", "10.200.0.2"), gone])) == ["10.200.0.0/16"]
    inside = at("b", "10.200.0.2", "10.200.7.7")
    assert covered(desired(own(SMALL), [inside, gone])) == ["10.200.0.2/32", "10.200.0.9/32"]
