"""Brings a real WireGuard device to the wish of `wesher_agent.mesh.device`."""
