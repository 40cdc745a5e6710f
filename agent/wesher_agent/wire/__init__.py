"""The hashicorp/memberlist wire format: bytes to messages and back.

It owns formats and their limits and knows neither sockets nor state; what a
message means is `swim`'s. Source of truth: memberlist's ``net.go``, ``util.go``,
``security.go`` and ``label.go``.
"""
