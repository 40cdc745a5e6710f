"""memberlist's constants as values: the three profiles, and our own limits.

Times are seconds. The profiles are those of `config.go` (DefaultLANConfig,
DefaultWANConfig, DefaultLocalConfig); `Limits` has no counterpart there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from wesher_agent.wire.limits import LARGEST_FRAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How fast one member probes, gossips and gives up; memberlist's names."""

    tcp_timeout: float = 10.0
    """For a whole push/pull or user stream, from dialling to the last byte."""
    indirect_checks: int = 3
    """Members asked to ping one that did not answer."""
    disable_tcp_pings: bool = False
    retransmit_mult: int = 4
    """A broadcast is sent ``retransmit_mult * ceil(log10(n + 1))`` times."""
    suspicion_mult: int = 4
    suspicion_max_timeout_mult: int = 6
    push_pull_interval: float = 30.0
    """Stretched for more than 32 members; 0 turns the periodic exchange off."""
    probe_interval: float = 1.0
    probe_timeout: float = 0.5
    gossip_interval: float = 0.2
    gossip_nodes: int = 3
    gossip_to_the_dead_time: float = 30.0
    """How long a dead member is still gossiped to, and kept before it is forgotten."""
    dead_node_reclaim_time: float = 0.0
    """After this a dead name may return from another address; 0 is never."""
    awareness_max_multiplier: int = 8
    """The health score stays below it."""


LAN = Profile()
WAN = replace(
    LAN,
    tcp_timeout=30.0,
    suspicion_mult=6,
    push_pull_interval=60.0,
    probe_interval=5.0,
    probe_timeout=3.0,
    gossip_interval=0.5,
    gossip_nodes=4,
    gossip_to_the_dead_time=60.0,
)
LOCAL = replace(
    LAN,
    tcp_timeout=1.0,
    indirect_checks=1,
    retransmit_mult=2,
    suspicion_mult=3,
    push_pull_interval=15.0,
    probe_timeout=0.2,
    gossip_interval=0.1,
    gossip_to_the_dead_time=15.0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What other members can make this one remember or do, at most."""

    members: int = 10_000
    """Names known at once, in whatever state; further ones are not admitted."""
    unproven: int = 5_000
    """Of them, those of standing 0; for a further one, a random one of these goes."""
    tombstones: int = 4_096
    """Members remembered for a day after they were forgotten; then the oldest goes."""
    pending_acks: int = 1_024
    """Pings sent for others whose answer is awaited."""
    outbox: int = 4_096
    """Datagrams waiting to be picked up; further ones are lost."""
    accepted_streams: int = 32
    """Streams that other hosts opened; beyond it, the one that has delivered least is ended for a new one."""
    accepted_streams_per_ip: int = 4
    """Of one address, or of the unknown hosts of one IPv6 /64."""
    accepted_streams_kept: int = 8
    """Of ``accepted_streams``, for the addresses of members and seeds."""
    request_timeout: float = 3.0
    """Seconds from accepting to the whole request."""
    request_rate: int = 1 << 14
    """Bytes a second: a request that delivers as many gets more time, up to ``accepted_stream_timeout``."""
    accepted_bytes: int = 2 * LARGEST_FRAME
    """Kept of all accepted streams together while their requests are not whole; the longest gives way."""
    accepted_stream_timeout: float = 10.0
    """From accepting to the last byte of the answer; the driver closes after it."""


DEFAULT_LIMITS = Limits()
