"""Which of memberlist's profiles a mesh gossips by, and where it departs from it."""

from __future__ import annotations

from dataclasses import replace

from wesher_agent.swim.profile import LAN, WAN, Profile
from wesher_common.mesh_document import GossipProfile


def gossip_profile(name: GossipProfile) -> Profile:
    """Return the engine's constants.

    memberlist never lets a dead name come back from another address before it is
    forgotten, which takes a round of probes longer on some members than on others.
    Here all let it once they have stopped gossiping to the dead.
    """
    profile = LAN if name == "LAN" else WAN
    return replace(profile, dead_node_reclaim_time=profile.gossip_to_the_dead_time)
