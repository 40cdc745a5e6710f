"""The host's side of the mesh: keeps device and hosts file as desired, probes peers through the tunnel."""
