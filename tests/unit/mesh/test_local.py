"""A running member follows this host's addresses, and says when it cannot."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from wesher_agent.mesh.host import ALL_ADDRESSES, HostNetwork
from wesher_agent.mesh.local import Local, Options
from wesher_agent.swim.address import Address
from wesher_common.seeds import SeedAddress
from wesher_common.traffic import DEFAULT_MARK, TrafficSettings
from wesher_testing.virtual.members import document, host, local_node

PUBLIC, OTHER_PUBLIC, PRIVATE, OTHER_PRIVATE = "93.184.216.34", "93.184.216.40", "10.0.0.5", "10.0.0.9"


def started(on: HostNetwork, **options: Any) -> Local:
    return local_node("a", on=on, options=Options(**options))


def moved(me: Local, *addresses: str) -> Local:
    return me.on_host(host(*addresses))[0]


def test_one_that_listens_everywhere_announces_another_address_and_goes_on_listening_everywhere() -> None:
    me = started(host(PRIVATE))
    for address in (OTHER_PRIVATE, PUBLIC, PRIVATE):
        me = moved(me, address)
        assert me.gossip_address == Address(address, 7946)
        assert me.listening.bind == ALL_ADDRESSES
    assert me.lost_address is None


@pytest.mark.parametrize("flags", [{}, {"bind_iface": "eth0"}], ids=["public", "link"])
def test_one_that_listens_on_one_address_follows_it(flags: dict[str, str]) -> None:
    me = started(host(PUBLIC), **flags)
    me = moved(me, OTHER_PUBLIC)
    assert me.gossip_address == Address(OTHER_PUBLIC, 7946)
    assert me.listening.bind == (ip_address(OTHER_PUBLIC),)
    assert me.lost_address is None


def test_an_address_that_the_host_still_has_is_kept_whatever_comes_beside_it() -> None:
    me = started(host(PUBLIC))
    me = moved(me, OTHER_PUBLIC, PUBLIC)
    assert me.listening.bind == (ip_address(PUBLIC),)


def test_a_host_that_is_public_no_more_is_reached_at_the_address_it_has() -> None:
    me = started(host(PUBLIC, PRIVATE))
    me = moved(me, PRIVATE)
    assert (me.listening.bind, me.gossip_address) == (ALL_ADDRESSES, Address(PRIVATE, 7946))


def test_an_address_that_was_asked_for_by_flag_cannot_be_followed_and_is_missed_until_it_is_back() -> None:
    me = started(host(PRIVATE), bind_addr=ip_address(PRIVATE))
    for addresses in ([OTHER_PRIVATE], [OTHER_PRIVATE, PUBLIC]):
        me = moved(me, *addresses)
        assert me.lost_address == ip_address(PRIVATE)
        assert me.gossip_address == Address(PRIVATE, 7946)
    me = moved(me, PRIVATE)
    assert me.lost_address is None


def test_a_link_without_an_address_for_a_while_loses_nothing_but_time() -> None:
    me = started(host(PRIVATE), bind_iface="eth0")
    for addresses in ([], ["2001:db8::5"]):
        me = moved(me, *addresses)
        assert me.lost_address == ip_address(PRIVATE)
        assert me.gossip_address == Address(PRIVATE, 7946)
    me = moved(me, OTHER_PRIVATE)
    assert (me.lost_address, me.listening.bind) == (None, (ip_address(OTHER_PRIVATE),))


def test_an_address_that_the_host_never_listed_is_not_missed() -> None:
    me = started(host(PRIVATE), bind_addr=ip_address("127.0.0.9"))
    me = moved(me, OTHER_PRIVATE)
    assert me.lost_address is None


def flagged(address: str, **flags: bool) -> HostNetwork:
    """Return a host with an IPv6 address that has these flags, and another one beside it."""
    known = host(address, OTHER_V6)
    loopback, first, other = known.addresses
    return replace(known, addresses=(loopback, replace(first, prefix_length=64, **flags), other))


V6, OTHER_V6 = "2a02:8071:4::10", "2a02:8071:5::10"


@pytest.mark.parametrize("flag", ["is_deprecated", "is_duplicate"])
def test_an_address_whose_time_has_come_is_left_for_a_better_one(flag: str) -> None:
    """The provider has delegated another prefix, or another machine has the address."""
    me = started(host(V6)).on_host(flagged(V6, **{flag: True}))[0]
    assert (me.listening.bind, me.lost_address) == ((ip_address(OTHER_V6),), None)


def test_a_deprecated_address_is_kept_where_it_is_the_only_one_or_was_asked_for() -> None:
    alone = host(V6)
    deprecated = replace(alone, addresses=tuple(replace(e, is_deprecated=True) for e in alone.addresses))
    me = started(alone).on_host(deprecated)[0]
    assert (me.listening.bind, me.lost_address) == ((ip_address(V6),), None)
    me = started(alone, bind_addr=ip_address(V6)).on_host(flagged(V6, is_deprecated=True))[0]
    assert (me.listening.bind, me.lost_address) == ((ip_address(V6),), None)


def test_an_address_that_is_checked_for_duplicates_again_is_not_lost() -> None:
    me = started(host(V6)).on_host(flagged(V6, is_tentative=True))[0]
    assert (me.listening.bind, me.lost_address) == ((ip_address(V6),), None)


def test_the_hosts_file_depends_on_the_names_of_seeds_and_not_on_their_addresses() -> None:
    """Those of flags and `seedNodes` and of other clusters."""
    seeds = {"seed_nodes": (SeedAddress("NAS"), SeedAddress("192.0.2.1"))}
    others = {"cluster_seeds": (SeedAddress("east.example.", 7000), SeedAddress("fd00::1"))}
    peer = local_node(mesh=document(**seeds, **others)).peer()
    assert peer is not None
    assert peer.seed_names == {"nas", "east.example"}


def test_another_mark_needs_a_restart_of_a_node_only() -> None:
    """It is the sockets' of gossip, which machines outside Kubernetes do not mark."""
    changed = document(traffic=TrafficSettings(nodes="All", mark=0x100))
    for in_kubernetes in (True, False):
        me = local_node("a", options=Options(in_kubernetes=in_kubernetes))
        assert me.needs_restart_for(changed) is in_kubernetes
        assert not me.needs_restart_for(document(traffic=TrafficSettings(nodes="All")))
    assert local_node("a", options=Options(in_kubernetes=True)).mark == DEFAULT_MARK
    assert local_node("a").mark == 0
