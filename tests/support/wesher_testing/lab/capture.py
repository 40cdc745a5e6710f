"""What really went over a wire: tcpdump on a host's interface, and questions about the result.

A capture runs from before the first packet of interest to after the last and is
whole: starting waits until tcpdump listens; stopping sends a frame of its own and waits
until that stands in the file, and refuses a capture in which the kernel dropped anything.
Until then the file is about a second behind. It has libpcap's classic format
(pcap-savefile(5)), read here.
"""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from types import TracebackType
from typing import Self

from wesher_testing.lab.namespaces import Host
from wesher_testing.run.toolbox import system_program

IPAddress = IPv4Address | IPv6Address

_TCP, _UDP = 6, 17
_PORTS = struct.Struct(">HH")
_ETHERNET, _RAW_IP = 1, 101
_IPV4, _IPV6, _ARP = 0x0800, 0x86DD, 0x0806
_IPV4_LENGTH, _IPV6_LENGTH, _ARP_LENGTH = 20, 40, 28
_PATIENCE = 60.0
"""Seconds for tcpdump to write what it has seen."""
_SEND_MARK = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
    wire.bind((sys.argv[1], 0))
    # 0x88b5 is the EtherType for local experiments (IEEE 802): no host heeds it.
    wire.send(bytes(12) + bytes.fromhex("88b5" + sys.argv[2]) + bytes(32))
"""
_WIREGUARD_DATA = 4
"""First byte of a transport data message (WireGuard paper, 5.4.6)."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One IP or ARP packet as it stood on the wire."""

    source: IPAddress
    destination: IPAddress
    protocol: int | None
    """The IP header's protocol number, or ``None`` for ARP."""
    payload: bytes
    """What the IP header carries; an IPv6 extension header counts as payload."""
    frame: bytes
    """The whole frame, link layer included."""

    @property
    def ports(self) -> tuple[int, int]:
        """Source and destination port of UDP or TCP.

        Raises:
            ValueError: it is something else, or cut short.

        """
        if self.protocol not in {_TCP, _UDP} or len(self.payload) < _PORTS.size:
            raise ValueError(f"no ports in protocol {self.protocol}")
        source, destination = _PORTS.unpack_from(self.payload)
        return source, destination

    @property
    def is_wireguard_data(self) -> bool:
        """Whether it is a UDP datagram that starts as WireGuard's encrypted data does."""
        return self.protocol == _UDP and self.payload[8:12] == bytes([_WIREGUARD_DATA, 0, 0, 0])


class Capture:
    """A capture on one interface of one host; use it as a context or stop it yourself.

    Attributes:
        file: where the packets go.

    """

    def __init__(self, host: Host, interface: str, file: Path) -> None:
        self.file = file
        self._host = host
        self._interface = interface
        self._stopped = False
        self._tcpdump = host.popen(
            # Not --immediate-mode: its buffer has a place of 64 KiB for each packet, however small, so
            # a tcpdump that a busy machine lets wait for two seconds of pings would lose some. The buffer
            # holds three exchanges of 10 MB.
            [
                *(system_program("tcpdump"), "--interface", interface, "-n", "-U"),
                *("--buffer-size=65536", "--relinquish-privileges=root", "-w", file),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # A Ctrl-C at the terminal must not end the capture before its owner does.
            process_group=0,
        )
        words = self._tcpdump.stderr
        heard = [] if words is None else list(_until("listening on", words))
        if not heard or "listening on" not in heard[-1]:
            raise RuntimeError(f"no tcpdump on {interface} of {host.name}: {''.join(heard)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the capture; after this the file holds every packet that passed.

        Raises:
            RuntimeError: packets are missing, so that absence would prove nothing.

        """
        if self._stopped:
            return
        self._stopped = True
        mark = os.urandom(16)
        self._host.run([sys.executable, "-I", "-c", _SEND_MARK, self._interface, mark.hex()])
        deadline = time.monotonic() + _PATIENCE
        while not (written := mark in self.file.read_bytes()) and self._tcpdump.poll() is None:
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        self._tcpdump.send_signal(signal.SIGINT)
        said = self._tcpdump.communicate(timeout=_PATIENCE)[1]
        dropped = re.search(r"(\d+) packets? dropped by kernel", said)
        if not written or dropped is None or dropped[1] != "0":
            raise RuntimeError(f"the capture {self.file.name} is not whole: {said}")

    def packets(self) -> list[Packet]:
        """Return the IP and ARP packets captured so far, in order."""
        return list(read_packets(self.file))


def read_packets(file: Path) -> Iterator[Packet]:
    """Read the IP and ARP packets of a capture file; a last record cut short is left out."""
    content = file.read_bytes()
    link_type = struct.unpack_from("<4sHHiIII", content)[-1]
    offset = 24
    while offset + 16 <= len(content):
        length = struct.unpack_from("<IIII", content, offset)[2]
        frame = content[offset + 16 : offset + 16 + length]
        offset += 16 + length
        if len(frame) == length and (packet := _parse(frame, link_type)):
            yield packet


def wireguard_pairs(packets: Iterable[Packet]) -> Counter[tuple[IPAddress, IPAddress]]:
    """Count WireGuard's data messages by (source, destination) of the underlay."""
    return Counter((packet.source, packet.destination) for packet in packets if packet.is_wireguard_data)


def holding(packets: Iterable[Packet], marker: bytes) -> list[Packet]:
    """Return the packets whose frame holds the marker anywhere."""
    return [packet for packet in packets if marker in packet.frame]


def addressed_in(packets: Iterable[Packet], overlay: IPv4Network | IPv6Network) -> list[Packet]:
    """Return the packets from or to an address of the overlay, readable for all on the wire."""
    return [packet for packet in packets if packet.source in overlay or packet.destination in overlay]


def _parse(frame: bytes, link_type: int) -> Packet | None:
    if link_type == _ETHERNET:
        kind, body = int.from_bytes(frame[12:14], "big"), frame[14:]
        if kind == _ARP and len(body) >= _ARP_LENGTH:
            return Packet(IPv4Address(body[14:18]), IPv4Address(body[24:28]), None, b"", frame)
    elif link_type == _RAW_IP:
        kind, body = {4: _IPV4, 6: _IPV6}.get(frame[0] >> 4 if frame else 0, 0), frame
    else:
        raise ValueError(f"link type {link_type}: only Ethernet and raw IP are read here")
    if kind == _IPV4 and len(body) >= _IPV4_LENGTH:
        header = 4 * (body[0] & 0x0F)
        return Packet(IPv4Address(body[12:16]), IPv4Address(body[16:20]), body[9], body[header:], frame)
    if kind == _IPV6 and len(body) >= _IPV6_LENGTH:
        return Packet(IPv6Address(body[8:24]), IPv6Address(body[24:40]), body[6], body[40:], frame)
    return None


def _until(mark: str, lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield line
        if mark in line:
            return
