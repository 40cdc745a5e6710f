"""Seeds as users write them."""

import re
from ipaddress import ip_address

import pytest

from wesher_common.errors import InvalidSpec
from wesher_common.seeds import SeedAddress, parse_seed


@pytest.mark.parametrize(
    ("text", "host", "port", "canonical"),
    [
        ("host.example", "host.example", None, "host.example"),
        ("host.example:7000", "host.example", 7000, "host.example:7000"),
        (" node_1 ", "node_1", None, "node_1"),
        ("host.", "host.", None, "host."),
        ("192.0.2.1", "192.0.2.1", None, "192.0.2.1"),
        ("192.0.2.1:1", "192.0.2.1", 1, "192.0.2.1:1"),
        ("192.0.2.1:65535", "192.0.2.1", 65535, "192.0.2.1:65535"),
        ("2001:db8::1", "2001:db8::1", None, "2001:db8::1"),
        ("[192.0.2.1]:7946", "192.0.2.1", 7946, "192.0.2.1:7946"),
        ("[2001:db8::1]", "2001:db8::1", None, "2001:db8::1"),
        ("[2001:db8::1]:7946", "2001:db8::1", 7946, "[2001:db8::1]:7946"),
        ("fe80::1%eth0", "fe80::1%eth0", None, "fe80::1%eth0"),
    ],
)
def test_a_seed_is_read_and_written_back(text: str, host: str, port: int | None, canonical: str) -> None:
    seed = parse_seed(text, field="--join")
    assert seed == SeedAddress(host, port)
    assert str(seed) == canonical
    assert parse_seed(canonical, field="--join") == seed


def test_an_address_is_told_from_a_name() -> None:
    assert SeedAddress("192.0.2.1").address == ip_address("192.0.2.1")
    assert SeedAddress("2001:db8::1").address == ip_address("2001:db8::1")
    assert SeedAddress("host.example").address is None


FORM = "a host name or IP address of a member, with :port or without, such as 192.0.2.1:7946"
NEITHER = f"must be {FORM}"
URL = f"a seed is not a URL: it must be {FORM}"
BRACKETS = "an IPv6 address with a port is written [address]:port, such as [2001:db8::1]:7946"
PORT = "the port must be a number from 1 to 65535"
ONE = "must be one machine's address"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", NEITHER),
        ("a b", NEITHER),
        ("http://x", URL),
        ("https://host:7946/", URL),
        ("udp://[2001:db8::1]:7946", URL),
        ("user@host", NEITHER),
        ("user@host:7946", NEITHER),
        ("host:7946:7946", NEITHER),
        ("192.0.2.1:7946:7946", NEITHER),
        ("10.0.0.0/8", NEITHER),
        ("host/path", NEITHER),
        ("-host", NEITHER),
        ("host..example", NEITHER),
        ("192.0.2", NEITHER),
        ("192.0.2.256", NEITHER),
        ("x" * 64, NEITHER),
        (".".join(["x" * 63] * 4), NEITHER),
        ("münchen.example", NEITHER),
        ("host:", PORT),
        ("host:0", PORT),
        ("host:65536", PORT),
        ("host:-1", PORT),
        ("host:x", PORT),
        ("host:٣", PORT),
        ("[2001:db8::1", BRACKETS),
        ("[2001:db8::1]7946", BRACKETS),
        ("[2001:db8::1]:", PORT),
        ("[host", BRACKETS),
        ("[host]", BRACKETS),
        ("[host]:1", BRACKETS),
        ("2001:db8::1:x", BRACKETS),
        ("2001:db8::1:51820", BRACKETS),
        ("2001:db8:0:0:0:0:0:1:7946", BRACKETS),
        ("[[2001:db8::1]]:7946", BRACKETS),
        ("0.0.0.0", ONE),
        ("[::]:7946", ONE),
        ("224.0.0.1", ONE),
    ],
)
def test_what_is_no_seed_is_refused_in_one_line(text: str, rule: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        parse_seed(text, field="--join")
    assert str(refusal.value) == f"--join {text!r}: {rule}"


def test_a_port_of_thousands_of_digits_is_refused_as_any_other() -> None:
    with pytest.raises(InvalidSpec, match=re.escape(PORT)):
        parse_seed("host:" + "9" * 5000, field="--join")
