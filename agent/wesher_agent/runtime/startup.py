"""Everything an agent begins with: read, decided and checked before anything is touched.

An error here is the user's to fix, so it ends the process with one line.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from itertools import chain

from wesher_agent.control import socket_path
from wesher_agent.files.atomic import CannotWrite
from wesher_agent.files.hosts import HostsFile
from wesher_agent.files.link_memory import LinkMemory
from wesher_agent.files.state import Loaded, StateFile
from wesher_agent.kube.mounted import MountedDirectory
from wesher_agent.kube.reporter import FIRST_LOOK_SECONDS, REPEATED_LOOK_SECONDS, KubernetesLink
from wesher_agent.mesh.local import Local
from wesher_agent.mesh.saved_state import SavedState
from wesher_agent.net.resolver import Resolver
from wesher_agent.netlink.host import look_at_host
from wesher_agent.runtime.claim import claim_interface
from wesher_agent.runtime.identity import decide_key, decide_name, read_join_file, read_key_file
from wesher_agent.settings import Settings
from wesher_agent.tunnel.tunnel import remove_tunnel
from wesher_agent.wireguard.ownership import Owner
from wesher_common.certificate import Certificate
from wesher_common.errors import InvalidSpec
from wesher_common.event_logger import EventLogger
from wesher_common.keys import KEY_BYTES, ClusterKey, KeyRing, WireGuardPrivateKey
from wesher_common.mesh_document import MeshDocument
from wesher_common.names import is_reserved_name, member_name
from wesher_common.news import NewsKind
from wesher_common.overlay import IPAddress
from wesher_common.seeds import SeedAddress

log = EventLogger("wesher.agent")

_SEEDS_ASKED_FOR = 8
_RESOLVE_SECONDS = 2.0
"""A machine whose resolver is not there yet starts that much later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Startup:
    """One agent's start, all decisions taken."""

    settings: Settings
    mounted: MountedDirectory | None
    link: KubernetesLink | None
    state_file: StateFile
    saved: SavedState = field(repr=False)
    key_is_new: bool
    """Made at this start, so no other machine has it."""
    local: Local
    news: tuple[tuple[NewsKind, bytes], ...] = ()
    """As mounted."""
    resolver: Resolver
    """The agent goes on with it: the lookups of the start may not have ended."""
    seed_addresses: tuple[IPAddress, ...] = ()
    """Where the seeds are, as far as known at the start: the way there decides what to announce."""


async def start_up(settings: Settings, held: AsyncExitStack) -> Startup:
    """Read files, host and API server, and decide.

    Args:
        settings: as given.
        held: takes over what must be let go of at the end.

    Raises:
        InvalidSpec: a file, the host's name or address, or another agent prevents it.
        WesherError, OSError: as `look_at_host`.

    """
    mounted, ring = None, None
    if settings.join_file is not None:
        settings = settings.joining(read_join_file(settings.join_file), source="--join-file")
    news: tuple[tuple[NewsKind, bytes], ...] = ()
    document = settings.mesh_document()
    if settings.kubernetes is not None:
        mounted = MountedDirectory(settings.kubernetes)
        content = mounted.read()
        document, ring, news = content.document, content.ring, content.news
    given = read_key_file(settings)
    state_file = _open_state(settings, document)
    held.callback(state_file.unlock)
    held.enter_context(claim_interface(document.wireguard.interface))
    await _take_over_former_interfaces(settings, document, state_file)
    loaded = _load_state(state_file)
    _check_invite(settings, loaded)
    invited_before = None if settings.init or settings.kubernetes is not None else loaded.state.joined
    if settings.joined is None and invited_before is not None:
        settings = settings.joining(invited_before, source="the invite that this machine joined with")
        document = settings.mesh_document()
    if loaded.problem and ring is None and given is None and not settings.init and settings.joined is None:
        # A new key would make a mesh of this machine alone, which calls itself ready.
        raise InvalidSpec(
            "state file",
            f"{loaded.problem}, so this mesh's cluster key is unknown: restore the file, give the key with "
            "--cluster-key-file, or start a new mesh with --init",
            value=loaded.path,
        )
    node = settings.node_name or socket.gethostname()
    former = loaded.state
    if former.mesh is not None and former.name == member_name(node, former.mesh.cluster_name):
        # The same node, whose cluster got another name: not a clone of it.
        former = former.under_name(member_name(node, document.cluster_name))
    saved = _saved_for(settings, document, former)
    key = decide_key(
        mounted=ring,
        given=_key_beside_invite(settings, given, saved),
        saved=saved.key_ring,
        invited=_ring_of_invite(settings, saved),
        entropy=os.urandom,
    )
    resolver = Resolver()
    seed_addresses = await _seed_addresses(settings, resolver)
    host = look_at_host(seed_addresses, endpoints=[ip_address(node.address.ip) for node in saved.nodes])
    link = None
    if settings.kubernetes is not None:
        link = await KubernetesLink.connect(settings, document, node)
        await link.look(FIRST_LOOK_SECONDS if saved.overlay_address is None else REPEATED_LOOK_SECONDS)
    place = None
    if settings.kubernetes is not None:
        # Without an API server, what the operator had given when it was last reached. The saved
        # overlay address is for the saved name only, so the member judges it.
        remembered = replace(saved.place, overlay_address=None) if saved.place is not None else None
        place = link.node.place if link is not None and link.node is not None else remembered
    options = settings.options
    listening = options.listening(document, place, host)
    name = decide_name(
        settings,
        host_name=socket.gethostname(),
        cluster_name=document.cluster_name,
        bind=listening.bind[0],
    )
    if settings.kubernetes is None and saved.name == name and _counts(saved.certificate, document):
        place = saved.place
    if settings.kubernetes is None and is_reserved_name(name) and name != str(listening.bind[0]):
        # As fresh images are called, which have tunnels all the same.
        log.warning(
            "other members write no hosts entry for this node: set a hostname or --node-name", node=name
        )
    return Startup(
        settings=settings,
        mounted=mounted,
        link=link,
        state_file=state_file,
        saved=saved,
        key_is_new=key.generated,
        local=Local(
            name=name,
            private_key=_own_key(former, name) or WireGuardPrivateKey.from_random(os.urandom(KEY_BYTES)),
            ring=key.ring,
            document=document,
            options=options,
            host=host,
            listening=listening,
            place=place,
            joined=settings.joined,
        ),
        news=news,
        resolver=resolver,
        seed_addresses=seed_addresses,
    )


async def _seed_addresses(settings: Settings, resolver: Resolver) -> tuple[IPAddress, ...]:
    """Return the addresses of the first seeds; a name that no resolver answers soon is left out.

    None in Kubernetes, where a node's address does not depend on the mesh.
    """
    if settings.kubernetes is not None:
        return ()
    found = await asyncio.gather(
        *(_addresses_of(seed, resolver) for seed in settings.join[:_SEEDS_ASKED_FOR])
    )
    return tuple(dict.fromkeys(chain.from_iterable(found)))


async def _addresses_of(seed: SeedAddress, resolver: Resolver) -> tuple[IPAddress, ...]:
    if seed.address is not None:
        return (seed.address,)
    try:
        async with asyncio.timeout(_RESOLVE_SECONDS):
            return await resolver.resolve(seed.host)
    except (OSError, ValueError, RuntimeError):
        return ()


def _open_state(settings: Settings, document: MeshDocument) -> StateFile:
    path = settings.state_dir / f"{document.wireguard.interface}.json"
    state_file = StateFile(path, gossip_port=document.gossip.port)
    try:
        state_file.lock()
    except CannotWrite as error:
        log.warning("state directory not writable: a restart starts from scratch", error=error)
    return state_file


async def _take_over_former_interfaces(
    settings: Settings, document: MeshDocument, state_file: StateFile
) -> None:
    """Go on from what this mesh left under another interface name, and take its device away.

    An edit of the name may end a pod before its agent has read it. The next one starts with the new
    name. The former device would keep this node's overlay address and the routes to all peers.

    Raises:
        InvalidSpec: an agent runs with the former interface, or its device cannot be removed now.

    """
    if settings.kubernetes is None:
        return
    for interface, state in [*state_file.others()]:
        if (
            state.mesh is None
            or state.mesh.uid != document.uid
            or state.mesh.wireguard.interface != interface
        ):
            continue
        former = StateFile(settings.state_dir / f"{interface}.json", gossip_port=state.mesh.gossip.port)
        try:
            with claim_interface(interface):
                former.lock()
                if state.private_key is not None:
                    owner = Owner(state.private_key.public, state.mesh.overlay)
                    hosts = None if settings.no_etc_hosts else HostsFile(settings.hosts_file, interface)
                    memory = LinkMemory(settings.state_dir, interface)
                    if problem := await remove_tunnel(interface, owner, hosts, memory):
                        rule = f"cannot be removed: {problem}"
                        raise InvalidSpec("the former interface", rule, value=interface)
                # Of an agent that was killed: commands would not know which socket to ask.
                with suppress(OSError):
                    socket_path(settings.run_dir, interface).unlink(missing_ok=True)
                # Last: until then the next start finds it, and does the same again.
                state_file.take_over(former)
        except CannotWrite as error:
            log.warning("state file of the former interface not moved", error=error)
        else:
            log.info("former interface removed", interface=interface)
        finally:
            former.unlock()


def _load_state(state_file: StateFile) -> Loaded:
    loaded = state_file.load()
    for warning in loaded.warnings:
        log.warning("state file not read completely", error=warning)
    return loaded


def _own_key(saved: SavedState, name: str) -> WireGuardPrivateKey | None:
    """Return the saved WireGuard key, unless it was saved under another name.

    Then this machine is a clone of one that still uses the key, or it was renamed. At the start nothing
    tells one from the other. A new key costs a renamed machine its sessions, which begin again in a
    second. With the same key, the clone and its original would take the tunnels from each other.
    """
    if saved.private_key is None or saved.name in {"", name}:
        return saved.private_key
    log.info("wireguard key not reused: it was saved under another name", node=name, former=saved.name)
    return None


def _check_invite(settings: Settings, loaded: Loaded) -> None:
    """Start no machine whose invite cannot be read.

    Without it, the machine would give every holder of the cluster key a tunnel.

    Raises:
        InvalidSpec: the state file has a damaged invite, and nothing replaces it.

    """
    if loaded.state.invite_problem and not (settings.joined or settings.init or settings.kubernetes):
        raise InvalidSpec(
            "state file",
            f"{loaded.state.invite_problem}, so this mesh's authority is unknown: give --join-file again, "
            "restore the file, or start a new mesh with --init",
            value=loaded.path,
        )


def _ring_of_invite(settings: Settings, saved: SavedState) -> KeyRing | None:
    """Return the key ring of an invite, unless the saved one came after it."""
    joined, before = settings.joined, saved.joined
    if joined is None:
        return None
    is_used = before is not None and before.enrol_seed == joined.enrol_seed
    return None if is_used and saved.key_ring is not None else joined.ring


def _key_beside_invite(settings: Settings, given: ClusterKey | None, saved: SavedState) -> ClusterKey | None:
    """Return the cluster key of flag or file; none for an invited machine, which has its key ring.

    Raises:
        InvalidSpec: the join file of this start has another key.

    """
    if settings.joined is None or given is None:
        return given
    if settings.join_file is None:
        # After a key rotation the saved ring is newer than a file that a service names.
        if saved.key_ring is not None and given not in saved.key_ring:
            log.warning(
                "cluster key not used: this machine was invited and has a newer key ring", key=given.id
            )
    elif given not in settings.joined.ring:
        flag = settings.given.get("cluster_key_file") or settings.given["cluster_key"]
        raise InvalidSpec(flag, "contradicts --join-file, which has another cluster key: leave it out")
    return None


def _counts(certificate: Certificate | None, document: MeshDocument) -> bool:
    """Tell whether a saved certificate is of this mesh: of its authority, or of one that is not known."""
    if certificate is None:
        return False
    identity = document.identity
    return identity is None or any(key.id == certificate.authority for key in identity.authorities)


def _saved_for(settings: Settings, document: MeshDocument, saved: SavedState) -> SavedState:
    if settings.init:
        return saved.of_this_machine()
    if settings.joined is not None and (
        saved.joined is None or saved.joined.mesh_uid != settings.joined.mesh_uid
    ):
        # Its members are of another mesh.
        return saved.of_this_machine()
    return saved.kept_for(document) if settings.kubernetes is not None else saved
