"""Why an interface cannot have an IPv6 address on this host. Blocking, but short."""

from __future__ import annotations

from pathlib import Path

_SETTINGS = Path("/proc/sys/net/ipv6")


def kernel_has_ipv6() -> bool:
    """Tell whether the kernel has IPv6; ``ipv6.disable=1`` on its command line counts as none."""
    return _SETTINGS.exists()


def is_switched_off(interface: str) -> bool:
    """Tell whether sysctl ``disable_ipv6`` is on for an interface (Linux, ip-sysctl.rst)."""
    try:
        return (_SETTINGS / "conf" / interface / "disable_ipv6").read_text().strip() == "1"
    except OSError:
        return False


def without_kernel_support() -> str:
    """Return what to tell a user whose kernel has no IPv6."""
    return (
        "this kernel has no IPv6: boot it without ipv6.disable=1, load the module ipv6, "
        "or choose an IPv4 overlay network"
    )


def switched_off(interface: str) -> str:
    """Return what to tell a user who switched IPv6 off for an interface, or for all."""
    return (
        f"IPv6 is switched off: set net.ipv6.conf.{interface}.disable_ipv6=0 and, for new interfaces, "
        "net.ipv6.conf.default.disable_ipv6=0, or choose an IPv4 overlay network"
    )
