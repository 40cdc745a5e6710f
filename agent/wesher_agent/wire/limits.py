"""How much of a peer's bytes we are willing to take, each limit once and by name.

Every bound that guards memory or time before or after authentication stands
here; the decoders only ask. Fixed widths of the format itself (a u16 port, a
12-byte nonce) are the decoders' own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wesher_common.errors import PeerMisbehaved


@dataclass(frozen=True, slots=True)
class Limit:
    """The most of something that a peer may send."""

    most: int
    unit: str
    reason: str
    """What `PeerMisbehaved` counts it under."""

    def check(self, amount: int) -> None:
        """Pass what is within the limit.

        Raises:
            PeerMisbehaved: more than the limit, for this limit's reason.

        """
        if amount > self.most:
            raise PeerMisbehaved(self.reason, f"{amount} {self.unit}, at most {self.most}")


DATAGRAM: Final = Limit(64 * 1024, "bytes", "datagram-too-large")
"""One datagram, and all that its compressed parts unpack to together."""

DATAGRAM_PARTS: Final = Limit(1024, "parts", "too-many-parts")
"""Parts of all compounds in one datagram; without it, empty parts cost more time than bytes."""

NESTING: Final = Limit(4, "wrappers", "nested-too-deep")
"""Compound and compression wrappers inside each other."""

FRAME: Final = Limit(1024 * 1024, "bytes", "frame-too-large")
"""A stream as it arrives, before anything in it is authenticated; a reader can be given another."""

LARGEST_FRAME: Final = 4 * 1024 * 1024
"""What a reader should be given at most: for an answer we asked for, or where many members are known."""

NODE_BYTES: Final = 1024
"""More than any entry of a push/pull takes, so that the known members tell how long one may be."""

DECOMPRESSED: Final = Limit(4 * 1024 * 1024, "bytes", "decompressed-too-large")
"""What a stream's compressed body unpacks to."""

NODES: Final = Limit(10_000, "nodes", "too-many-nodes")
"""Entries of one push/pull."""

USER_STATE: Final = Limit(1024 * 1024, "bytes", "user-state-too-large")
"""The application's part of a push/pull."""

KNOCK_ANSWER: Final = Limit(32 * 1024, "bytes", "knock-answer-too-large")
"""The answer to a request that needs no key."""

USER_MESSAGE: Final = Limit(1024 * 1024, "bytes", "user-message-too-large")
"""One user message on a stream."""

NAME: Final = Limit(253, "bytes", "name-too-long")
"""A member's name, as in DNS."""

META: Final = Limit(512, "bytes", "meta-too-long")
"""A member's metadata (memberlist's MetaMaxSize)."""

ERROR_TEXT: Final = Limit(1024, "bytes", "error-too-long")
"""What a peer says about a request it refused."""

CONTAINER: Final = Limit(64, "entries", "malformed-body")
"""Entries of any one msgpack map or array; memberlist's largest has eight."""
