"""kopf's way in: each handler wakes a reconciler and decides nothing."""
