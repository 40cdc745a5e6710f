"""Hosts in network namespaces of this machine, and what goes over their wires."""
