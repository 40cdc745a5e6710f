"""``make demo``: one mesh from nothing to proof, on hosts that are namespaces of this machine."""
