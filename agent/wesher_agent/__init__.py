"""The agent: one process per mesh and node, command ``wesher``."""
