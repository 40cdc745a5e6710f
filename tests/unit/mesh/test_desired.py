"""From members to device, hosts entries and problems."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from wesher_agent.mesh.desired import (
    HostEntry,
    desired,
)
from wesher_agent.mesh.device import Endpoint, Peer
from wesher_agent.mesh.problem import Problem
from wesher_agent.mesh.roster import MemberState, RosterMember
from wesher_common.overlay import candidate_address
from wesher_testing.virtual.members import (
    OVERLAY,
    go_meta,
    local_peer,
    meta,
    peers,
    private_key,
    reasons,
    remembered,
)


def test_a_member_becomes_a_peer_and_a_hosts_entry() -> None:
    own = local_peer()
    wish = desired(own, [remembered("b", "192.0.2.2")])
    address = candidate_address("b", OVERLAY)
    assert wish.device.peers == (
        Peer(
            public_key=private_key("b").public,
            endpoint=Endpoint(ip_address("192.0.2.2"), 51820),
            allowed_ips=(ip_network(address),),
        ),
    )
    assert wish.hosts == (HostEntry(address, "b"),)
    assert wish.problems == ()
    device = wish.device
    assert (device.address, device.listen_port, device.mtu, device.overlay) == (
        own.address,
        51820,
        1420,
        OVERLAY,
    )
    assert (device.interface, device.private_key) == ("wgoverlay", own.private_key)


def test_an_ipv6_overlay_over_an_ipv6_underlay() -> None:
    overlay = ip_network("2001:db8::/64")
    own = local_peer(overlay=overlay, address=candidate_address("me", overlay))
    member = remembered(
        "b", "2001:db8:ffff::2", announced=meta("b", overlay_address=candidate_address("b", overlay))
    )
    wish = desired(own, [member])
    assert peers(wish) == {f"{candidate_address('b', overlay)}/128": "[2001:db8:ffff::2]:51820"}


@pytest.mark.parametrize("state", [MemberState.ALIVE, MemberState.SUSPECT, MemberState.FAILED])
def test_who_is_expected_keeps_peer_and_hosts_entry(state: MemberState) -> None:
    wish = desired(local_peer(), [remembered("b", state=state)])
    assert (len(wish.device.peers), len(wish.hosts)) == (1, 1)


def test_who_left_has_neither() -> None:
    wish = desired(local_peer(), [remembered("b", state=MemberState.LEFT)])
    assert (wish.device.peers, wish.hosts, wish.problems) == ((), (), ())


def test_peers_are_sorted_whatever_the_order_of_members() -> None:
    members = [remembered(name, f"192.0.2.{number}") for number, name in enumerate("bcdefg", start=1)]
    wish = desired(local_peer(), members)
    assert wish == desired(local_peer(), reversed(members))
    assert [peer.public_key.raw for peer in wish.device.peers] == sorted(
        peer.public_key.raw for peer in wish.device.peers
    )


@pytest.mark.parametrize(
    ("own_location", "announced", "endpoint"),
    [
        ("", {}, "192.0.2.2:51820"),
        ("", {"internal_address": ip_address("10.9.0.2")}, "192.0.2.2:51820"),
        ("berlin", {"internal_address": ip_address("10.9.0.2"), "location": "berlin"}, "10.9.0.2:51820"),
        ("berlin", {"internal_address": ip_address("10.9.0.2"), "location": "paris"}, "192.0.2.2:51820"),
        ("berlin", {"location": "berlin"}, "192.0.2.2:51820"),
        ("", {"wireguard_endpoint": Endpoint(ip_address("198.51.100.2"), 4500)}, "198.51.100.2:4500"),
        (
            "berlin",
            {
                "wireguard_endpoint": Endpoint(ip_address("198.51.100.2"), 4500),
                "internal_address": ip_address("10.9.0.2"),
                "location": "berlin",
            },
            "10.9.0.2:51820",
        ),
    ],
)
def test_the_endpoint_is_the_nearest_that_the_member_names(
    own_location: str, announced: dict[str, Any], endpoint: str
) -> None:
    wish = desired(
        local_peer(location=own_location), [remembered("b", "192.0.2.2", announced=meta("b", **announced))]
    )
    assert list(peers(wish).values()) == [endpoint]


@pytest.mark.parametrize(
    ("changes", "keepalive"),
    [
        ({}, 0),
        ({"behind_nat": True}, 25),
        ({"behind_nat": True, "persistent_keepalive": 10}, 10),
        ({"persistent_keepalive": 60}, 60),
    ],
)
def test_keepalive_is_ours_to_send_behind_nat(changes: dict[str, Any], keepalive: int) -> None:
    (peer,) = desired(local_peer(**changes), [remembered("b")]).device.peers
    assert peer.persistent_keepalive == keepalive


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (remembered("b", problem="metadata-missing"), "NoMetadata"),
        (remembered("b", announced=meta("b", public_key=None)), "NoMetadata"),
        (remembered("b", announced=meta("b", overlay_address=None)), "NoMetadata"),
        (remembered("b", problem="gob-truncated"), "BadMetadata"),
        (remembered("b", problem="metadata-public-key"), "BadMetadata"),
        (remembered("b", problem="metadata-of-wesher-0.2"), "OldRelease"),
        (remembered("b", announced=meta("b", overlay_address=ip_address("10.190.0.1"))), "OutsideOverlay"),
        (remembered("b", announced=meta("b", overlay_address=ip_address("2001:db8::1"))), "OutsideOverlay"),
        (remembered("b", announced=go_meta("b", overlay_address=ip_address("192.0.2.1"))), "OutsideOverlay"),
    ],
)
def test_a_member_that_cannot_have_a_tunnel_is_a_problem_and_blocks_nobody(
    member: RosterMember, reason: str
) -> None:
    wish = desired(local_peer(), [member, remembered("c", "192.0.2.3")])
    assert reasons(wish) == {"b": reason}
    assert [entry.name for entry in wish.hosts] == ["c"]
    assert len(wish.device.peers) == 1


def test_a_member_with_our_own_key_is_a_problem_of_both() -> None:
    """One of the two was cloned with its disk, and neither can know which."""
    copy = remembered("b", announced=meta("b", public_key=private_key("me").public))
    wish = desired(local_peer(), [copy, remembered("c", "192.0.2.3")])
    assert reasons(wish) == {"b": "KeyClash", local_peer().name: "KeyCopied"}
    said = {problem.member: problem.message for problem in wish.problems}
    assert said[local_peer().name].startswith("this machine has the same WireGuard key as b: ")
    assert [entry.name for entry in wish.hosts] == ["c"]


@pytest.mark.parametrize("state", [MemberState.FAILED, MemberState.LEFT])
def test_our_own_former_name_with_our_key_is_not_a_problem(state: MemberState) -> None:
    former = remembered("b", state=state, announced=meta("b", public_key=private_key("me").public))
    assert desired(local_peer(), [former]).problems == ()


def test_a_name_that_is_none_gets_no_tunnel_and_cannot_forge_a_line() -> None:
    wish = desired(local_peer(), [remembered("evil\n10.0.0.1 bank.example")])
    assert wish.device.peers == ()
    assert wish.problems == (
        Problem(
            r"evil\n10.0.0.1 bank.example",
            "BadName",
            "has a name that is not valid in a hosts file: give the machine a valid hostname",
        ),
    )


RESERVED = ["localhost", "LocalHost", "localhost.localdomain", "ip6-loopback", "10.0.0.5", "0", "_gateway"]


@pytest.mark.parametrize("name", RESERVED)
def test_a_name_that_means_something_else_everywhere_gets_a_tunnel_and_no_entry(name: str) -> None:
    wish = desired(local_peer(), [remembered(name), remembered("c", "192.0.2.3")])
    assert reasons(wish) == {name: "BadName"}
    assert [entry.name for entry in wish.hosts] == ["c"]
    assert len(wish.device.peers) == 2


@pytest.mark.parametrize("name", RESERVED)
def test_with_our_domain_such_a_name_is_harmless(name: str) -> None:
    wish = desired(local_peer(etc_hosts="Qualified", mesh="prod"), [remembered(name)])
    assert (reasons(wish), len(wish.hosts)) == ({}, 1)


def test_a_member_called_by_its_own_address_is_no_problem() -> None:
    """Go's --ip-as-name does that. A resolver never looks such a name up, so it needs no entry."""
    wish = desired(local_peer(), [remembered("192.0.2.2", "192.0.2.2")])
    assert (wish.problems, wish.hosts, len(wish.device.peers)) == ((), (), 1)


def test_a_name_is_nobodys_when_two_members_differ_in_case_only() -> None:
    members = [remembered("nas", "192.0.2.2"), remembered("NAS", "192.0.2.3"), remembered("c", "192.0.2.4")]
    wish = desired(local_peer(), members)
    assert reasons(wish) == {"nas": "NameClash", "NAS": "NameClash"}
    assert [entry.name for entry in wish.hosts] == ["c"]
    assert len(wish.device.peers) == 3


def test_a_member_does_not_take_our_own_name_in_other_letters() -> None:
    wish = desired(local_peer("nas"), [remembered("NAS")])
    assert (reasons(wish), wish.hosts, len(wish.device.peers)) == ({"NAS": "NameClash"}, (), 1)


def test_a_machine_that_changed_the_case_of_its_name_keeps_its_entry() -> None:
    members = [remembered("NAS", "192.0.2.2", state=MemberState.FAILED), remembered("nas", "192.0.2.3")]
    wish = desired(local_peer(), members)
    assert (wish.problems, [entry.name for entry in wish.hosts]) == ((), ["nas"])


def test_qualified_names_end_in_the_mesh_and_our_domain() -> None:
    wish = desired(local_peer(etc_hosts="Qualified", mesh="prod"), [remembered("b.berlin")])
    assert [entry.name for entry in wish.hosts] == ["b.berlin.prod.wesher.internal"]


def test_outside_kubernetes_a_qualified_name_has_no_mesh() -> None:
    wish = desired(local_peer(etc_hosts="Qualified"), [remembered("b")])
    assert [entry.name for entry in wish.hosts] == ["b.wesher.internal"]


@pytest.mark.parametrize(
    ("member", "seed", "hides"),
    [
        ("nas", "nas", True),
        ("NAS", "nas", True),
        ("nas.lan", "nas.lan", True),
        ("nas", "nas.lan", True),
        ("nas.lan", "nas", False),
        ("nas", "nas2", False),
        ("lan", "nas.lan", False),
    ],
)
def test_a_failed_member_that_a_seed_names_has_no_hosts_entry(member: str, seed: str, *, hides: bool) -> None:
    """DNS is asked where the seed is now; the entry would answer with where it was."""
    local = local_peer(seed_names=frozenset({seed}))
    failed = desired(local, [remembered(member, state=MemberState.FAILED), remembered("c")])
    assert [entry.name for entry in failed.hosts] == (["c"] if hides else sorted(["c", member]))
    assert (len(failed.device.peers), failed.problems) == (2, ())
    suspect = desired(local, [remembered(member, state=MemberState.SUSPECT)])
    assert [entry.name for entry in suspect.hosts] == [member]


def test_a_qualified_entry_hides_a_seed_only_by_its_whole_name() -> None:
    failed = [remembered("nas", state=MemberState.FAILED)]
    for seed, entries in (("nas", 1), ("nas.wesher.internal", 0)):
        local = local_peer(etc_hosts="Qualified", seed_names=frozenset({seed}))
        assert len(desired(local, failed).hosts) == entries


def test_off_is_off() -> None:
    wish = desired(local_peer(etc_hosts="Off"), [remembered("b")])
    assert (wish.hosts, len(wish.device.peers)) == ((), 1)


def test_a_name_too_long_with_its_suffix_keeps_its_tunnel() -> None:
    name = ".".join(["x" * 61] * 4)
    wish = desired(local_peer(etc_hosts="Qualified", mesh="prod"), [remembered(name)])
    assert (len(wish.device.peers), wish.hosts) == (1, ())
    assert reasons(wish) == {name: "NameTooLong"}


def test_entries_are_sorted_by_name() -> None:
    wish = desired(local_peer(), [remembered(name, f"192.0.2.{ord(name)}") for name in "dcb"])
    assert [entry.name for entry in wish.hosts] == ["b", "c", "d"]


HERE = frozenset({ip_address("10.0.2.15"), ip_address("192.0.2.100")})


def test_a_member_that_announces_our_own_address_is_named_and_keeps_its_peer() -> None:
    """Vagrant gives each machine 10.0.2.15. If that member reaches us, WireGuard learns where it is."""
    wish = desired(local_peer(own_addresses=HERE), [remembered("b", "10.0.2.15"), remembered("c")])
    assert reasons(wish) == {"b": "OwnAddress"}
    assert "--advertise-addr" in wish.problems[0].message
    assert len(wish.device.peers) == 2


def test_a_member_of_a_family_that_this_machine_lacks_is_named_and_keeps_its_peer() -> None:
    """An address on the loopback, on a link alone or of the overlay itself reaches nobody."""
    lacking = HERE | {ip_address("::1"), ip_address("fe80::1"), ip_address("fd00::2")}
    local = local_peer(own_addresses=lacking, overlay=ip_network("fd00::/64"), address=ip_address("fd00::2"))
    member = remembered("b", "2001:db8::7", announced=meta("b", overlay_address=ip_address("fd00::3")))
    wish = desired(local, [member])
    assert (reasons(wish), len(wish.device.peers)) == ({"b": "NoAddressOfFamily"}, 1)
    assert "no IPv6 address" in wish.problems[0].message
    dual = replace(local, own_addresses=lacking | {ip_address("2001:db8::1")})
    assert desired(dual, [member]).problems == ()
    assert desired(replace(local, own_addresses=frozenset()), [member]).problems == (), "nothing is known"


def test_two_members_at_one_endpoint_are_named_and_keep_their_peers() -> None:
    """A third machine sees two that were given the same address, as by Vagrant's NAT link."""
    both = [remembered("b", "10.0.2.15"), remembered("c", "10.0.2.15")]
    wish = desired(local_peer(), both)
    assert (reasons(wish), len(wish.device.peers)) == ({"c": "SameEndpoint"}, 2)
    assert "which b announces too" in wish.problems[0].message
    moved = [both[0], replace(both[1], state=MemberState.FAILED)]
    assert desired(local_peer(), moved).problems == ()


def test_an_address_of_ours_that_leads_to_a_member_is_no_problem() -> None:
    """A failed member may have had it before, and another port is another machine behind our NAT."""
    failed = remembered("b", "10.0.2.15", state=MemberState.FAILED)
    other_port = Endpoint(ip_address("192.0.2.100"), 4500)
    forwarded = remembered("c", "192.0.2.3", announced=meta("c", wireguard_endpoint=other_port))
    assert desired(local_peer(own_addresses=HERE), [failed, forwarded]).problems == ()


def test_a_peer_that_announces_another_endpoint_than_its_last_handshake_proved_has_both() -> None:
    forged = remembered("b", "192.0.2.66", announced=meta("b"))
    there = Endpoint(ip_address("192.0.2.2"), 51820)
    wish = desired(local_peer(), [forged], proven={private_key("b").public: there})
    (peer,) = wish.device.peers
    assert (str(peer.endpoint), peer.proven, peer.first_endpoint) == ("192.0.2.66:51820", there, there)
    assert {str(address) for address in wish.endpoints} == {"192.0.2.2", "192.0.2.66"}
    settled = desired(local_peer(), [remembered("b", "192.0.2.2")], proven={private_key("b").public: there})
    assert settled.device.peers[0].proven is None


def test_in_kubernetes_no_proven_endpoint_leads_through_the_overlay() -> None:
    there = Endpoint(ip_address(OVERLAY[99]), 51820)
    own = local_peer(in_kubernetes=True)
    wish = desired(own, [remembered("b", "192.0.2.2")], proven={private_key("b").public: there})
    assert wish.device.peers[0].proven is None
