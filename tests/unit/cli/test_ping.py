"""What ``wesher ping`` says; that packets go through the tunnel is shown in ``tests/agent``."""

from __future__ import annotations

from typing import Any

import pytest

from wesher_agent.cli.ping import MOST, USUAL_COUNT, read_count
from wesher_agent.cli.ping_text import answer_line, summary_line, why_no_answer, why_no_tunnel
from wesher_agent.tunnel.echo import checksum, echo_request, is_reply
from wesher_common.errors import InvalidSpec

TOKEN = b"0123456789abcdef"


def a_member(**changes: Any) -> dict[str, Any]:
    entry = {
        "name": "b",
        "state": "alive",
        "overlayIP": "10.0.0.2",
        "endpoint": "192.0.2.2:51820",
        "stateSeconds": 61.0,
        "handshakeSeconds": 12.3,
        "receivedBytes": 5,
        "note": "",
    }
    return entry | changes


def test_an_answer_and_the_summary_have_times_in_milliseconds() -> None:
    assert answer_line(3, a_member(), 0.0123456) == "answer from b (10.0.0.2): seq=3 time=12.3 ms"
    assert summary_line(4, [0.0005, 0.0015, 1.5]) == "4 sent, 3 answered, min/avg/max 0.50/501/1500 ms"
    assert summary_line(2, []) == "2 sent, 0 answered"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"receivedBytes": None, "note": "claims 10.0.0.1, which a has"}, "claims 10.0.0.1, which a has"),
        ({"receivedBytes": None, "state": "left"}, "it left the mesh 1m ago"),
        ({"state": "left"}, "it left the mesh 1m ago"),
        ({"receivedBytes": None}, "it is not set up yet: try again in a few seconds"),
    ],
)
def test_a_member_without_a_tunnel_has_a_reason(changes: dict[str, Any], reason: str) -> None:
    assert why_no_tunnel(a_member(**changes)) == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {},
            (
                "the last handshake with 192.0.2.2:51820 is 12s old, so the tunnel itself may work: "
                "check whether a firewall on that host drops pings"
            ),
        ),
        (
            {"handshakeSeconds": 700.0, "note": "does not answer through the tunnel"},
            (
                "does not answer through the tunnel; no handshake with 192.0.2.2:51820 for 11m: "
                "check that its UDP port is open between both hosts"
            ),
        ),
        (
            {"handshakeSeconds": None, "endpoint": "", "state": "failed"},
            (
                "it failed 1m ago: it does not answer gossip either; no handshake with an unknown endpoint "
                "yet: check that its UDP port is open between both hosts"
            ),
        ),
        ({"state": "left"}, "it left the mesh 1m ago"),
        (
            {"state": "suspect"},
            "it has not answered gossip for 1m; the last handshake with 192.0.2.2:51820 is 12s old",
        ),
        (
            {"handshakeSeconds": None, "state": "suspect"},
            (
                "it has not answered gossip for 1m; no handshake with 192.0.2.2:51820 yet: "
                "check that its UDP port is open between both hosts"
            ),
        ),
    ],
)
def test_a_missing_answer_has_all_that_the_agent_knows(changes: dict[str, Any], reason: str) -> None:
    assert why_no_answer(a_member(**changes)) == reason


@pytest.mark.parametrize("text", ["0", "-1", "", "4.0", "٣", str(MOST + 1), "9" * 5000])
def test_a_count_that_is_no_number_of_packets_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match="--count"):
        read_count(text)


def test_a_count_is_optional() -> None:
    assert (read_count(None), read_count("1"), read_count(str(MOST))) == (USUAL_COUNT, 1, MOST)


def test_an_echo_request_has_a_checksum_in_ipv4_only() -> None:
    request = echo_request(4, 0x1234, 7, TOKEN)
    assert request[:2] == b"\x08\x00"
    assert checksum(request) == 0, "RFC 1071: over the whole message it is zero"
    assert echo_request(6, 0x1234, 7, TOKEN)[:4] == b"\x80\x00\x00\x00"


@pytest.mark.parametrize(("version", "kind"), [(4, 0), (6, 129)])
def test_a_reply_is_one_with_the_sequence_number_and_the_token(version: int, kind: int) -> None:
    def is_ours(data: bytes, *, has_ip_header: bool = False) -> bool:
        return is_reply(version, data, sequence=7, token=TOKEN, has_ip_header=has_ip_header)

    # The kernel may choose another identifier.
    reply = bytes([kind, 0, 9, 9, 5, 5, 0, 7]) + TOKEN
    assert is_ours(reply)
    assert is_ours(b"\x46" + bytes(23) + reply, has_ip_header=True)
    assert not is_ours(echo_request(version, 1, 7, TOKEN)), "on the loopback one sees one's own request"
    assert not is_ours(reply[:7] + b"\x08" + TOKEN)
    assert not is_ours(reply[:-1] + b"x")
    assert not is_ours(reply[:5])
    assert not is_ours(b"", has_ip_header=True)
