"""Whatever members claim, an address and a key have one owner, and those who can move settle."""

from dataclasses import replace
from ipaddress import ip_network
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from wesher_agent.mesh.desired import LocalPeer, desired
from wesher_agent.mesh.nodemeta import Flag, NodeMeta
from wesher_agent.mesh.roster import MemberState, RosterMember
from wesher_common.overlay import IPAddress, allocate_address, candidate_address
from wesher_testing.virtual.members import go_meta, local_peer, meta, private_key, remembered

SMALL = ip_network("10.189.0.0/28")
WIDE = ip_network("10.189.0.0/27")

claims = st.builds(
    lambda name, address, key, state, movable: remembered(
        name,
        announced=NodeMeta(
            overlay_address=address,
            public_key=private_key(key).public,
            version=1,
            flags=Flag.MOVABLE if movable else Flag.NONE,
        ),
        state=state,
    ),
    name=st.sampled_from("abcdefgh"),
    address=st.sampled_from(list(WIDE)),
    key=st.sampled_from("abcdefghij"),
    state=st.sampled_from(list(MemberState)),
    movable=st.booleans(),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(claims, max_size=8, unique_by=lambda member: member.name), st.booleans())
def test_no_address_and_no_key_is_programmed_twice(members: list[RosterMember], movable: bool) -> None:  # noqa: FBT001 - hypothesis draws it
    own = local_peer("j", overlay=SMALL, address=candidate_address("j", SMALL), movable=movable)
    wish = desired(own, members)
    routed = [network for peer in wish.device.peers for network in peer.allowed_ips]
    assert len(routed) == len(set(routed))
    assert ip_network(wish.device.address) not in routed
    assert all(network.subnet_of(SMALL) for network in routed)  # type: ignore[arg-type]
    keys = [peer.public_key for peer in wish.device.peers]
    assert len(keys) == len(set(keys))
    assert own.private_key.public not in keys
    assert movable or wish.device.address == own.address
    tunnelled = {entry.name for entry in wish.hosts}
    living = {member.name for member in members if member.state.is_alive}
    assert living <= tunnelled | {problem.member for problem in wish.problems}, "missing without a word"


@settings(max_examples=100, deadline=None)
@given(
    st.lists(claims, max_size=8, unique_by=lambda member: member.name),
    st.sets(st.sampled_from(list(WIDE)), max_size=4),
    st.sets(st.sampled_from(list(SMALL)), min_size=1, max_size=4),
)
def test_what_a_member_had_and_the_underlay_has_not_never_leaves_in_clear(
    members: list[RosterMember], former: set[IPAddress], underlay: set[IPAddress]
) -> None:
    """An address of the underlay lies in the overlay, so the overlay cannot be covered as a whole."""
    own = local_peer("j", overlay=SMALL, address=candidate_address("j", SMALL), underlay=frozenset(underlay))
    wish = desired(own, members, former)
    assert wish.cover.extent == "Members"
    assert list(wish.device.unreachable) == sorted({*wish.device.unreachable})
    covered = {network.network_address for network in wish.device.unreachable}
    assert all(network.prefixlen == network.max_prefixlen for network in wish.device.unreachable)
    assert covered.isdisjoint(underlay | {wish.device.address})
    had = {member.meta.overlay_address for member in members if member.meta is not None} | former
    missed = {address for address in had if address in SMALL} - covered
    assert missed <= underlay | {wish.device.address}
    assert {*wish.device.routes} <= {*wish.device.unreachable}, (
        "a peer's route that goes leaves nothing below"
    )


@settings(max_examples=50, deadline=None)
@given(
    st.sets(st.text("abcdefghijklmnop", min_size=1, max_size=3), min_size=2, max_size=9),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_members_that_can_move_end_with_an_address_each(
    names: set[str], go_members: int, dice: Random
) -> None:
    """Each looks at what the others last announced, one at a time in any order, until nobody moves."""
    fixed = sorted(names)[: min(go_members, len(names) - 1)]
    announced: dict[str, NodeMeta] = {}
    taken: set[IPAddress] = set()
    for name in sorted(names):
        if name in fixed:
            address = allocate_address(name, SMALL, taken)
            assert address is not None
            taken.add(address)
            announced[name] = go_meta(name, overlay_address=address)
        else:
            announced[name] = meta(name, overlay_address=candidate_address(name, SMALL))

    def node(name: str) -> LocalPeer:
        address = announced[name].overlay_address
        assert address is not None
        return local_peer(name, overlay=SMALL, address=address, movable=name not in fixed)

    def others(name: str) -> list[RosterMember]:
        return [
            remembered(other, f"192.0.2.{sorted(names).index(other) + 1}", announced=said)
            for other, said in announced.items()
            if other != name
        ]

    order = sorted(names)
    for _ in range(len(names) + 1):
        dice.shuffle(order)
        before = dict(announced)
        for name in order:
            address = desired(node(name), others(name)).device.address
            announced[name] = replace(announced[name], overlay_address=address)
        if announced == before:
            break
    else:
        raise AssertionError("they never stop moving")

    assert len({said.overlay_address for said in announced.values()}) == len(names)
    for name in names:
        wish = desired(node(name), others(name))
        assert len(wish.device.peers) == len(names) - 1
        assert wish.problems == ()
