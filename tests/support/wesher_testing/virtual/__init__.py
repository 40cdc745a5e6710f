"""Gossip engines and agents on an imagined network, in imagined time."""
