"""memberlist's compression wrapper: ``{Algo: 0, Buf: bytes}`` round an LZW body (`util.go`)."""

from __future__ import annotations

from typing import Any, Final

from wesher_agent.wire import fields, lzw
from wesher_agent.wire.messages import MessageType
from wesher_common.errors import PeerMisbehaved

_LZW_ALGORITHM: Final = 0

_OVERHEAD: Final = len(b"\x09") + len(fields.pack({b"Algo": _LZW_ALGORITHM, b"Buf": b""}))

_MOST: Final = 128 * 1024
"""Bytes above which we send as it is: compressing more would hold up an event loop for over 20 ms."""


def compress_body(body: bytes) -> bytes | None:
    """Return a body in its wrapper, or None where that gains nothing."""
    if not _OVERHEAD < len(body) <= _MOST:
        return None
    wrapped = fields.pack({b"Algo": _LZW_ALGORITHM, b"Buf": lzw.compress(body)})
    return bytes((MessageType.COMPRESS,)) + wrapped if len(wrapped) + 1 < len(body) else None


def compressed_bytes(entries: dict[bytes, Any]) -> bytes:
    """Return the LZW bytes out of an unpacked wrapper.

    Raises:
        PeerMisbehaved: ``unknown-compression``, or a field's own reason.

    """
    if fields.u32(entries.get(b"Algo"), b"Algo") != _LZW_ALGORITHM:
        raise PeerMisbehaved("unknown-compression")
    return fields.octets(entries.get(b"Buf"), b"Buf")
