"""WireGuard in user space: a wireguard-go that we start, adopt and start again.

It outlives us, as the kernel's device does: it runs in a session of its own on
a persistent TUN device (`tun`), and the next agent finds it by its
socket. The text spoken there is left to `uapi`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from wesher_agent.netlink.errors import MalformedReply, PortTaken, WireGuardUnavailable
from wesher_agent.wireguard import uapi
from wesher_agent.wireguard.back_off import LONGEST_DELAY, BackOff
from wesher_agent.wireguard.link import delete_link, link_kind
from wesher_agent.wireguard.plan import DeviceChange, ObservedDevice, PeerSession
from wesher_agent.wireguard.tun import create_persistent_tun
from wesher_common.errors import InvalidSpec, WesherError
from wesher_common.event_logger import EventLogger
from wesher_common.keys import WireGuardPublicKey

LINK_KIND = "tun"

_SOCKET_DIRECTORY = Path("/var/run/wireguard")
_START_TIMEOUT = 10.0
_ANSWER_TIMEOUT = 10.0
_HUNG_SECONDS = 30.0
"""After which a program that has answered nothing in between is replaced."""
_END_TIMEOUT = 5.0
_POLL = 0.01
_MOMENT = 1.0

_CREDENTIALS = struct.Struct("=iII")

HOW_TO_GET_IT = (
    "wireguard-go was not found: install it (`go install golang.zx2c4.com/wireguard@latest`, "
    "Debian's wireguard-go) or set --userspace-binary"
)

_KEEPS_EXITING = WireGuardUnavailable(
    f"wireguard-go keeps exiting: see its output above; it is restarted within {LONGEST_DELAY:.0f} s"
)

log = EventLogger("wesher.wireguard")


class UserspaceBackend:
    """A device carried by wireguard-go.

    Args:
        interface: the device's name.
        binary: wireguard-go, or None when there is none: then only one that
            runs already can be adopted.

    """

    kind: Literal["Userspace"] = "Userspace"
    link_kind = LINK_KIND

    def __init__(self, interface: str, binary: Path | None) -> None:
        self.interface = interface
        self._binary = binary
        self._socket = _SOCKET_DIRECTORY / f"{interface}.sock"
        self._watch: asyncio.Task[None] | None = None
        self._pid = 0
        self._silent_since: float | None = None
        """When the program was first asked in vain; None once it has answered."""
        self._back_off = BackOff()
        self._removes_single = True
        """Whether the program is taken to remove single allowed IPs: until one refuses."""
        self._refusal: WesherError = _KEEPS_EXITING
        """Why the program does not run."""

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def peek(self) -> ObservedDevice | None:
        """See `Backend.peek`."""
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                return uapi.parse_get(await self._exchange(uapi.GET))
        except (OSError, EOFError):
            return None

    async def ensure(self) -> bool:
        """See `Backend.ensure`; between failed attempts the last failure is raised again.

        Raises:
            InvalidSpec: the name belongs to a network device of another kind.
            WireGuardUnavailable: no program, no TUN, or the program ended at once.

        """
        if self._watch is not None and not self._watch.done():
            if await asyncio.to_thread(link_kind, self.interface) is not None:
                return False
            # Without its device it is on its way out, and would be asked in vain.
            await self._let_it_end(_END_TIMEOUT)
            if not self._watch.done():
                return False
        if await self._adopt():
            log.info("wireguard-go adopted", interface=self.interface, pid=self._pid)
            return False
        if self._back_off.remaining(now=self._now):
            # The same words each time: they are logged once.
            raise self._refusal.with_traceback(None)
        try:
            await self._start()
        except BaseException as error:
            # Any kind of error, so that an unexpected one does not lead to a busy loop.
            self._refusal = (
                error
                if isinstance(error, WesherError)
                else WireGuardUnavailable(f"{self.interface}: {error}")
            )
            self._back_off.failed(now=self._now)
            raise
        return True

    async def observe(self) -> ObservedDevice:
        """See `Backend.observe`."""
        return await asyncio.to_thread(uapi.parse_get, await self._ask(uapi.GET))

    async def sessions(self) -> Mapping[WireGuardPublicKey, PeerSession]:
        """See `Backend.sessions`."""
        return await asyncio.to_thread(uapi.parse_sessions, await self._ask(uapi.GET))

    async def apply(self, change: DeviceChange) -> None:
        """See `Backend.apply`."""
        request = uapi.render_set(change, removes_single=self._removes_single)
        if not request:
            return
        result = uapi.parse_set(await self._ask(request))
        if result == errno.EINVAL and self._removes_single and change.removes_allowed_ips:
            # Before 0.0.20250522. What it did before it refused is done again.
            self._removes_single = False
            request = uapi.render_set(change, removes_single=False)
            result = uapi.parse_set(await self._ask(request))
        if result == errno.EADDRINUSE and change.listen_port is not None:
            raise PortTaken(change.listen_port)
        if result:
            raise WireGuardUnavailable(
                f"wireguard-go rejected a change of {self.interface}: {os.strerror(result)}"
            )

    async def wait_lost(self) -> None:
        """See `Backend.wait_lost`; returns when the back-off allows another start."""
        if self._watch is not None:
            await asyncio.shield(self._watch)
        if self._back_off.retry_at is None:
            await asyncio.Event().wait()
            return
        await asyncio.sleep(self._back_off.remaining(now=self._now))

    async def remove(self) -> None:
        """See `Backend.remove`.

        Raises:
            WireGuardUnavailable: another program has a TUN of that name, or there is no right to it.

        """
        if (self._watch is None or self._watch.done()) and not await self._adopt() and self._watch is None:
            await asyncio.to_thread(_check_nobody_holds, self.interface)
        watch, self._watch = self._watch, None
        if watch is not None and not watch.done():
            self._signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(watch, _END_TIMEOUT)
            except TimeoutError:
                self._signal(signal.SIGKILL)
        # A program whose pid we cannot know ends when its device is removed.
        await asyncio.to_thread(delete_link, self.interface, LINK_KIND)
        self._socket.unlink(missing_ok=True)

    def close(self) -> None:
        """See `Backend.close`."""
        if self._watch is not None:
            self._watch.cancel()

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to the program, if its pid is known and it has not just ended."""
        if self._pid:
            with suppress(ProcessLookupError):
                os.kill(self._pid, number)

    async def _adopt(self) -> bool:
        """Watch the program that answers on the device's socket; tell whether there is one."""
        try:
            # A program that is being killed, or hangs, still lets one connect, but answers nothing.
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                await self._exchange(uapi.GET)
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except (OSError, EOFError):
            return False
        self._pid = _peer_pid(writer)
        self._silent_since = None
        self._back_off.running(now=self._now)
        self._watch = asyncio.create_task(self._until_gone(reader, writer))
        return True

    async def _start(self) -> None:
        if self._binary is None:
            raise WireGuardUnavailable(HOW_TO_GET_IT)
        kind = await asyncio.to_thread(link_kind, self.interface)
        if kind not in {None, LINK_KIND}:
            raise InvalidSpec(
                "interface", "is the name of another network device: choose a free one", value=self.interface
            )
        _check_socket_directory()
        create_persistent_tun(self.interface)
        child = _spawn(self._binary, self.interface)
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                while not await self._adopt():
                    if _is_gone(child):
                        raise WireGuardUnavailable(f"{self._binary} exited immediately: see its output above")
                    await asyncio.sleep(_POLL)
        except TimeoutError as error:
            os.kill(child, signal.SIGKILL)
            await asyncio.to_thread(os.waitpid, child, 0)
            raise WireGuardUnavailable(f"{self._binary} did not open {self._socket} in time") from error
        log.info("wireguard-go started", interface=self.interface, pid=child)

    async def _until_gone(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Return when wireguard-go closed a connection that asks it nothing, and has let go of its TUN."""
        try:
            with suppress(OSError):
                await reader.read()
        finally:
            writer.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_TIMEOUT):
                while not _is_gone(self._pid):  # noqa: ASYNC110 - a process sets no event
                    await asyncio.sleep(_POLL)
        if self._watch is asyncio.current_task():
            self._refusal = _KEEPS_EXITING
            self._back_off.failed(now=self._now)
            log.warning("wireguard-go exited", interface=self.interface, pid=self._pid)

    async def _ask(self, request: bytes) -> bytes:
        asked_at = self._now
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                answer = await self._exchange(request)
        except TimeoutError as error:
            self._end_if_hung(asked_at)
            raise WireGuardUnavailable(f"wireguard-go does not answer on {self._socket}") from error
        except EOFError as error:
            raise MalformedReply("wireguard-go: its answer is incomplete") from error
        except asyncio.LimitOverrunError as error:
            raise MalformedReply(f"wireguard-go: its answer is longer than {uapi.MAX_REPLY} bytes") from error
        except OSError as error:
            await self._let_it_end()
            raise WireGuardUnavailable(
                f"wireguard-go is not running: {self._socket}: {error.strerror}"
            ) from error
        self._silent_since = None
        return answer

    def _end_if_hung(self, asked_at: float) -> None:
        """Kill a program that has answered nothing for long; its end is noticed, and another is started."""
        if self._silent_since is None:
            self._silent_since = asked_at
        # Asked a second time: a machine or an agent that was paused lets a single limit pass.
        elif asked_at - self._silent_since >= _HUNG_SECONDS / 2 and (
            self._now - self._silent_since >= _HUNG_SECONDS
        ):
            log.warning("wireguard-go does not answer: killed", interface=self.interface, pid=self._pid)
            self._signal(signal.SIGKILL)
            self._silent_since = None

    async def _let_it_end(self, seconds: float = _MOMENT) -> None:
        """Wait a moment for a program that is ending, so that the next `ensure` starts another."""
        if self._watch is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._watch), seconds)

    async def _exchange(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self._socket, limit=uapi.MAX_REPLY)
        try:
            writer.write(request)
            await writer.drain()
            return await reader.readuntil(uapi.END)
        finally:
            writer.close()


def _check_nobody_holds(interface: str) -> None:
    """Attach to a TUN that we have not carried since our start: only one left behind can be had."""
    if link_kind(interface) == LINK_KIND:
        create_persistent_tun(interface)


def _check_socket_directory() -> None:
    try:
        _SOCKET_DIRECTORY.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WireGuardUnavailable(f"could not create {_SOCKET_DIRECTORY}: {error.strerror}") from error
    if not os.access(_SOCKET_DIRECTORY, os.W_OK):
        raise WireGuardUnavailable(
            f"wireguard-go needs its socket in {_SOCKET_DIRECTORY}, but the agent may not write there: "
            "make the agent its owner (RuntimeDirectory=wireguard under systemd)"
        )


def _spawn(binary: Path, interface: str) -> int:
    """Start wireguard-go so that it lives on when we end, and return its pid.

    Its standard error stays ours: a pipe to us would kill it with its first
    line after our end.
    """
    # Ours may hold the cluster key.
    environment = {"LOG_LEVEL": os.environ.get("LOG_LEVEL", "error"), "WG_PROCESS_FOREGROUND": "1"}
    try:
        return os.posix_spawn(
            binary,
            [binary.name, "--foreground", interface],
            environment,
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
        )
    except OSError as error:
        raise WireGuardUnavailable(f"{binary} could not be started: {error.strerror}") from error


def _peer_pid(writer: asyncio.StreamWriter) -> int:
    """Return the pid of the program that listens; 0 when it lives in another pid namespace."""
    credentials = writer.get_extra_info("socket").getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
    )
    pid: int = _CREDENTIALS.unpack(credentials)[0]
    return pid


def _is_gone(pid: int) -> bool:
    """Tell whether a program has ended; a child of this process is also reaped."""
    if pid == 0:
        return True
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return _is_dead_or_unknown(pid)


def _is_dead_or_unknown(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    # The state follows the name, which may hold anything (proc_pid_stat(5)).
    return status.rpartition(")")[2].split()[0] in {"Z", "X"}
