"""A door into a lab: connections to a port of the machine's loopback come out inside a host.

Runs inside the host as a program of its own, on a listening socket made outside it: a socket
stays in the network namespace where it was made.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Forward from a listening socket, given by its descriptor, to an address and port."""
    descriptor, address, port = arguments
    asyncio.run(_serve(socket.socket(fileno=int(descriptor)), address, int(port)))
    return 0


async def _serve(listening: socket.socket, address: str, port: int) -> None:
    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there_reader, there_writer = await asyncio.open_connection(address, port)
            await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))
        writer.close()

    server = await asyncio.start_server(forward, sock=listening)
    await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
