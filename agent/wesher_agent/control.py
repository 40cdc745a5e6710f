"""The control socket: how the commands on this host ask the running agent.

One Unix socket a mesh, ``<run dir>/<interface>.sock``, mode 0600. A connection
carries one request and one reply, each a JSON object on a line:
``{"command": "status"}`` and ``{"result": …}`` or ``{"error": "…"}``. What the
answers hold is decided by whoever serves the commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from wesher_common.errors import InvalidSpec, WesherError

log = logging.getLogger("wesher.control")

Handler = Callable[[], Awaitable[Any]]

MAX_REQUEST = 4096
"""Bytes of one request."""
REQUEST_TIMEOUT = 5.0
MAX_CONNECTIONS = 8
ANSWER_TIMEOUT = 60.0
"""Seconds; leaving a mesh is the slowest command."""


class AgentUnreachable(WesherError):  # noqa: N818 - reads as the fact it states
    """No agent answers on the control socket."""


def socket_path(run_dir: Path, interface: str) -> Path:
    """Return where the agent of that interface listens."""
    return run_dir / f"{interface}.sock"


class ControlServer:
    """Answers commands on the control socket until closed."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._answering: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Listen, in place of a socket that a killed agent left behind.

        Raises:
            OSError: the directory cannot be made or written.

        """
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        old_mask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._path, limit=MAX_REQUEST)
        finally:
            os.umask(old_mask)

    async def close(self) -> None:
        """Stop listening, let answers under way get out, remove the socket."""
        if self._server is None:
            return
        self._server.close()
        self._path.unlink(missing_ok=True)
        if self._answering:
            await asyncio.wait(self._answering, timeout=REQUEST_TIMEOUT)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._answering) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._answering.add(task)
        try:
            writer.write(json.dumps(await self._answer(reader)).encode() + b"\n")
            async with asyncio.timeout(REQUEST_TIMEOUT):
                await writer.drain()
        except (OSError, TimeoutError) as error:
            log.debug("control connection ended early error=%r", error)
        finally:
            self._answering.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                request = json.loads(await reader.readline())
            command = request["command"]
            handler = self._handlers[command]
        except (ValueError, TypeError, KeyError):
            return {
                "error": f"expected a JSON object with one command of {', '.join(sorted(self._handlers))}"
            }
        try:
            return {"result": await handler()}
        except WesherError as error:
            return {"error": str(error)}


def find_socket(run_dir: Path, interface: str) -> Path:
    """Return the socket of the one agent meant.

    Args:
        run_dir: where control sockets live.
        interface: which agent, or empty when there is only one.

    Raises:
        AgentUnreachable: no agent has its socket there.
        InvalidSpec: several have, and none was named.

    """
    if interface:
        return socket_path(run_dir, interface)
    found = sorted(path for path in run_dir.glob("*.sock") if stat.S_ISSOCK(path.lstat().st_mode))
    if not found:
        raise AgentUnreachable(f"no agent runs here: no control socket in {run_dir}")
    if len(found) > 1:
        names = ", ".join(path.stem for path in found)
        raise InvalidSpec("--interface", f"several agents run on this host: name one of {names}")
    return found[0]


def ask(path: Path, command: str) -> Any:
    """Send a command to the agent behind a socket and return its result.

    Raises:
        AgentUnreachable: nobody listens, we may not ask, or no answer came.
        WesherError: the agent's own refusal, in its words.

    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_TIMEOUT)
            connection.connect(str(path))
            connection.sendall(json.dumps({"command": command}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                answer = json.loads(lines.readline())
    except PermissionError as error:
        raise AgentUnreachable(
            f"not allowed to ask the agent at {path}: run this as the agent's user"
        ) from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise AgentUnreachable(
            f"no agent runs for interface {path.stem}: nobody listens at {path}"
        ) from error
    except (OSError, ValueError) as error:
        raise AgentUnreachable(f"the agent at {path} did not answer: {error}") from error
    if "error" in answer:
        raise WesherError(answer["error"])
    return answer["result"]
