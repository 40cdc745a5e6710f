"""Whether a packet between two nodes' own networks arrives, by what their devices are to be.

A packet is lost if its sender routes it into a tunnel whose other end does not accept its source, or if
it comes outside the tunnels to a node that routes its source into one and filters strictly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from wesher_agent.mesh.device import DeviceConfig
from wesher_common.overlay import IPNetwork

if TYPE_CHECKING:
    from wesher_testing.virtual.mesh import VirtualAgent

LINK = "eth0"
"""Of each virtual host."""


def lost_flows(one: VirtualAgent, others: list[VirtualAgent]) -> Iterator[str]:
    """Yield which packets between an agent's networks and those of others would be lost now."""
    for other in others:
        if other is not one:
            yield from _lost(one, other)
            yield from _lost(other, one)


def _lost(sender: VirtualAgent, receiver: VirtualAgent) -> Iterator[str]:
    if sender.wanted is None or receiver.wanted is None:
        return
    there = {*receiver.local.networks}
    ways = _routed_to(sender.wanted.device, receiver) & there
    answered = _routed_to(receiver.wanted.device, sender)
    if not ways and not answered:
        return
    carrying, accepting = sender.wanted.device.carrying, receiver.wanted.device.carrying
    accepted = _accepted_from(sender, receiver.wanted.device)
    sources = {*carrying.sources} if carrying is not None else set()
    for source in {*sender.local.networks} | sources:
        if source in sources and ways:
            if source not in accepted or accepting is None:
                yield f"{sender.name} sends from {source} to {receiver.name}, which does not accept it"
        elif accepting is not None and source in answered and LINK not in accepting.loose_links:
            yield f"{receiver.name} drops what {sender.name} sends from {source} outside the tunnels"


def _routed_to(device: DeviceConfig, to: VirtualAgent) -> set[IPNetwork]:
    """Return the networks of an agent to which a device sends through the tunnel."""
    if device.carrying is None or not device.carrying.routes:
        return set()
    routed = {route.network for route in device.carrying.routes}
    return routed & _accepted_from(to, device)


def _accepted_from(sender: VirtualAgent, device: DeviceConfig) -> set[IPNetwork]:
    key = sender.local.private_key.public
    return {network for peer in device.peers if peer.public_key == key for network in peer.allowed_ips}
