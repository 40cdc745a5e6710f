"""How fast one TCP stream between two pods is, carried by the agent's rules, and by a route set by hand.

``python -m wesher_testing.run.carried_bench``: both ways take turns on the same two devices in user
space, and each sends the same bytes. It needs root.
"""

from __future__ import annotations

import os
import sys
from statistics import median

from wesher_testing.device.carrying_cases import (
    a_carrying_wish,
    accepting,
    carrying,
    two_carrying_hosts,
)
from wesher_testing.device.harness import INTERFACE, Carrier, configure
from wesher_testing.device.private_hosts import in_private_world
from wesher_testing.run.toolbox import wireguard_go

_TURNS = 7
_MEGABYTES = 128
_PODS = {1: "10.244.1.1", 2: "10.244.2.1"}
_NETWORKS = {1: "10.244.1.0/24", 2: "10.244.2.0/24"}
_PORT = 8080
_SINK = f"""
import socket
with socket.create_server(("{_PODS[2]}", {_PORT})) as server:
    stream, _ = server.accept()
    with stream:
        while stream.recv(1 << 20):
            pass
        stream.sendall(b"done")
"""
_SOURCE = f"""
import socket, time
for _ in range(100):
    try:
        stream = socket.create_connection(("{_PODS[2]}", {_PORT}), 5, ("{_PODS[1]}", 0))
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
data = bytes(1 << 20)
with stream:
    began = time.monotonic()
    for _ in range({_MEGABYTES}):
        stream.sendall(data)
    stream.shutdown(socket.SHUT_WR)
    assert stream.recv(4) == b"done"
print({_MEGABYTES} * 8.388608 / (time.monotonic() - began))
"""
_SECONDS = 600.0


def measure(binary: str) -> dict[str, list[float]]:
    """Return the Mbit/s of each turn, by who set up the routes."""
    hosts = two_carrying_hosts(Carrier("Userspace", binary))
    figures: dict[str, list[float]] = {"by the agent": [], "by hand": []}
    (sender, _), (receiver, _) = hosts
    for turn in range(2 * _TURNS):
        by_hand = bool(turn % 2)
        for number, (host, agent) in enumerate(hosts, start=1):
            other = _NETWORKS[3 - number]
            what = accepting(number) if by_hand else carrying(number)
            agent.call(configure, a_carrying_wish(number, what))
            if by_hand:
                host.run("ip", "route", "replace", other, "dev", INTERFACE)
            else:
                host.run("ip", "route", "delete", other, check=False)
        receiver.start(sys.executable, "-c", _SINK)
        figures["by hand" if by_hand else "by the agent"].append(
            float(sender.run(sys.executable, "-c", _SOURCE))
        )
        receiver.finish()
    return figures


def main() -> None:
    """Measure and print."""
    if os.geteuid() != 0:
        print("the carried stream is not measured: that needs root")
        return
    binary = str(wireguard_go())
    figures = in_private_world(lambda: measure(binary), timeout=_SECONDS)
    for who, found in figures.items():
        print(f"{who}: {median(found):.0f} Mbit/s, of {min(found):.0f} to {max(found):.0f}", flush=True)
    print(
        f"carried: {median(figures['by the agent']) / median(figures['by hand']):.1%} of a route set by hand"
    )


if __name__ == "__main__":
    main()
