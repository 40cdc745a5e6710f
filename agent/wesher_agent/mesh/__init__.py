"""wesher's policy over gossip, pure: who is expected, who gets which tunnel."""
