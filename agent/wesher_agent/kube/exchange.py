"""One HTTP request and its answer, without a socket: what to send, and what the bytes that came mean.

How HTTP is written and read is h11's; here it is bounded, and its faults have names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import h11

MAX_ANSWER = 4 << 20
"""Bytes; etcd keeps no object as large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an API server said."""

    status: int
    body: bytes


class Exchange:
    """A request on a connection of its own.

    Args:
        method: of HTTP.
        target: the path, with the query.
        headers: all but those that tell of the body and of the connection's end.
        body: to send; empty sends none.

    Raises:
        ValueError: a header cannot be sent, such as one with a line break in it.

    """

    def __init__(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        self._connection = h11.Connection(our_role=h11.CLIENT)
        self._status = 0
        self._pieces: list[bytes] = []
        self._size = 0
        fields = [*headers.items(), ("Connection", "close")]
        if body:
            fields.append(("Content-Length", str(len(body))))
        try:
            request = h11.Request(method=method, target=target, headers=fields)
            said = map(self._connection.send, (request, h11.Data(data=body), h11.EndOfMessage()))
            # h11 gives None only for what ends a connection.
            self.request = b"".join(piece for piece in said if piece is not None)
            """All there is to send."""
        except h11.LocalProtocolError:
            # Its words hold the header, which may be a token.
            raise ValueError("the request contains characters that HTTP does not allow") from None

    def receive(self, data: bytes) -> Answer | None:
        """Take bytes off the connection, none at its end; return the answer once it is whole.

        Raises:
            ValueError: it is not HTTP, was cut short, or is longer than `MAX_ANSWER`.

        """
        try:
            self._connection.receive_data(data)
            while (event := self._connection.next_event()) is not h11.NEED_DATA:
                match event:
                    case h11.Response(status_code=status):
                        self._status = status
                    case h11.Data(data=piece):
                        self._take(bytes(piece))
                    case h11.EndOfMessage():
                        return Answer(status=self._status, body=b"".join(self._pieces))
                    case h11.ConnectionClosed():
                        raise ValueError("the API server closed the connection")
        except h11.RemoteProtocolError as error:
            raise ValueError(self._fault(data)) from error
        return None

    def _take(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > MAX_ANSWER:
            raise ValueError(f"the API server's answer is longer than {MAX_ANSWER} bytes")

    def _fault(self, data: bytes) -> str:
        if data:
            return "the API server's answer is not HTTP"
        return (
            "the API server's answer was cut short"
            if self._status
            else "the API server closed the connection"
        )
