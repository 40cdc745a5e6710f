"""The kernel by netlink: the host's addresses and routes, and the messages and sockets for it."""
