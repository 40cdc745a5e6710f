"""Where a mesh departs from memberlist's profiles."""

from dataclasses import replace

import pytest

from wesher_agent.mesh.gossip_profile import gossip_profile
from wesher_agent.swim.profile import LAN, WAN, Profile
from wesher_common.mesh_document import GossipProfile


@pytest.mark.parametrize(("name", "memberlists"), [("LAN", LAN), ("WAN", WAN)])
def test_a_dead_name_may_move_once_the_dead_are_gossiped_to_no_more(
    name: GossipProfile, memberlists: Profile
) -> None:
    profile = gossip_profile(name)

    assert profile.dead_node_reclaim_time == memberlists.gossip_to_the_dead_time > 0
    assert replace(profile, dead_node_reclaim_time=0.0) == memberlists
