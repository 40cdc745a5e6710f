"""A netlink socket that sends bodies in batches and collects what is answered.

Blocking: the kernel does the work inside the send, and some of it takes
seconds, so callers use it in a thread. The framing is left to `netlink`.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from wesher_agent.netlink.errors import MalformedReply, WireGuardUnavailable
from wesher_agent.netlink.messages import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    pack_attribute,
    pack_message,
    parse_attributes,
    parse_messages,
)

NETLINK_ROUTE, NETLINK_GENERIC = 0, 16

_SOL_NETLINK = 270
_NETLINK_CAP_ACK, _NETLINK_GET_STRICT_CHK = 10, 12
_RECEIVE = 1 << 16
_BATCH_MESSAGES, _BATCH_BYTES = 64, 1 << 16
_ANSWER_TIMEOUT = 10.0
_DUMP_TRIES = 5

_CTRL, _CTRL_GET_FAMILY = 16, bytes((3, 1, 0, 0))
_CTRL_FAMILY_ID, _CTRL_FAMILY_NAME = 1, 2


class NetlinkSocket:
    """One netlink socket; a context manager.

    Args:
        protocol: `NETLINK_ROUTE` or `NETLINK_GENERIC`.

    """

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self._socket.settimeout(_ANSWER_TIMEOUT)
        self._sequence = 0
        for option in (_NETLINK_CAP_ACK, _NETLINK_GET_STRICT_CHK):
            self._try_option(option)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send_all(self, kind: int, flags: int, bodies: Sequence[bytes]) -> list[int]:
        """Send requests that the kernel acknowledges.

        Returns:
            The error number of each, positive, in order; 0 is success.

        """
        return [answer.errno for answer in self._exchange(kind, flags | NLM_F_ACK, bodies)]

    def ask_all(self, kind: int, bodies: Sequence[bytes]) -> list[memoryview | None]:
        """Send requests of one answer each; None stands where the kernel answered with an error."""
        answers = self._exchange(kind, 0, bodies)
        return [None if answer.kind == NLMSG_ERROR else answer.body for answer in answers]

    def dump(self, kind: int, body: bytes) -> list[memoryview]:
        """Return the bodies of a multi-part answer, asked again when it changed meanwhile.

        Raises:
            OSError: the kernel refused, with its error number.

        """
        for _ in range(_DUMP_TRIES - 1):
            bodies, interrupted = self._dump_once(kind, body)
            if not interrupted:
                return bodies
        # Another program keeps changing it. A slightly outdated list beats none; the next look corrects it.
        return self._dump_once(kind, body)[0]

    def family(self, name: str) -> int | None:
        """Return the number of a generic netlink family, or None where the kernel has none."""
        body = _CTRL_GET_FAMILY + pack_attribute(_CTRL_FAMILY_NAME, name.encode() + b"\0")
        (answer,) = self.ask_all(_CTRL, [body])
        if answer is None:
            return None
        attributes = dict(parse_attributes(answer[4:]))
        if _CTRL_FAMILY_ID not in attributes:
            raise MalformedReply(f"netlink: the family {name} has no number")
        return int.from_bytes(attributes[_CTRL_FAMILY_ID], sys.byteorder)

    def _exchange(self, kind: int, flags: int, bodies: Sequence[bytes]) -> list[Message]:
        answers: list[Message] = []
        batch: list[bytes] = []
        size = 0
        for body in bodies:
            if batch and (len(batch) == _BATCH_MESSAGES or size + len(body) > _BATCH_BYTES):
                answers += self._send_batch(kind, flags, batch)
                batch, size = [], 0
            batch.append(body)
            size += len(body)
        return answers + self._send_batch(kind, flags, batch) if batch else answers

    def _send_batch(self, kind: int, flags: int, bodies: Sequence[bytes]) -> list[Message]:
        first = self._sequence + 1
        self._sequence += len(bodies)
        self._send(
            b"".join(
                pack_message(kind, flags | NLM_F_REQUEST, body, sequence=first + number)
                for number, body in enumerate(bodies)
            )
        )
        answers: dict[int, Message] = {}
        while len(answers) < len(bodies):
            for message in parse_messages(self._receive()):
                if first <= message.sequence <= self._sequence:
                    answers[message.sequence] = message
        return [answers[number] for number in range(first, self._sequence + 1)]

    def _dump_once(self, kind: int, body: bytes) -> tuple[list[memoryview], bool]:
        self._sequence += 1
        self._send(pack_message(kind, NLM_F_REQUEST | NLM_F_DUMP, body, sequence=self._sequence))
        bodies: list[memoryview] = []
        interrupted = False
        while True:
            for message in parse_messages(self._receive()):
                if message.sequence != self._sequence:
                    continue
                interrupted |= bool(message.flags & NLM_F_DUMP_INTR)
                if message.kind in {NLMSG_ERROR, NLMSG_DONE}:
                    if message.errno:
                        raise OSError(message.errno, "netlink dump")
                    return bodies, interrupted
                bodies.append(message.body)

    def _send(self, data: bytes) -> None:
        self._socket.send(data)

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_RECEIVE)
        except TimeoutError as error:
            raise WireGuardUnavailable(
                f"the kernel did not answer a netlink request within {_ANSWER_TIMEOUT:.0f} s"
            ) from error

    def _try_option(self, option: int) -> None:
        try:
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        except OSError as error:
            # Kernels before 4.20 lack them: answers are longer then, and filtered by us alone.
            if error.errno != errno.ENOPROTOOPT:
                raise
