"""Everything an agent begins with: read, decided and checked before anything is touched.

What is wrong here is the user's to mend, so it ends the process with one line.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from dataclasses import dataclass, field

from wesher_agent.files.atomic import CannotWrite
from wesher_agent.files.state import StateFile
from wesher_agent.files.state_format import State
from wesher_agent.mesh.desired import starting_address
from wesher_agent.mesh.nodemeta import NodeMeta
from wesher_agent.net.addresses import Listening, choose_addresses
from wesher_agent.runtime.host import HostNetwork, look_at_host
from wesher_agent.runtime.identity import (
    KeyDecision,
    decide_key,
    decide_name,
    first_incarnation,
    read_key_file,
)
from wesher_agent.runtime.kubernetes import KubernetesLink
from wesher_agent.runtime.sources import MountedDirectory
from wesher_agent.settings import Settings
from wesher_common.errors import PeerMisbehaved
from wesher_common.keys import KEY_BYTES, KeyRing, WireGuardPrivateKey
from wesher_common.mesh_document import MeshDocument
from wesher_common.overlay import IPAddress

log = logging.getLogger("wesher.agent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """One agent's start, all decisions taken."""

    settings: Settings
    document: MeshDocument
    mounted: MountedDirectory | None
    link: KubernetesLink | None
    state_file: StateFile
    saved: State = field(repr=False)
    ring: KeyRing
    private_key: WireGuardPrivateKey
    name: str
    incarnation: int
    host: HostNetwork
    listening: Listening
    overlay_address: IPAddress | None
    """None in Kubernetes until the operator gave one."""


async def begin(settings: Settings) -> Beginning:
    """Read files, host and API server, and decide.

    Raises:
        InvalidSpec: a file, the host's name or address, or another agent stands in the way.

    """
    mounted, ring = None, None
    document = settings.mesh_document()
    if settings.kubernetes is not None:
        mounted = MountedDirectory(settings.kubernetes)
        content = mounted.read()
        document, ring = content.document, content.ring
    given = read_key_file(settings)
    state_file = _open_state(settings, document)
    saved = _load_state(settings, state_file)
    key = decide_key(mounted=ring, given=given, saved=saved.key_ring, entropy=os.urandom)
    host = look_at_host()
    link = None
    if settings.kubernetes is not None:
        link = await KubernetesLink.connect(settings, document, settings.node_name or socket.gethostname())
        await link.look()
    listening = choose(settings, document, link, host)
    name = decide_name(
        settings,
        host_name=socket.gethostname(),
        cluster_name=document.cluster_name,
        bind=listening.bind[0],
    )
    beginning = Beginning(
        settings=settings,
        document=document,
        mounted=mounted,
        link=link,
        state_file=state_file,
        saved=saved,
        ring=key.ring,
        private_key=saved.private_key or WireGuardPrivateKey.from_random(os.urandom(KEY_BYTES)),
        name=name,
        incarnation=first_incarnation(wall_clock=time.time(), saved=saved.incarnation),
        host=host,
        listening=listening,
        overlay_address=_overlay_address(name, document, link, saved),
    )
    _show_new_key(key, settings, document)
    return beginning


def choose(
    settings: Settings, document: MeshDocument, link: KubernetesLink | None, host: HostNetwork
) -> Listening:
    """Decide where to listen, and what to say where.

    Raises:
        InvalidSpec: the flags' link has no address, or there is nothing to advertise.

    """
    given = link.node.advertise_address if link is not None and link.node is not None else None
    return choose_addresses(
        host.addresses,
        bind_addr=settings.bind_addr,
        bind_iface=settings.bind_iface,
        advertise_addr=settings.advertise_addr or given,
        own_link=document.wireguard.interface,
        everywhere=link is not None,
    )


def _open_state(settings: Settings, document: MeshDocument) -> StateFile:
    path = settings.state_dir / f"{document.wireguard.interface}.json"
    state_file = StateFile(path, gossip_port=document.gossip.port)
    try:
        state_file.lock()
    except CannotWrite as error:
        log.warning("state is not kept, a restart begins anew error=%s", error)
    return state_file


def _load_state(settings: Settings, state_file: StateFile) -> State:
    loaded = state_file.load()
    for warning in loaded.warnings:
        log.warning("state file: %s", warning)
    if settings.init:
        # What only this machine knows is no part of the mesh that is left behind.
        return State(private_key=loaded.state.private_key, incarnation=loaded.state.incarnation)
    return loaded.state


def _overlay_address(
    name: str, document: MeshDocument, link: KubernetesLink | None, saved: State
) -> IPAddress | None:
    former = saved.overlay_address if saved.name == name else None
    if link is not None:
        given = link.node.overlay_address if link.node is not None else None
        return given or (former if former is not None and former in document.overlay else None)
    taken = set()
    for member in saved.nodes:
        try:
            taken.add(NodeMeta.decode(member.raw_meta).overlay_address)
        except PeerMisbehaved:
            continue
    return starting_address(
        name, document.allocation, saved=former, taken={address for address in taken if address is not None}
    )


def _show_new_key(key: KeyDecision, settings: Settings, document: MeshDocument) -> None:
    if not key.generated:
        return
    if sys.stdout.isatty():
        text = key.ring.primary.reveal_base64()
        print(f"new cluster key generated: {text}", flush=True)  # noqa: T201 - a terminal's eyes only
        return
    path = settings.state_dir / f"{document.wireguard.interface}.json"
    log.warning("new cluster key generated, read it as root with: jq -r .ClusterKey %s", path)
