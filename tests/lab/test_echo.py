"""Echo requests leave by the interface that was named, and by no other."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from wesher_testing.lab.namespaces import Host, Lab

pytestmark = pytest.mark.needs_root

ASK = """
import sys
from ipaddress import ip_address
from wesher_agent.tunnel.echo import Echo
try:
    with Echo(ip_address(sys.argv[1]), sys.argv[2]) as echo:
        for sequence in (1, 2):
            print("answered" if echo.ask(sequence, timeout=1.0) else "no answer")
except OSError as error:
    print("not sent:", error.strerror)
"""


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Host, Host]]:
    """Return two hosts on one network; the first is on another one too."""
    with Lab() as lab:
        yield lab.host("a", lab.lan, lab.network("apart")), lab.host("b")


def ask(host: Host, target: object, interface: str) -> list[str]:
    return host.run([sys.executable, "-c", ASK, str(target), interface]).stdout.splitlines()


@pytest.mark.parametrize("group", ["1 0", "0 0"], ids=["raw", "datagram"])
def test_a_host_on_the_interface_answers_in_both_families(pair: tuple[Host, Host], group: str) -> None:
    a, b = pair
    a.run(["sysctl", "-qw", f"net.ipv4.ping_group_range={group}"])
    for target in (b.ipv4, b.ipv6):
        assert ask(a, target, "eth0") == ["answered", "answered"]


@pytest.mark.parametrize("group", ["1 0", "0 0"], ids=["raw", "datagram"])
def test_a_host_that_only_another_interface_reaches_is_not_asked(pair: tuple[Host, Host], group: str) -> None:
    a, b = pair
    a.run(["sysctl", "-qw", f"net.ipv4.ping_group_range={group}"])
    for target in (b.ipv4, b.ipv6):
        assert "answered" not in ask(a, target, "eth1")


def test_an_interface_that_does_not_exist_is_an_error(pair: tuple[Host, Host]) -> None:
    a, b = pair
    assert ask(a, b.ipv4, "wg9") == ["not sent: No such device"]
