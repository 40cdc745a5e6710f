"""Gossip's own packets carry the mark by which routing rules keep them out of the tunnels."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from wesher_agent.net.sockets import open_outgoing, open_sockets
from wesher_testing.lab.loopback import free_port
from wesher_testing.lab.namespaces import Host, Lab

pytestmark = pytest.mark.needs_root

MARK = 0x80
WITHOUT = ["setpriv", "--inh-caps=-net_admin,-net_raw", "--bounding-set=-net_admin,-net_raw"]
LISTEN = """
from ipaddress import ip_address
from wesher_agent.net.sockets import open_sockets
from wesher_common.errors import InvalidSpec
try:
    open_sockets(ip_address("127.0.0.1"), 7946, mark=0x80)
except InvalidSpec as error:
    print(error)
"""


@pytest.fixture
def host() -> Iterator[Host]:
    with Lab() as lab:
        yield lab.host("a")


def mark_of(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK)


@pytest.mark.parametrize("mark", [0, MARK])
def test_every_packet_of_gossip_is_marked_also_on_connections_that_others_open(mark: int) -> None:
    port = free_port("127.0.0.1")
    pair = open_sockets(ip_address("127.0.0.1"), port, mark=mark)
    assert pair is not None
    dialled = open_outgoing("127.0.0.1", mark=mark)
    try:
        dialled.settimeout(10)
        dialled.connect(("127.0.0.1", port))
        pair.listener.settimeout(10)
        accepted, _ = pair.listener.accept()
        with accepted:
            assert [mark_of(sock) for sock in (pair.datagram, dialled, accepted)] == [mark] * 3
    finally:
        dialled.close()
        pair.close()


def test_a_process_that_may_not_mark_says_which_right_it_lacks(host: Host) -> None:
    said = host.run([*WITHOUT, sys.executable, "-c", LISTEN]).stdout
    assert said == (
        "CAP_NET_ADMIN: is missing, so the agent cannot mark its packets (SO_MARK), by which they stay out "
        "of the tunnels: grant the container the capability\n"
    )
