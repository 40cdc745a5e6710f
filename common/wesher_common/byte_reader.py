"""A cursor over bytes from another host, and the packed form of networks.

Integers are big-endian. Certificates, gossip metadata and news are read with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Final

from wesher_common.errors import PeerMisbehaved
from wesher_common.overlay import IPAddress, IPNetwork

_IPV6_HEADS: Final = 64
"""Added to the prefix length of an IPv6 network; that of an IPv4 network stands as it is."""
_LONGEST: Final = {4: 32, 6: 128}
_MOST_NETWORKS: Final = 255


class ByteReader:
    """Reads fields from the front of ``data``.

    Args:
        data: the bytes.
        what: what they are, the beginning of each refusal's reason, such as ``metadata``.

    Raises:
        PeerMisbehaved: from every method, for a field that is cut short or has another
            form than a writer gives it.

    """

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._position = 0

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        start, self._position = self._position, self._position + count
        if self._position > len(self._data):
            raise self.refusal("truncated")
        return self._data[start : self._position]

    def number(self, size: int) -> int:
        """Return the unsigned number in the next ``size`` bytes."""
        return int.from_bytes(self.take(size))

    def counted(self) -> bytes:
        """Return bytes that follow one byte with their count."""
        return self.take(self.number(1))

    def text(self) -> str:
        """Return text that follows one byte with its length."""
        try:
            return self.counted().decode()
        except UnicodeDecodeError as error:
            raise self.refusal("text") from error

    def address(self, size: int) -> IPAddress:
        """Return the address in the next 4 or 16 bytes."""
        return ip_address(self.take(size))

    def networks(self) -> tuple[IPNetwork, ...]:
        """Return what `packed_networks` packed."""
        found: list[IPNetwork] = []
        last = b""
        for _ in range(self.number(1)):
            network, packed = self._network()
            # The heads order the families too.
            if packed <= last:
                raise self.refusal("network-order")
            found.append(network)
            last = packed
        return tuple(found)

    @property
    def left(self) -> int:
        """How many bytes have not been read."""
        return len(self._data) - self._position

    def end(self) -> None:
        """Check that nothing follows."""
        if self._position != len(self._data):
            raise self.refusal("trailing-bytes")

    def refusal(self, reason: str) -> PeerMisbehaved:
        """Return the error for a field that breaks a rule."""
        return PeerMisbehaved(f"{self._what}-{reason}")

    def _network(self) -> tuple[IPNetwork, bytes]:
        head = self.take(1)
        version = 6 if head[0] >= _IPV6_HEADS else 4
        prefix = head[0] - _IPV6_HEADS if version == 6 else head[0]  # noqa: PLR2004 - IP's version
        longest = _LONGEST[version]
        if prefix > longest:
            raise self.refusal("network-prefix")
        packed = self.take((prefix + 7) // 8)
        try:
            return ip_network((packed.ljust(longest // 8, b"\0"), prefix)), head + packed
        except ValueError as error:
            raise self.refusal("network-host-bits") from error


def packed_networks(networks: Iterable[IPNetwork]) -> bytes:
    """Return a count, then each network: its prefix length (IPv6: plus 64) and the bytes that it covers.

    They ascend by their bytes, each once, so that the same networks have one form.

    Raises:
        ValueError: more than 255 networks.

    """
    packed = sorted({_packed(network) for network in networks})
    if len(packed) > _MOST_NETWORKS:
        raise ValueError(f"at most {_MOST_NETWORKS} networks fit, not {len(packed)}")
    return bytes([len(packed)]) + b"".join(packed)


def ascending(networks: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    """Return networks in the order in which `packed_networks` packs them, each once."""
    return tuple(sorted(set(networks), key=_packed))


def counted(data: bytes) -> bytes:
    """Return one byte with the count, and the bytes.

    Raises:
        ValueError: more than 255 bytes.

    """
    return bytes([len(data)]) + data


def _packed(network: IPNetwork) -> bytes:
    head = network.prefixlen + (_IPV6_HEADS if network.version == 6 else 0)  # noqa: PLR2004 - IP's version
    return bytes([head]) + network.network_address.packed[: (network.prefixlen + 7) // 8]
