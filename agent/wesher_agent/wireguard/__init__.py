"""Brings a real WireGuard device to the desired state in `wesher_agent.mesh.device`."""
