"""Routing rules and reverse-path filters, byte by byte."""

from __future__ import annotations

import struct
from ipaddress import IPv4Network, IPv6Network

import pytest

from wesher_agent.netlink.errors import MalformedReply
from wesher_agent.netlink.messages import pack_attribute
from wesher_agent.netlink.rule_messages import GOTO, NOP, TO_TABLE, Rule, pack_rule, parse_rule

RULES = [
    Rule(4, 1870, GOTO, target=1875, mark=0x80, mask=0x80),
    Rule(6, 1875, NOP),
    Rule(4, 1872, TO_TABLE, table=1870, source=IPv4Network("10.1.0.0/16")),
    Rule(6, 1874, TO_TABLE, table=70000),
    Rule(6, 1873, GOTO, target=1875, source=IPv6Network("8000::/1")),
    Rule(
        4,
        1871,
        GOTO,
        target=1875,
        source=IPv4Network("10.1.0.0/16"),
        destination=IPv4Network("10.2.0.9/32"),
        transport=6,
        source_port=1,
        destination_port=6443,
    ),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_rule_reads_back(rule: Rule) -> None:
    assert parse_rule(memoryview(pack_rule(rule))) == rule


def test_a_rule_is_laid_out_as_the_kernel_reads_it() -> None:
    body = pack_rule(RULES[0])
    assert body[:12] == struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 0, 0, 0, 2, 0)
    attributes = {
        6: struct.pack("=I", 1870),
        21: b"\x57",
        4: struct.pack("=I", 1875),
        10: struct.pack("=I", 0x80),
        16: struct.pack("=I", 0x80),
    }
    assert body[12:] == b"".join(pack_attribute(kind, payload) for kind, payload in attributes.items())


@pytest.mark.parametrize(
    "more",
    [
        pack_attribute(3, b"eth0\0"),
        pack_attribute(17, b"eth0\0"),
        pack_attribute(12, bytes(8)),
        pack_attribute(20, bytes(8)),
        pack_attribute(19, b"\1"),
        pack_attribute(14, struct.pack("=I", 0)),
        pack_attribute(24, struct.pack("=HH", 80, 90)),
    ],
    ids=["iif", "oif", "tunnel", "uids", "l3mdev", "suppress", "ports"],
)
def test_a_rule_that_selects_by_more_is_not_taken_for_ours(more: bytes) -> None:
    rule = parse_rule(memoryview(pack_rule(RULES[2]) + more))
    assert not rule.is_plain
    assert rule != RULES[2]


def test_an_inverted_rule_is_not_taken_for_ours() -> None:
    body = bytearray(pack_rule(RULES[2]))
    body[8] = 2
    assert not parse_rule(memoryview(bytes(body))).is_plain


def test_what_the_kernel_adds_to_each_rule_changes_nothing() -> None:
    more = pack_attribute(14, b"\xff" * 4) + pack_attribute(13, b"\xff" * 4) + pack_attribute(99, b"new")
    assert parse_rule(memoryview(pack_rule(RULES[2]) + more)) == RULES[2]


def test_a_foreign_rule_may_have_host_bits() -> None:
    body = bytearray(pack_rule(RULES[2]))
    at = bytes(body).index(bytes((10, 1, 0, 0)))
    body[at + 3] = 9
    assert parse_rule(memoryview(bytes(body))).source == IPv4Network("10.1.0.0/16")


@pytest.mark.parametrize(
    "body",
    [
        bytes(11),
        struct.pack("=BBBBBBBBI", 2, 0, 24, 0, 0, 0, 0, 1, 0) + pack_attribute(2, b"abc"),
        struct.pack("=BBBBBBBBI", 2, 0, 99, 0, 0, 0, 0, 1, 0) + pack_attribute(2, b"abcd"),
        bytes(12) + pack_attribute(6, b"a"),
        bytes(12) + pack_attribute(21, b"ab"),
        bytes(12) + pack_attribute(24, b"a"),
    ],
    ids=["header", "short address", "long prefix", "priority", "protocol", "ports"],
)
def test_a_malformed_rule_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedReply):
        parse_rule(memoryview(body))
