"""What can go wrong, sorted by who must act."""

from __future__ import annotations

from wesher_common.printable import printable

_MAX_SHOWN = 300


class WesherError(Exception):
    """Base of every error this project raises on purpose.

    Its text is one line that can be shown to a user as it stands: what another host or a library
    said in it is escaped.
    """

    def __str__(self) -> str:
        """Return the text, on one line."""
        return printable(super().__str__())


class InvalidSpec(WesherError):  # noqa: N818 - reads as the fact it states
    """The user must act: a value given to us breaks a rule.

    Args:
        field: where the value stands, as its writer would say it: a flag
            (``--overlay-net``), a spec path (``spec.overlayCIDR``), a file's key.
        rule: which rule it breaks and what to do about it.
        value: what was given, unless it is a secret; its first 300 characters are shown.

    """

    def __init__(self, field: str, rule: str, *, value: object = None) -> None:
        text = str(value)
        shown = "" if value is None else f" {text[:_MAX_SHOWN]!r}" + "…" * (len(text) > _MAX_SHOWN)
        super().__init__(f"{field}{shown}: {rule}")
        self.field = field
        self.rule = rule


class ClusterUnavailable(WesherError):  # noqa: N818 - reads as the fact it states
    """Wait and go on: the API server cannot be asked now."""


class PeerMisbehaved(WesherError):  # noqa: N818 - reads as the fact it states
    """A peer sent what the protocol forbids: drop it and count it by ``reason``.

    Args:
        reason: a short stable word list such as ``truncated`` or ``bad-checksum``,
            used as a metric label, so never built from the peer's bytes.
        detail: more for a debug log.

    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
