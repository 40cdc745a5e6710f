"""What an agent says about itself: one snapshot, its conditions, and the answers to commands."""
