"""Which of this host's addresses to listen on and to give to others.

The order is the Go program's (hashicorp/go-sockaddr): public addresses first,
the default route's link before others, IPv4 before IPv6, the smaller network
first. Asking the kernel for them is left to others; names are resolved here.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from threading import Thread
from typing import Any

from wesher_common.errors import InvalidSpec
from wesher_common.overlay import IPAddress

ALL_ADDRESSES: tuple[IPAddress, ...] = (IPv4Address(0), IPv6Address(0))
RESOLVE_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class HostAddress:
    """One address of this host."""

    address: IPAddress
    prefix_length: int
    link: str
    link_up: bool
    has_default_route: bool
    """Whether its link leads to a default gateway."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a member listens, and where it says it does."""

    bind: tuple[IPAddress, ...]
    """One a family, or one."""
    advertise: IPAddress
    """What others dial."""
    internal: IPAddress | None
    """A local address for members nearby, when ``advertise`` is none of this host's (1:1 NAT)."""


def choose_addresses(
    host: Iterable[HostAddress],
    *,
    bind_addr: IPAddress | None,
    bind_iface: str,
    advertise_addr: IPAddress | None,
    own_link: str,
    everywhere: bool = False,
) -> Listening:
    """Decide what to bind and what to advertise.

    Args:
        host: the addresses of this host, in the kernel's order.
        bind_addr: as given by flag; beats everything.
        bind_iface: a link whose first address is meant; empty for none.
        advertise_addr: as given by flag or object; what others dial.
        own_link: our WireGuard link, which cannot carry itself.
        everywhere: whether to listen on all addresses unless told where, even with a public one.

    Raises:
        InvalidSpec: the link does not exist or has no address, or there is nothing to advertise.

    """
    others = [entry for entry in host if entry.link != own_link]
    bind: tuple[IPAddress, ...] = ()
    if bind_iface:
        bind = (_first_on(bind_iface, others),)
    elif bind_addr is not None:
        bind = (bind_addr,)
    elif advertise_addr is None and not everywhere:
        public = [entry for entry in _in_order(others) if entry.address.is_global]
        bind = tuple(entry.address for entry in public[:1])
    families: set[int] = {address.version for address in bind or ALL_ADDRESSES}
    if bind and not bind[0].is_unspecified:
        local: IPAddress | None = bind[0]
    else:
        local = _reachable(others, families)
    advertise = advertise_addr or local
    if advertise is None:
        raise InvalidSpec("--advertise-addr", "this host has no address that others could dial: give one")
    is_ours = any(entry.address == advertise for entry in others)
    return Listening(bind or ALL_ADDRESSES, advertise, None if is_ours else local)


def _first_on(link: str, host: Iterable[HostAddress]) -> IPAddress:
    for entry in host:
        if entry.link == link:
            return entry.address
    raise InvalidSpec("--bind-iface", "is no link of this host with an address", value=link)


def _reachable(host: Sequence[HostAddress], families: set[int]) -> IPAddress | None:
    for entry in _in_order(host):
        if entry.address.version in families and not entry.address.is_loopback:
            return entry.address
    return None


def _in_order(host: Iterable[HostAddress]) -> list[HostAddress]:
    usable = [e for e in host if e.link_up and not e.address.is_link_local and not e.address.is_multicast]
    return sorted(
        usable,
        key=lambda entry: (
            entry.address.is_loopback,
            not entry.has_default_route,
            entry.address.version,
            -entry.prefix_length,
        ),
    )


async def resolve(host: str) -> tuple[IPAddress, ...]:
    """Return every address of a name, without duplicates.

    Raises:
        OSError: the name has none, or nobody could be asked in time.
        ValueError: it cannot be a host's name.

    """
    loop = asyncio.get_running_loop()
    answers: asyncio.Future[tuple[IPAddress, ...]] = loop.create_future()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            addresses = tuple(dict.fromkeys(ip_address(answer[4][0]) for answer in found))
        except (OSError, ValueError) as error:
            tell(answers.set_exception, error)
        else:
            tell(answers.set_result, addresses)

    def tell(settle: Callable[[Any], None], outcome: object) -> None:
        # By now the loop may have ended, or nobody may wait any more.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: None if answers.done() else settle(outcome))

    # Not in the loop's own pool: a resolver that does not answer would hold up the
    # work on files and devices there, and the end of the process, for half a minute.
    Thread(target=ask, name=f"resolve {host}", daemon=True).start()
    async with asyncio.timeout(RESOLVE_TIMEOUT):
        return await answers
