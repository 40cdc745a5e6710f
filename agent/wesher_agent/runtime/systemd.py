"""Tells systemd that the service is up (sd_notify(3)); does nothing under other service managers."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress

READY_SECONDS = 30.0
"""The longest time that units ordered after the service wait for the device.

One retry of a device that could not be set up fits into it.
"""


def notify(state: str) -> None:
    """Send a state such as ``READY=1`` to the service manager that asked for it."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    # A leading @ stands for an abstract socket's NUL.
    address = "\0" + path[1:] if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(state.encode(errors="replace"), address)


async def notify_ready(device_is_up: asyncio.Event, problem: Callable[[], str]) -> None:
    """Report the service as ready once its device is up, or after `READY_SECONDS` without one.

    A kubelet that starts after the service finds the overlay address on the device. On a machine whose
    device cannot be set up, the boot goes on, and the status text says what is missing.

    Args:
        device_is_up: set once the device exists and has its address.
        problem: returns why the device is not up; empty if nothing has failed yet.

    """
    try:
        async with asyncio.timeout(READY_SECONDS):
            await device_is_up.wait()
    except TimeoutError:
        # A line break would begin another variable.
        reason = " ".join(problem().split()) or "the mesh has not admitted this machine yet"
        notify(f"READY=1\nSTATUS=WireGuard device not ready: {reason}")
        await device_is_up.wait()
    notify("READY=1\nSTATUS=WireGuard device ready")
