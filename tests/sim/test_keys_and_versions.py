"""What members must have in common to understand each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from wesher_agent.swim.address import Address
from wesher_agent.swim.events import MemberFailed, MemberSuspected, PacketRejected, PushPullFailed
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.messages import Alive, IndirectPing, Ping, State, Suspect, Versions, encode
from wesher_agent.wire.packet import PacketFormat, Wrapper, seal
from wesher_testing.virtual.network import PLAIN, PORT, VirtualNetwork, messages_in

Make = Callable[..., VirtualNetwork]
OLD, NEW = b"o" * 32, b"n" * 32


def keyed(primary: bytes, *others: bytes) -> PacketFormat:
    """Return the format of a mesh with these keys."""
    return PacketFormat(Keyring(primary, others), compress=False)


def test_the_key_can_be_changed_under_way_without_losing_anybody(make_net: Make) -> None:
    """Accept the new one everywhere, make it primary everywhere, drop the old one everywhere."""
    net = make_net(packet_format=keyed(OLD))
    nodes = net.start(*(f"n{i}" for i in range(6)))

    for step in (keyed(OLD, NEW), keyed(NEW, OLD), keyed(NEW)):
        for node in nodes:
            node.engine.set_packet_format(step)
            net.run(2.0)
        net.run(10.0)

    assert not [e for n in nodes for e in n.events if isinstance(e, (MemberSuspected, PacketRejected))]
    late = net.add("late", packet_format=keyed(NEW))
    net.join(late, nodes[0])
    net.run_until(lambda: len(late.alive) == 7, deadline=1.0)


def test_members_with_different_keys_do_not_hear_each_other(make_net: Make) -> None:
    net = make_net()
    a, b = net.add("a", packet_format=keyed(OLD)), net.add("b", packet_format=keyed(NEW))

    net.join(a, b)
    net.run(1.0)

    assert a.alive == {"a"}
    assert b.alive == {"b"}
    [failed] = a.happened(PushPullFailed)
    assert failed.error
    assert b.happened(PacketRejected)


def test_members_of_different_labels_do_not_hear_each_other(make_net: Make) -> None:
    net = make_net()
    a = net.add("a", packet_format=replace(PLAIN, label=b"red"))
    b = net.add("b", packet_format=replace(PLAIN, label=b"blue"))

    net.join(a, b)
    net.run(1.0)

    assert a.alive == {"a"}
    assert b.alive == {"b"}


def test_a_labelled_encrypted_compressed_mesh_works_and_says_what_it_met(make_net: Make) -> None:
    net = make_net(packet_format=PacketFormat(Keyring(OLD), label=b"blue", compress=True))
    nodes = net.start(*(f"n{i}" for i in range(4)))
    net.run(30.0)

    for node in nodes:
        assert {Wrapper.LABEL, Wrapper.ENCRYPTION_1, Wrapper.CHECKSUM} <= set(node.engine.wrappers)
        assert not node.happened(MemberSuspected)


def test_a_speaker_of_protocol_one_encrypts_as_protocol_one_does(make_net: Make) -> None:
    net = make_net(packet_format=keyed(OLD))
    old = net.add("old", versions=Versions(1, 2, 1, 0, 0, 0))
    new = net.add("new")

    net.join(old, new)
    net.run_until(lambda: "old" in new.alive and "new" in old.alive, deadline=1.0)
    net.run(30.0)

    assert new.engine.wrappers[Wrapper.ENCRYPTION_0] > 0
    assert new.engine.wrappers[Wrapper.ENCRYPTION_1] == 0
    assert old.engine.wrappers[Wrapper.ENCRYPTION_1] > 0
    assert not old.happened(MemberSuspected)
    assert not new.happened(MemberSuspected)


def test_a_speaker_of_protocol_one_takes_its_own_port_to_be_everybodys(net: VirtualNetwork) -> None:
    """That protocol had no ports in its messages; memberlist overrides those that come all the same."""
    old = net.add("old", versions=Versions(1, 2, 1, 0, 0, 0))
    net.record = True
    request = IndirectPing(7, bytes([10, 50, 0, 1]), 4711, "x", nack=False)

    net.inject(old, seal([encode(request)], PLAIN, checksum=False, nonce=bytes), Address("10.66.6.6", PORT))

    [(_, to, data)] = old.sent
    assert isinstance(messages_in(data)[0], Ping)
    assert to == Address("10.50.0.1", PORT)


def test_checksums_go_only_to_members_that_read_them(make_net: Make) -> None:
    net = make_net()
    old, new = net.add("old", versions=Versions(1, 4, 2, 0, 0, 0)), net.add("new")

    net.join(old, new)
    net.run(20.0)

    assert old.engine.wrappers[Wrapper.CHECKSUM] == 0
    assert new.engine.wrappers[Wrapper.CHECKSUM] > 0


@pytest.mark.parametrize(
    "versions",
    [Versions(3, 5, 3, 0, 0, 0), Versions(1, 5, 2, 2, 5, 2), Versions(1, 1, 1, 0, 0, 0)],
    ids=["needs protocol 3", "delegate 2 to 5", "only protocol 1"],
)
def test_a_member_that_not_all_understand_is_not_merged(net: VirtualNetwork, versions: Versions) -> None:
    a, b = net.start("a", "b")
    stranger = net.add("stranger", versions=versions)

    net.join(stranger, a)
    net.run(1.0)

    assert "stranger" not in a.alive
    assert stranger.alive == {"stranger"}
    [failed] = stranger.happened(PushPullFailed)
    assert failed.error.startswith("incompatible-version: ")
    assert [e.reason for e in a.happened(PacketRejected)] == ["incompatible-version"]
    assert b.alive == {"a", "b"}


@pytest.mark.parametrize("name", ["stranger", "b", "dead", "suspect"])
def test_versions_that_are_gossiped_and_not_all_understand_hinder_no_exchange(
    net: VirtualNetwork, name: str
) -> None:
    """One such packet would do, again and again: every exchange shows the versions of all."""
    a, b, dead = net.start("a", "b", "dead", "suspect")[:3]
    net.crash(dead)
    net.run_until(lambda: a.sees(dead) is b.sees(dead) is State.DEAD, deadline=15.0)
    for node in (a, b):
        node.act(lambda engine, now: engine.inject(Suspect(9, "suspect", "liar"), now=now))
        said = Alive(99, name, bytes([10, 0, 0, 9]), PORT, b"", Versions(5, 5, 5, 0, 0, 0))
        if name != "stranger":
            said = replace(said, addr=node.engine.members[name].addr)
        data = seal([encode(said)], PLAIN, checksum=False, nonce=bytes)
        if node.name != name:
            net.inject(node, data, Address("10.66.6.6", PORT))
            assert [e.reason for e in node.happened(PacketRejected)] == ["incompatible-version"]

    newcomer = net.add("newcomer")
    net.join(newcomer, a)
    net.join(newcomer, b)

    net.run_until(lambda: newcomer.alive >= {"a", "b", "suspect"}, deadline=1.0)
    assert not newcomer.happened(PushPullFailed)


def test_a_lie_about_our_versions_is_denied_whatever_they_are(net: VirtualNetwork) -> None:
    """A member of another kind may have believed it."""
    a, b = net.start("a", "b")
    me = a.engine.me
    lie = Alive(7, "a", me.addr, me.address.port, b"", Versions(5, 5, 5, 0, 0, 0))

    a.act(lambda engine, now: engine.inject(lie, now=now))

    net.run_until(lambda: b.knows(a).incarnation == 8, deadline=2.0)


def test_unusual_versions_that_all_understand_may_come_by_gossip(net: VirtualNetwork) -> None:
    [a] = net.start("a")
    newer = Alive(1, "newer", bytes([10, 0, 0, 9]), PORT, b"", Versions(2, 5, 3, 0, 1, 0))

    a.act(lambda engine, now: engine.inject(newer, now=now))

    assert "newer" in a.alive


def test_members_of_one_delegate_version_join_each_other(make_net: Make) -> None:
    """As serf's members do, which refuse those outside 2 to 5."""
    net = make_net()
    serf = Versions(1, 5, 2, 2, 5, 4)
    a, b = net.add("a", versions=serf), net.add("b", versions=replace(serf, delegate_current=2))

    net.join(a, b)

    net.run_until(lambda: a.sees(b) is b.sees(a) is State.ALIVE, deadline=1.0)


def test_a_member_that_speaks_protocol_two_only_is_still_found_dead(make_net: Make) -> None:
    """No TCP pings to it and no nacks from it, which it does not know."""
    net = make_net()
    old = Versions(1, 2, 2, 0, 0, 0)
    nodes = [net.add(name, versions=old) for name in ("a", "b", "c")]
    for node in nodes[1:]:
        net.join(node, nodes[0])
    net.run_until(lambda: all(len(n.alive) == 3 for n in nodes), deadline=2.0)
    net.crash(nodes[2])

    net.run_until(lambda: all(n.happened(MemberFailed) for n in nodes[:2]), deadline=10.0)

    assert nodes[0].engine.health_score <= 3
