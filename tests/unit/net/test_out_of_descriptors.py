"""A driver in a process whose file descriptors are used up."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.messages import AckResp, Ping
from wesher_agent.wire.packet import PacketFormat
from wesher_agent.wire.stream import StreamReader, seal_stream
from wesher_testing.lab.loopback import free_port

CHILD = """
import asyncio, os, resource, sys
from ipaddress import ip_address
from random import Random

from wesher_agent.net.driver import Driver
from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.members import LocalNode
from wesher_agent.swim.profile import LOCAL
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.packet import PacketFormat
from wesher_common.event_logger import log_to_stderr

async def run(port):
    log_to_stderr(20, "text")
    engine = Engine(
        LocalNode(name="a", address=Address("127.0.0.1", port)), LOCAL,
        packet_format=PacketFormat(Keyring(bytes(32))), incarnation=1, rng=Random(1), nonce=os.urandom,
    )
    driver = Driver(engine, lambda event: None)
    await driver.listen([ip_address("127.0.0.1")], port)
    driver.tell(engine.start)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        print("ready", flush=True)
    loop = asyncio.get_running_loop()
    released = asyncio.Event()
    loop.add_reader(0, released.set)
    await released.wait()
    loop.remove_reader(0)
    for descriptor in taken:
        os.close(descriptor)
    print("released", flush=True)
    await asyncio.sleep(60)

asyncio.run(run(int(sys.argv[1])))
"""
FORMAT = PacketFormat(Keyring(bytes(32)))
SECONDS = 30.0


def test_a_member_without_descriptors_logs_one_line_and_serves_again_once_it_has_some() -> None:
    port = free_port("127.0.0.1")
    with ExitStack() as held:
        child = held.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", CHILD, str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        held.callback(child.kill)
        assert child.stdin
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        connections = [
            held.enter_context(socket.create_connection(("127.0.0.1", port), SECONDS)) for _ in range(30)
        ]
        ping = connections[-1]
        ping.sendall(seal_stream(Ping(7, "a"), FORMAT, nonce=bytes))
        # The member tries to accept each second, and each time in vain.
        ping.settimeout(2.5)
        with pytest.raises(TimeoutError):
            ping.recv(1)
        ping.settimeout(SECONDS)
        child.stdin.write("release\n")
        child.stdin.flush()
        assert child.stdout.readline() == "released\n"

        reader = StreamReader(FORMAT, answer=True)
        while (answer := reader.message()) is None:
            data = ping.recv(4096)
            assert data, "closed without an answer"
            reader.feed(data)
        assert answer == AckResp(7)

        child.kill()
        _, log = child.communicate(timeout=SECONDS)
    refused = [line for line in log.splitlines() if "connections not accepted: trying again" in line]
    assert len(refused) == 1
    assert "asyncio" not in log
    assert "Traceback" not in log
