"""What can keep a WireGuard device from its desired state."""

from __future__ import annotations

from wesher_common.errors import WesherError


class WireGuardUnavailable(WesherError):  # noqa: N818 - reads as the fact it states
    """The device cannot be made or reached on this machine now.

    The text says what is missing and what to install or change. Gossip goes on
    without a device, and a later try may succeed.
    """


class PortTaken(WireGuardUnavailable):
    """Another program holds the UDP port.

    Args:
        port: the port that WireGuard was to listen on.
        holder: the program, where it is known.

    """

    def __init__(self, port: int, holder: str = "") -> None:
        super().__init__(
            f"UDP port {port} is taken by {holder or 'another program'}: "
            "set --wireguard-port, or spec.wireguard.port of the mesh, to a free one"
        )
        self.port = port


class MalformedReply(WireGuardUnavailable):
    """Kernel or wireguard-go answered what their protocols do not allow."""
