"""The lab itself: hosts that are apart, can be cut and healed, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from socket import IPPROTO_ICMP, IPPROTO_UDP

import pytest

from wesher_testing.agents.process import PATIENCE, wait_for_ping, wait_until
from wesher_testing.lab.capture import Capture, addressed_in, holding, wireguard_pairs
from wesher_testing.lab.namespaces import CommandFailed, Host, Lab

pytestmark = pytest.mark.needs_root


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def wait_reached(host: Host, address: object) -> None:
    """Wait until a host answers: for some seconds the kernel believes what it found out during a cut."""
    wait_for_ping(host, str(address))


def reaches(host: Host, address: object) -> bool:
    return host.run(["ping", "-c", "3", "-i", "0.2", "-W", "1", str(address)], check=False).returncode == 0


def test_hosts_on_a_network_reach_each_other_in_both_families(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    wait_reached(a, b.ipv4)
    wait_reached(a, b.ipv6)


def test_a_host_can_stand_on_two_networks_that_do_not_meet(lab: Lab) -> None:
    far = lab.network("far")
    a, b, router = lab.host("a"), lab.host("b", far), lab.host("router", lab.lan, far)
    wait_reached(router, a.ipv4)
    wait_reached(router, b.ipv4)
    assert router.address_on(far) in far.ipv4
    assert not reaches(a, b.ipv4)


def test_a_cut_host_is_alone_until_its_cable_is_back(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    b.cut()
    assert not reaches(a, b.ipv4)
    b.restore()
    wait_reached(a, b.ipv4)


def test_a_network_can_be_cut_in_two_and_no_host_sees_its_link_go(lab: Lab) -> None:
    far = lab.far_side(lab.lan, "far")
    a, b, c = lab.host("a"), lab.host("b"), lab.host("c", far)
    wait_reached(a, c.ipv4)
    lab.cut_between(far)
    assert not reaches(a, c.ipv4)
    wait_reached(a, b.ipv4)
    assert "LOWER_UP" in c.run(["ip", "link", "show", "eth0"]).stdout
    lab.join_again(far)
    wait_reached(a, c.ipv4)


def test_dropped_peers_and_ports_come_back_with_allow_all(lab: Lab) -> None:
    a, b, c = lab.host("a"), lab.host("b"), lab.host("c")
    b.drop_peer(a)
    assert not reaches(a, b.ipv6)
    wait_reached(c, b.ipv4)
    b.allow_all()
    wait_reached(a, b.ipv6)


_REFUSED_OR_SILENT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3)
except ConnectionRefusedError:
    print("refused")
except TimeoutError:
    print("silent")
"""


def test_a_dropped_port_is_silent_and_the_others_are_not(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")

    def answer(port: int) -> str:
        return a.run([sys.executable, "-c", _REFUSED_OR_SILENT, str(b.ipv4), str(port)]).stdout.strip()

    b.drop("tcp", 7946)
    assert (answer(7946), answer(7947)) == ("silent", "refused")
    b.allow_all()
    assert answer(7946) == "refused"


def test_a_host_has_its_own_name_and_files(lab: Lab) -> None:
    before = Path("/etc/hosts").read_text()
    a, b = lab.host("a"), lab.host("b")
    a.run(["sh", "-ec", "echo 192.0.2.99 elsewhere >> /etc/hosts; mkdir /run/wireguard /var/lib/wesher"])
    assert a.run(["hostname"]).stdout == "a\n"
    assert a.run(["getent", "hosts", "elsewhere"]).stdout.startswith("192.0.2.99")
    assert (a.root / "run/wireguard").is_dir()
    assert b.run(["getent", "hosts", "elsewhere"], check=False).returncode != 0
    assert b.run(["ls", "/run", "/var/lib"]).stdout.split() == ["/run:", "mount", "/var/lib:"]
    assert Path("/etc/hosts").read_text() == before


def test_a_failed_command_says_what_it_was_and_why(lab: Lab) -> None:
    with pytest.raises(CommandFailed, match=r"ip link show nothing: status 1: .*does not exist"):
        lab.host("a").run(["ip", "link", "show", "nothing"])


def test_devices_never_appear_on_the_machine_itself(lab: Lab) -> None:
    before = set(Path("/sys/class/net").iterdir())
    lab.host("a")
    assert set(Path("/sys/class/net").iterdir()) == before


_ABANDONED = """
import os, signal, sys
from wesher_testing.lab.namespaces import Lab
with Lab() as lab:
    host = lab.host("a")
    children = [host.popen(["sleep", "600"]), host.popen(["sh", "-c", "setsid sleep 601 & sleep 602"])]
    print(lab.directory, *(child.pid for child in children), flush=True)
    if sys.argv[1] == "raise":
        raise ValueError("as a failing test would")
    os.kill(os.getpid(), int(sys.argv[1]))
"""


@pytest.mark.parametrize("end", ["raise", signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_however_a_run_ends(end: signal.Signals | str) -> None:
    """Standard error reaches its end only when the keeper and all inside the hosts are gone."""
    how = end if isinstance(end, str) else str(int(end))
    support = str(Path(__file__).parents[1] / "support")
    run = subprocess.run(
        [sys.executable, "-c", _ABANDONED, how],
        env={**os.environ, "PYTHONPATH": support},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    directory, *pids = run.stdout.split()
    assert run.returncode != 0
    assert len(pids) == 2
    assert not Path(directory).exists()
    # A process that has ended but awaits its reaper has no executable any more.
    assert not any(Path("/proc", pid, "exe").exists() for pid in pids)


_NEIGHBOUR = """
import sys
from wesher_testing.lab.namespaces import Lab
with Lab() as lab:
    a, b = lab.host("a"), lab.host("b")
    b.cut()
    print(lab.directory, flush=True)
    sys.stdin.readline()
"""


def test_two_labs_with_the_same_hosts_and_addresses_know_nothing_of_each_other(lab: Lab) -> None:
    """As two checkouts of this project that run their tests at the same time on one machine."""
    a, b = lab.host("a"), lab.host("b")
    with subprocess.Popen(
        [sys.executable, "-c", _NEIGHBOUR],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "support")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as neighbour:
        assert neighbour.stdin is not None
        assert neighbour.stdout is not None
        directory = Path(neighbour.stdout.readline().strip())
        assert directory.exists()
        assert directory != lab.directory
        wait_reached(a, b.ipv4)
        neighbour.stdin.write("\n")
        neighbour.stdin.flush()
        assert neighbour.wait(PATIENCE) == 0
    assert not directory.exists()
    wait_reached(a, b.ipv4)


def test_a_capture_holds_what_passed_and_shows_a_marker_sent_in_clear(lab: Lab, tmp_path: Path) -> None:
    a, b = lab.host("a"), lab.host("b")
    marker = os.urandom(16)
    with Capture(a, "eth0", tmp_path / "a.pcap") as capture:
        a.run(["ping", "-c", "1", "-W", "10", "-p", marker.hex(), str(b.ipv4)])
    packets = capture.packets()
    assert [(packet.source, packet.destination) for packet in holding(packets, marker)] == [
        (a.ipv4, b.ipv4),
        (b.ipv4, a.ipv4),
    ]
    assert addressed_in(packets, ip_network("192.0.2.0/24"))
    assert addressed_in(packets, ip_network("10.0.0.0/8")) == []
    assert wireguard_pairs(packets) == {}


def test_a_capture_is_whole_though_tcpdump_had_no_time_for_a_while(lab: Lab, tmp_path: Path) -> None:
    a, b = lab.host("a"), lab.host("b")
    with Capture(a, "eth0", tmp_path / "a.pcap") as capture:
        capture._tcpdump.send_signal(signal.SIGSTOP)
        a.run(["ping", "-q", "-c", "500", "-i", "0.002", "-w", "30", str(b.ipv4)])
        capture._tcpdump.send_signal(signal.SIGCONT)
    assert sum(packet.protocol == IPPROTO_ICMP for packet in capture.packets()) >= 1000


def test_a_capture_tells_wireguard_data_from_other_datagrams(lab: Lab, tmp_path: Path) -> None:
    a, b = lab.host("a"), lab.host("b")
    send = (
        "import socket, sys\n"
        "wire = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "for first in (1, 4, 4):\n"
        "    wire.sendto(bytes([first, 0, 0, 0]) + bytes(60), (sys.argv[1], 51820))\n"
    )
    with Capture(b, "eth0", tmp_path / "b.pcap") as capture:
        a.run([sys.executable, "-c", send, str(b.ipv6)])
        # Until b's hardware address is known, a keeps what it sends.
        wait_until(
            lambda: sum(packet.protocol == IPPROTO_UDP for packet in capture.packets()) == 3,
            what="all three have arrived",
        )
    assert wireguard_pairs(capture.packets()) == {(a.ipv6, b.ipv6): 2}
