"""Reading capture files, and the questions put to them."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest

from wesher_testing.lab.capture import addressed_in, holding, read_packets, wireguard_pairs

A, B = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
A6, B6 = IPv6Address("2001:db8::1"), IPv6Address("2001:db8::2")


def pcap(*frames: bytes, link_type: int = 1) -> bytes:
    """Return a capture file, by pcap-savefile(5)."""
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, link_type)
    return header + b"".join(struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame for frame in frames)


def udp4(payload: bytes, *, source: IPv4Address = A, destination: IPv4Address = B) -> bytes:
    """Return an IPv4 packet with a UDP datagram."""
    ports = struct.pack("!HHHH", 51820, 51820, 8 + len(payload), 0)
    total = 20 + len(ports) + len(payload)
    return (
        struct.pack("!BBHHHBBH", 0x45, 0, total, 0, 0, 64, 17, 0)
        + source.packed
        + destination.packed
        + ports
        + payload
    )


def udp6(payload: bytes) -> bytes:
    """Return an IPv6 packet with a UDP datagram."""
    ports = struct.pack("!HHHH", 51820, 51820, 8 + len(payload), 0)
    return struct.pack("!IHBB", 6 << 28, 8 + len(payload), 17, 64) + A6.packed + B6.packed + ports + payload


def ethernet(kind: int, body: bytes) -> bytes:
    """Return a frame."""
    return bytes(12) + struct.pack("!H", kind) + body


def arp(sender: IPv4Address, target: IPv4Address) -> bytes:
    """Return an ARP request."""
    hardware = bytes(6)
    return ethernet(
        0x0806,
        struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + hardware + sender.packed + hardware + target.packed,
    )


DATA = bytes([4, 0, 0, 0]) + bytes(28)
HANDSHAKE = bytes([1, 0, 0, 0]) + bytes(144)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "capture.pcap"


def test_wireguard_data_is_counted_by_direction_and_handshakes_are_not(file: Path) -> None:
    frames = [ethernet(0x0800, udp4(DATA))] * 2
    frames += [ethernet(0x0800, udp4(HANDSHAKE)), ethernet(0x86DD, udp6(DATA))]
    frames += [ethernet(0x0800, udp4(DATA, source=B, destination=A))]
    file.write_bytes(pcap(*frames))
    assert wireguard_pairs(read_packets(file)) == {(A, B): 2, (B, A): 1, (A6, B6): 1}


def test_a_marker_is_found_wherever_it_stands(file: Path) -> None:
    file.write_bytes(pcap(ethernet(0x0800, udp4(b"....marker....")), ethernet(0x0800, udp4(b"nothing"))))
    assert len(holding(read_packets(file), b"marker")) == 1


def test_an_overlay_address_shows_as_source_as_destination_and_in_arp(file: Path) -> None:
    inside = IPv4Address("10.189.3.4")
    frames = [
        ethernet(0x0800, udp4(b"", source=inside)),
        ethernet(0x0800, udp4(b"", destination=inside)),
        arp(A, inside),
        arp(A, B),
        ethernet(0x86DD, udp6(b"")),
    ]
    file.write_bytes(pcap(*frames))
    assert len(addressed_in(read_packets(file), ip_network("10.189.0.0/16"))) == 3
    assert len(addressed_in(read_packets(file), ip_network("2001:db8::/64"))) == 1


def test_a_tunnel_device_is_captured_without_link_layer(file: Path) -> None:
    file.write_bytes(pcap(udp4(DATA), udp6(DATA), link_type=101))
    assert [packet.source for packet in read_packets(file)] == [A, A6]


def test_frames_of_other_kinds_and_a_record_cut_short_are_passed_over(file: Path) -> None:
    whole = pcap(ethernet(0x88B5, bytes(64)), ethernet(0x0800, udp4(DATA)))
    file.write_bytes(whole + pcap(ethernet(0x0800, udp4(DATA)))[24:-1])
    assert len(list(read_packets(file))) == 1


def test_a_link_type_that_is_not_read_here_is_refused(file: Path) -> None:
    file.write_bytes(pcap(udp4(DATA), link_type=113))
    with pytest.raises(ValueError, match="link type 113"):
        list(read_packets(file))
