"""A whole mesh that leaves at once, as a lab's end or an uninstall does it."""

from __future__ import annotations

from wesher_agent.swim.events import LeaveDone
from wesher_testing.virtual.network import VirtualNetwork


def test_members_that_all_leave_at_once_do_not_wait_for_each_other(net: VirtualNetwork) -> None:
    nodes = net.start("a", "b", "c")
    for node in nodes:
        node.act(lambda engine, now: engine.leave(now=now))
    net.run_until(lambda: all(node.happened(LeaveDone) for node in nodes), deadline=1.0)
