"""Members of other programs, and of ours, that gossip with one another."""
