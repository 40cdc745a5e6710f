"""From the world as it is to the world as the specs want it."""
