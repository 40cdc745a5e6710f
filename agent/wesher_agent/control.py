"""The control socket: how the commands on this host ask the running agent.

One Unix socket a mesh, ``<run dir>/<interface>.sock``, mode 0600. A connection
carries one request and one reply, each a JSON object on a line:
``{"command": "status"}`` and ``{"result": …}`` or ``{"error": "…"}``. A command that
takes a file has its content in base64: ``{"command": "news-add", "data": "…"}``. What the
answers hold is decided by whoever serves the commands.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import json
import socket
import stat
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from wesher_common.errors import InvalidSpec, WesherError
from wesher_common.event_logger import EventLogger

log = EventLogger("wesher.control")

Handler = Callable[[], Awaitable[Any]]
FileHandler = Callable[[bytes], Awaitable[Any]]

MAX_REQUEST = 3 * 1024 * 1024
"""Bytes of one request; the longest has a news file in base64."""
REQUEST_TIMEOUT = 5.0
MAX_CONNECTIONS = 8
ANSWER_TIMEOUT = 60.0
"""Seconds; leaving a mesh is the slowest command."""
LOOK_SECONDS = 5.0
"""Between two looks at whether the socket is still in its place."""


class AgentUnreachable(WesherError):  # noqa: N818 - reads as the fact it states
    """No agent answers on the control socket."""


def socket_path(run_dir: Path, interface: str) -> Path:
    """Return where the agent of that interface listens."""
    return run_dir / f"{interface}.sock"


class ControlServer:
    """Answers commands on the control socket until closed.

    Args:
        path: of the socket.
        handlers: by command.
        file_handlers: of the commands that take the content of a file.

    """

    def __init__(
        self,
        path: Path,
        handlers: Mapping[str, Handler],
        file_handlers: Mapping[str, FileHandler] = MappingProxyType({}),
    ) -> None:
        self._path = path
        self._handlers = handlers
        self._file_handlers = file_handlers
        self._server: asyncio.Server | None = None
        self._place: tuple[int, int] | None = None
        """Device and inode of the socket, which no other file has while we listen."""
        self._problem = ""
        """Why there is no socket, as the log has it already."""
        self._listening: set[asyncio.Task[Any]] = set()
        """Connections whose request has not arrived completely."""
        self._answering: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Listen; if that is not possible, say why in the log and leave it to `keep`."""
        try:
            await self._listen()
        except OSError as error:
            if str(error) != self._problem:
                log.warning("no control socket: commands cannot reach this agent", error=error)
            self._problem = str(error)
        else:
            self._problem = ""

    async def keep(self) -> None:
        """Look every `LOOK_SECONDS`, and listen again when another program removed or replaced the socket."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._is_in_place():
                continue
            await self.start()
            if self._is_in_place():
                log.info("control socket restored", path=self._path)

    async def close(self) -> None:
        """Stop listening, let answers under way get out, remove the socket."""
        if self._server is not None:
            self._server.close()
        if self._is_in_place():
            # Another program's socket stays.
            self._path.unlink(missing_ok=True)
        for task in self._listening:
            # A client that sends no request must not delay the end.
            task.cancel()
        if under_way := self._listening | self._answering:
            await asyncio.wait(under_way, timeout=REQUEST_TIMEOUT)

    async def _listen(self) -> None:
        """Listen, in place of a socket that a killed agent left behind.

        Raises:
            OSError: the directory cannot be made or written, or another program listens on it.

        """
        _make_directory(self._path.parent)
        if _is_answered(self._path):
            raise OSError(errno.EADDRINUSE, "another program listens on it", str(self._path))
        self._path.unlink(missing_ok=True)
        self._place = None
        if self._server is not None:
            self._server.close()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(self._path))
            # Before it listens. A umask would hold for files that other threads make meanwhile.
            self._path.chmod(0o600)
            place = _place_of(self._path)
            self._server = await asyncio.start_unix_server(
                self._serve, sock=listener, limit=MAX_REQUEST, start_serving=False
            )
        except BaseException:
            listener.close()
            raise
        await self._server.start_serving()
        # Only now: if nothing listens there, `keep` must try again.
        self._place = place

    def _is_in_place(self) -> bool:
        return self._place is not None and _place_of(self._path) == self._place

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        try:
            if task is None or len(self._listening) + len(self._answering) >= MAX_CONNECTIONS:
                answer = {"error": f"{MAX_CONNECTIONS} other commands are waiting for this agent: try again"}
            else:
                self._listening.add(task)
                try:
                    async with asyncio.timeout(REQUEST_TIMEOUT):
                        line = await reader.readline()
                except ValueError:
                    line = b""
                self._listening.discard(task)
                self._answering.add(task)
                answer = await self._answer(line)
            writer.write(json.dumps(answer).encode() + b"\n")
            async with asyncio.timeout(REQUEST_TIMEOUT):
                await writer.drain()
        except (OSError, TimeoutError, asyncio.CancelledError) as error:
            # Cancelled by `close`. It ends here, since Python 3.11 logs a fault for each such task.
            log.debug("control connection ended early", error=error)
        finally:
            if task is not None:
                self._listening.discard(task)
                self._answering.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            command, data = read_request(line, self._handlers, self._file_handlers)
            if command in self._handlers:
                return {"result": await self._handlers[command]()}
            return {"result": await self._file_handlers[command](data)}
        except WesherError as error:
            return {"error": str(error)}


def _make_directory(path: Path) -> None:
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        # Against the umask: a user who may not ask is told so, and not that no agent runs.
        path.chmod(0o755)


def _place_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_answered(path: Path) -> bool:
    """Tell whether a program listens on a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(0.0)
        try:
            client.connect(str(path))
        except BlockingIOError:
            # It listens, and as many as it lets wait are waiting.
            return True
        except OSError:
            return False
    return True


def read_request(
    line: bytes, commands: Collection[str], with_file: Collection[str] = ()
) -> tuple[str, bytes]:
    """Return the command that a request names, and the content of the file that comes with it.

    Args:
        line: the request.
        commands: those that are known.
        with_file: those that take a file.

    Raises:
        WesherError: it is not a request, names an unknown command, or lacks its file.

    """
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        request = None
    command = request.get("command") if isinstance(request, dict) else None
    if isinstance(command, str) and command in commands:
        return command, b""
    if not isinstance(command, str) or command not in with_file:
        known = ", ".join(sorted([*commands, *with_file]))
        raise WesherError(f"expected a JSON object with one of the commands {known}")
    try:
        return command, base64.b64decode(request["data"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise WesherError(f"{command}: data must be the content of a file in base64") from error


def read_answer(line: bytes) -> Any:
    """Return the result that an answer holds.

    Raises:
        WesherError: the agent refused, with its reason.
        ValueError: it is not an answer.

    """
    try:
        answer = json.loads(line)
    except RecursionError as error:
        raise ValueError("the answer is nested too deeply") from error
    if not isinstance(answer, dict) or not answer.keys() & {"result", "error"}:
        raise ValueError("the answer has neither a result nor an error")
    if "error" in answer:
        raise WesherError(str(answer["error"]))
    return answer["result"]


def find_socket(run_dir: Path, interface: str) -> Path:
    """Return the socket of the one agent meant.

    Args:
        run_dir: where control sockets live.
        interface: which agent, or empty when there is only one.

    Raises:
        AgentUnreachable: there is no socket, or this user may not look.
        InvalidSpec: there are several, and none was named.

    """
    if interface:
        return socket_path(run_dir, interface)
    try:
        found = sorted(path for path in run_dir.iterdir() if path.suffix == ".sock" and _is_socket(path))
    except PermissionError as error:
        raise AgentUnreachable(f"not allowed to read {run_dir}: run this as the agent's user") from error
    except OSError:
        found = []
    if not found:
        raise AgentUnreachable(f"no agent is running: no control socket in {run_dir}")
    if len(found) > 1:
        # A killed agent leaves its socket behind. A user who may ask none gets the whole list.
        found = [path for path in found if _is_answered(path)] or found
    if len(found) > 1:
        names = ", ".join(path.stem for path in found)
        raise InvalidSpec("--interface", f"several agents run on this host: choose one of {names}")
    return found[0]


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        # Its agent has just ended.
        return False


def ask(path: Path, command: str, data: bytes | None = None) -> Any:
    """Send a command to the agent behind a socket and return its result.

    Args:
        path: the socket.
        command: the command.
        data: the content of the file that it takes; None if it takes none.

    Raises:
        AgentUnreachable: nothing listens, this user may not ask, or no answer came.
        WesherError: the agent refused, with its reason.

    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_TIMEOUT)
            connection.connect(str(path))
            request = {"command": command}
            if data is not None:
                request["data"] = base64.b64encode(data).decode()
            # An agent with too many clients replies and closes before it reads the request.
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as lines:
                return read_answer(lines.readline())
    except PermissionError as error:
        raise AgentUnreachable(
            f"not allowed to connect to the agent at {path}: run this as the agent's user"
        ) from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise AgentUnreachable(
            f"no agent runs for interface {path.stem}: nothing listens on {path}"
        ) from error
    except (OSError, ValueError) as error:
        raise AgentUnreachable(f"the agent at {path} did not answer: {error}") from error
