"""``kubectl wesher invite``: admits one machine outside Kubernetes by an invite, in one join file.

The seed of the invite is made here and is in the join file alone: the WesherPeer has its public half.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

from wesher_common.certificate import Authority, AuthorityKey
from wesher_common.conditions import rfc3339
from wesher_common.errors import InvalidSpec, WesherError
from wesher_common.join_file import JoinFile
from wesher_common.keys import KEY_BYTES, KeyRing
from wesher_common.printable import shell_line
from wesher_common.seeds import SeedAddress
from wesher_operator.kubectl.join import seeds_of
from wesher_operator.kubectl.meshes import ROOT, key_secret_of, name_of, status_of
from wesher_operator.kubectl.peers import checked_name, new_peer, peer_path
from wesher_operator.kubectl.reach import ApiServer, Object

_DURATION = re.compile(r"(?:([0-9]{1,3})d)?(?:([0-9]{1,4})h)?(?:([0-9]{1,5})m)?")
_SHORTEST, _LONGEST = timedelta(minutes=1), timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """An invite that is not sent to the API server yet."""

    join_file: JoinFile
    peer: Object
    """The WesherPeer."""
    until: datetime

    def send(self, api: ApiServer) -> None:
        """Create the WesherPeer.

        Raises:
            NotPermitted: the user may not.
            ClusterUnavailable: the API server does not answer, or refuses the object.

        """
        api.create(f"{ROOT}/wesherpeers", self.peer)

    def explanation(self, file: str) -> str:
        """Return what to do now.

        Args:
            file: where the join file is; empty if it was printed.

        """
        name, command = self.join_file.member_name, shell_line(["wesher", "--join-file", file or "FILE"])
        return (
            f"invite for one machine, which gets the name {name}, valid until {rfc3339(self.until)}.\n"
            f"On that machine, as root, after you have opened its ports to the members: {command}\n"
            "The file holds the cluster key: send it over ssh, readable only by root, and keep no copy."
        )


def parse_ttl(text: str) -> timedelta:
    """Read how long an invite is valid, such as ``1h``, ``90m`` or ``2d``.

    Raises:
        InvalidSpec: something else, or not 1 minute to 7 days.

    """
    found = _DURATION.fullmatch(text)
    days, hours, minutes = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    ttl = timedelta(days=days, hours=hours, minutes=minutes)
    if not _SHORTEST <= ttl <= _LONGEST:
        raise InvalidSpec("--ttl", "must be a duration from 1m to 7d, such as 1h30m or 2d", value=text)
    return ttl


def prepare(
    api: ApiServer,
    mesh: Object,
    nodes: Sequence[Object],
    namespace: str,
    *,
    name: str,
    ttl: timedelta,
    entropy: Callable[[int], bytes],
) -> Invite:
    """Return an invite.

    Args:
        api: the API server, as the user.
        mesh: the WesherMesh.
        nodes: its WesherNodes.
        namespace: the operator's, where the key Secret lives.
        name: of the machine, without the mesh's clusterName.
        ttl: how long the invite is valid.
        entropy: returns that many random bytes.

    Raises:
        InvalidSpec: name or mesh cannot be used, or the machine was admitted before.
        NotPermitted: the user may not read what is needed.
        ClusterUnavailable: the API server does not answer.

    """
    checked_name(api, mesh, name)
    if api.get(peer_path(mesh, name)) is not None:
        known = f"{name_of(mesh)}.{name}"
        rule = (
            f"WesherPeer {known} exists: to invite the machine again, first run kubectl delete wpeer {known}"
        )
        raise InvalidSpec("NAME", rule, value=name)
    seed, spec = entropy(KEY_BYTES), mesh["spec"]
    join_file = JoinFile(
        mesh_name=name_of(mesh),
        mesh_uid=str(mesh["metadata"]["uid"]),
        ring=_ring(api, mesh, namespace),
        seeds=tuple(SeedAddress(host) for host in seeds_of(mesh, nodes)),
        label=spec["gossip"].get("label") or "",
        profile=spec["gossip"]["profile"],
        overlay=ip_network(spec["overlayCIDR"]),
        name=name,
        cluster_name=spec.get("clusterName") or "",
        authority=_authority(mesh),
        enrol_seed=seed,
        gossip_port=spec["gossip"]["port"],
        wireguard_port=spec["wireguard"]["port"],
        interface=spec["wireguard"]["interface"],
        mtu=spec["wireguard"].get("mtu") or 0,
        etc_hosts=spec.get("etcHosts") or "Qualified",
    )
    until = api.now + ttl
    enrol_key = str(Authority(seed).key)
    peer = new_peer(mesh, name, enrolKey=enrol_key, enrolUntil=rfc3339(until))
    return Invite(join_file=join_file, peer=peer, until=until)


@contextmanager
def new_file(path: Path, text: str) -> Iterator[None]:
    """Write a file that only its owner can read; it is removed again if what follows fails.

    Raises:
        InvalidSpec: it cannot be written, or is there already.

    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 - by its handle
            file.write(text)
    except OSError as error:
        raise InvalidSpec("--output", f"cannot be written: {error.strerror}", value=path) from error
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _ring(api: ApiServer, mesh: Object, namespace: str) -> KeyRing:
    name = key_secret_of(mesh)
    secret = api.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")
    if secret is None:
        raise WesherError(f"Secret {name} in namespace {namespace} is missing: run kubectl wesher doctor")
    data = secret.get("data") or {}
    try:
        texts = [base64.b64decode(data.get(entry, "")).decode() for entry in ("cluster-key", "accepted-keys")]
    except ValueError as error:
        raise WesherError(f"Secret {name} in namespace {namespace} is not text") from error
    try:
        return KeyRing.from_files(*texts)
    except InvalidSpec as error:
        raise WesherError(f"Secret {name} in namespace {namespace}: {error}") from error


def _authority(mesh: Object) -> AuthorityKey:
    text = str((status_of(mesh).get("identity") or {}).get("authority") or "")
    if not text:
        rule = "this mesh has no authority yet: an operator creates it with the mesh"
        raise InvalidSpec("--mesh", rule, value=name_of(mesh))
    return AuthorityKey.from_base64(text, field_name="status.identity.authority")
