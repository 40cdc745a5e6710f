"""Whatever members certify, no device carries a network twice, or one that is not theirs to bring."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from wesher_agent.mesh.carrying import Carried, OwnTraffic, carry
from wesher_agent.mesh.identity import NOT_CERTIFIED, Rank, Verdict
from wesher_agent.mesh.roster import RosterMember
from wesher_common.certificate import Authority
from wesher_common.mesh_document import TrustedAuthority
from wesher_common.overlay import IPAddress, IPNetwork, host_network
from wesher_common.traffic import TrafficSettings
from wesher_testing.virtual.members import meta, remembered

OWN, FOREIGN = (Authority(bytes([number]) * 32) for number in (1, 2))
OVERLAY, ADDRESS = ip_network("10.0.0.0/28"), ip_address("10.0.0.9")
_AUTHORITIES = {Rank.OWN: OWN, Rank.TRUSTED: FOREIGN}
CIDRS = (ip_network("10.0.1.0/24"),)
LOCATIONS = st.sampled_from(["", "berlin", "paris"])


@st.composite
def networks(draw: st.DrawFn) -> IPNetwork:
    """Draw a network in a space so small that most overlap something."""
    length = draw(st.sampled_from([24, 28, 30, 32]))
    return ip_network((0x0A000000 | draw(st.integers(0, 0x3FF)), length), strict=False)


@st.composite
def member(draw: st.DrawFn, name: str) -> RosterMember:
    listed = tuple(draw(st.sets(networks(), max_size=4)))
    announced = meta(
        name,
        overlay_address=OVERLAY[ord(name) - ord("a")],
        networks=listed,
        location=draw(LOCATIONS),
    )
    rank, serial = draw(st.sampled_from(list(Rank))), draw(st.integers(1, 3))
    # One that is revoked or has expired announces its certificate all the same.
    authority = draw(st.sampled_from([None, OWN, FOREIGN])) if rank is Rank.NONE else _AUTHORITIES[rank]
    if authority is not None:
        subject = announced.subject(name)
        assert subject is not None
        announced = replace(announced, certificate=authority.issue(subject, serial=serial))
    verdict = NOT_CERTIFIED if rank is Rank.NONE else Verdict(rank, serial, None)
    return replace(remembered(name, announced=announced), verdict=verdict)


MEMBERS = st.tuples(*(member(name) for name in "abcd"))
SETTINGS = st.builds(
    TrafficSettings,
    nodes=st.sampled_from(["None", "OtherLocations", "All"]),
    pods=st.sampled_from(["None", "OtherClusters", "OtherLocations", "All"]),
)
ADDRESSES = st.frozensets(
    st.integers(0, 0x3FF).map(lambda low: ip_address(0x0A000000 | low)), min_size=1, max_size=3
)


@st.composite
def own(draw: st.DrawFn) -> OwnTraffic:
    listed = draw(st.sets(networks(), max_size=3))
    present = draw(ADDRESSES)
    return OwnTraffic(
        settings=draw(SETTINGS),
        networks=tuple(listed),
        known=frozenset(draw(st.sets(st.sampled_from(sorted(listed)))) if listed else ()),
        present=present,
        underlay=present | draw(ADDRESSES),
        trusted=(TrustedAuthority(cluster_name="west", key=FOREIGN.key, cidrs=CIDRS),),
    )


def carried(traffic: OwnTraffic, members: tuple[RosterMember, ...], location: str = "berlin") -> Carried:
    return carry(traffic, members, overlay=OVERLAY, address=ADDRESS, location=location)


def extras(found: Carried, member: RosterMember) -> list[IPNetwork]:
    """Return what a member's peer accepts beside the overlay address."""
    assert member.meta is not None
    assert member.meta.overlay_address is not None
    allowed = found.allowed_ips.get(member.name, ())
    return [network for network in allowed if network != host_network(member.meta.overlay_address)]


def avoided(traffic: OwnTraffic) -> list[IPNetwork]:
    return [OVERLAY, *traffic.networks, *map(host_network, traffic.present)]


@given(own(), MEMBERS)
def test_no_two_peers_share_an_address_and_none_has_one_of_this_node(
    traffic: OwnTraffic, members: tuple[RosterMember, ...]
) -> None:
    found = carried(traffic, members)
    every = [network for each in members for network in extras(found, each)]
    for index, one in enumerate(every):
        assert not any(one.overlaps(other) for other in (*every[index + 1 :], *avoided(traffic)))


@given(own(), MEMBERS)
def test_each_member_brings_what_its_certificate_lists_and_its_authority_may_certify(
    traffic: OwnTraffic, members: tuple[RosterMember, ...]
) -> None:
    found = carried(traffic, members)
    for each in members:
        listed = {*each.meta.networks} if each.meta is not None else set()
        kept = {*extras(found, each)}
        assert kept <= listed
        match each.verdict.rank:
            case Rank.NONE:
                assert not kept
            case Rank.TRUSTED:
                assert all(net.prefixlen < 32 and CIDRS[0].supernet_of(net) for net in kept)  # type: ignore[arg-type]
            case Rank.OWN:
                # What is not kept overlaps what is never used, or what a member of at least its weight keeps.
                for lost in listed - kept:
                    heavier = [
                        network
                        for other in members
                        if other.verdict.weight >= each.verdict.weight
                        for network in extras(found, other)
                    ]
                    assert any(lost.overlaps(other) for other in (*avoided(traffic), *heavier))


@given(own(), MEMBERS, LOCATIONS)
def test_only_what_is_accepted_is_routed_and_only_from_what_others_know(
    traffic: OwnTraffic, members: tuple[RosterMember, ...], location: str
) -> None:
    found = carried(traffic, members, location)
    accepted = {network: each for each in members for network in extras(found, each)}
    if found.carrying is None:
        assert not accepted
        assert not traffic.settings.is_on
        return
    assert [*found.carrying.routes] == sorted(
        found.carrying.routes, key=lambda route: (int(route.network.network_address), route.network.prefixlen)
    )
    assert [*found.carrying.sources] == sorted({*found.carrying.sources})
    for route in found.carrying.routes:
        holder = accepted[route.network]
        assert holder.verdict.rank is Rank.OWN or traffic.settings.pods != "None"
        assert route.source is None or host_network(route.source) in found.carrying.sources
        assert not any(address in route.network for address in traffic.underlay)
    for source in {*found.carrying.sources} - {host_network(ADDRESS)}:
        assert source in traffic.known
        assert source.prefixlen < 32 or _only_address(source) in traffic.present
    if not found.carrying.routes:
        assert (found.carrying.sources, found.carrying.direct) == ((), ())
    if not (traffic.settings.is_on and traffic.known):
        assert found.carrying.routes == ()


@given(own(), MEMBERS, st.randoms(use_true_random=False))
def test_the_order_of_members_changes_nothing(
    traffic: OwnTraffic, members: tuple[RosterMember, ...], dice: Random
) -> None:
    first = carried(traffic, members)
    shuffled = dice.sample(members, len(members))
    again = carried(traffic, tuple(shuffled))
    assert (again.carrying, {*again.problems}) == (first.carrying, {*first.problems})
    assert {**again.allowed_ips} == {**first.allowed_ips}


def _only_address(network: IPNetwork) -> IPAddress:
    return network.network_address
