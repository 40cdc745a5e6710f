"""Who this member is: its key ring and its name.

Pure decisions over what was given, saved or can be made; the order is the Go
program's (flag, saved, new), with the key file and the mounted ring before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from wesher_agent.files.regular import Unreadable, read_regular
from wesher_agent.settings import Settings
from wesher_common.errors import InvalidSpec
from wesher_common.join_file import MAX_JOIN_FILE_BYTES, JoinFile
from wesher_common.keys import KEY_BYTES, ClusterKey, KeyRing
from wesher_common.names import is_member_name, is_reserved_name, member_name
from wesher_common.overlay import IPAddress

_MAX_KEY_FILE = 4096
"""Bytes; far more than a key."""


@dataclass(frozen=True, slots=True)
class KeyDecision:
    """The ring to use, and whether its key was made just now."""

    ring: KeyRing
    generated: bool = False


def decide_key(
    *,
    mounted: KeyRing | None,
    given: ClusterKey | None,
    saved: KeyRing | None,
    invited: KeyRing | None = None,
    entropy: Callable[[int], bytes],
) -> KeyDecision:
    """Choose the key ring.

    Args:
        mounted: Kubernetes' ring, which beats everything.
        given: from a flag, a variable or the key file.
        saved: from the state file, unless it is to be ignored.
        invited: of an invite that has not been used yet.
        entropy: makes random bytes for a new key.

    """
    if mounted is not None:
        return KeyDecision(mounted)
    if invited is not None:
        return KeyDecision(invited)
    if given is not None and not (saved is not None and saved.number and given in saved):
        # With a number, the saved ring came from the mesh's authority after this key was given.
        return KeyDecision(KeyRing(given))
    if saved is not None:
        return KeyDecision(saved)
    return KeyDecision(KeyRing(ClusterKey(entropy(KEY_BYTES))), generated=True)


def read_key_file(settings: Settings) -> ClusterKey | None:
    """Return the key that flag or key file give, or None.

    Raises:
        InvalidSpec: the file cannot be read or holds no key.

    """
    if settings.cluster_key_file is None:
        return settings.cluster_key
    text = _text_of(settings.cluster_key_file, "--cluster-key-file", limit=_MAX_KEY_FILE)
    return ClusterKey.from_base64(text, field_name=f"--cluster-key-file {str(settings.cluster_key_file)!r}")


def read_join_file(path: Path) -> JoinFile:
    """Return what an invited machine was given.

    Raises:
        InvalidSpec: the file cannot be read, is open to other users, or something in it is wrong.

    """
    text = _text_of(path, "--join-file", limit=MAX_JOIN_FILE_BYTES, secret=True)
    try:
        return JoinFile.from_json(text)
    except InvalidSpec as error:
        raise InvalidSpec("--join-file", str(error), value=path) from error


def _text_of(path: Path, flag: str, *, limit: int, secret: bool = False) -> str:
    try:
        return read_regular(path, limit=limit, secret=secret).decode()
    except (FileNotFoundError, Unreadable, UnicodeError) as error:
        match error:
            case Unreadable():
                why = error.why
            case FileNotFoundError():
                why = f"cannot be read: {error.strerror}"
            case _:
                why = "is not text"
        raise InvalidSpec(flag, why, value=path) from error


def decide_name(settings: Settings, *, host_name: str, cluster_name: str, bind: IPAddress) -> str:
    """Return the name to gossip under.

    Args:
        settings: may give a name, or ask for the address as name.
        host_name: the host's, as the kernel has it.
        cluster_name: Kubernetes' part of the name; empty elsewhere.
        bind: the address listened on.

    Raises:
        InvalidSpec: the name is not a DNS name, or a reserved one was given on purpose.

    """
    if settings.ip_as_name and isinstance(bind, IPv4Address) and not bind.is_unspecified:
        # As in the Go program. Other members give such a name no hosts entry.
        return member_name(str(bind), cluster_name)
    name = member_name(settings.node_name or host_name, cluster_name)
    if not is_member_name(name):
        raise InvalidSpec("the host's name", "is not a valid member name: set --node-name", value=name)
    # A Kubernetes node may well be called by its address: hosts entries there end in our domain.
    if settings.kubernetes is None and settings.node_name and is_reserved_name(name):
        raise InvalidSpec(
            "--node-name", "is a reserved name, like localhost: choose another --node-name", value=name
        )
    return name
