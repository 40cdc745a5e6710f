"""Which overlay address a name gets.

The candidate is costela/wesher's (``wg/wireguard.go``, ``AssignOverlayAddr``):
FNV-1a over the name, laid into the host part of the network. Go overwrites
whole bytes; we overwrite bits, which is the same for octet prefixes.
"""

from __future__ import annotations

from collections.abc import Container
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_FNV_OFFSET_BASIS = 0x6C62272E07BB014262B821756295C58D
_FNV_PRIME = 0x1000000000000000000013B
_FNV_MASK = (1 << 128) - 1


def fnv1a_128(data: bytes) -> int:
    """Return the 128-bit FNV-1a hash (draft-eastlake-fnv)."""
    value = _FNV_OFFSET_BASIS
    for byte in data:
        value = ((value ^ byte) * _FNV_PRIME) & _FNV_MASK
    return value


def candidate_address(name: str, network: IPNetwork) -> IPAddress:
    """Return the address that a member's name hashes to inside ``network``.

    It may be the network's own or its broadcast address, as in the Go program;
    `allocate_address` avoids those.
    """
    host_bits = network.max_prefixlen - network.prefixlen
    host = fnv1a_128(name.encode()) & ((1 << host_bits) - 1)
    return type(network.network_address)(int(network.network_address) | host)


# A node of a thousand members asks for each of them after each event.
@lru_cache(maxsize=16384)
def host_network(address: IPAddress) -> IPNetwork:
    """Return the network of one address: /32, or /128 in IPv6."""
    return ip_network(address)


def is_reserved(address: IPAddress, network: IPNetwork) -> bool:
    """Tell whether an address names the network itself (or, in IPv4, everyone in it)."""
    if network.prefixlen >= network.max_prefixlen - 1:
        return False
    if address == network.network_address:
        return True
    return isinstance(network, IPv4Network) and address == network.broadcast_address


def allocate_address(name: str, network: IPNetwork, taken: Container[IPAddress]) -> IPAddress | None:
    """Return the candidate for ``name``, otherwise the next free address after it.

    Goes round the network once and skips reserved addresses.

    Args:
        name: the member's name.
        network: the network allocated from.
        taken: addresses that are given, or held back.

    Returns:
        A free address, or None when the network is full.

    """
    first = int(network.network_address)
    size = network.num_addresses
    start = int(candidate_address(name, network)) - first
    make = type(network.network_address)
    # A set of taken addresses is finite, so this ends long before an IPv6 network's size.
    for step in range(size):
        address = make(first + (start + step) % size)
        if address not in taken and not is_reserved(address, network):
            return address
    return None


def why_closed_to_machines_outside(overlay: IPNetwork) -> str:
    """Return why external machines can join by invite only; empty if the cluster key is enough.

    ``--overlay-net`` takes whole octets only, as the Go program does. A join file names any network.
    """
    if overlay.prefixlen % 8 == 0:
        return ""
    rule = f"the prefix length of overlayCIDR must be a multiple of 8, not {overlay.prefixlen}"
    return f"external machines can join by invite only: otherwise {rule}"
