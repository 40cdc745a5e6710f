"""What Kubernetes mounts for an agent, made by hand: key ring and mesh.json, and no API server to ask."""

from __future__ import annotations

import json
from typing import Any

from wesher_agent.files.state_format import State, render_state
from wesher_common.keys import ClusterKey, KeyRing
from wesher_common.overlay import IPAddress
from wesher_testing.namespaces import Host

MOUNT = "/run/mesh"
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "c",
    "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
    "users": [{"name": "u", "user": {"token": "none"}}],
    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
}


def document(*seeds: Host, **changes: Any) -> dict[str, Any]:
    """Return a mesh.json whose seeds are these hosts."""
    return {
        "version": 1,
        "name": "m",
        "uid": "u-1",
        "overlayCIDR": "10.99.0.0/16",
        "gossip": {"profile": "LAN"},
        "clusterSeeds": [str(seed.ipv4) for seed in seeds],
    } | changes


def mount(host: Host, mesh: dict[str, Any] | str, *, key: str, accepted: str = "") -> None:
    """Put the files there, each replaced as a whole."""
    directory = host.root / MOUNT.removeprefix("/")
    directory.mkdir(exist_ok=True)
    text = mesh if isinstance(mesh, str) else json.dumps(mesh)
    for name, content in (("mesh.json", text), ("cluster-key", key), ("accepted-keys", accepted)):
        fresh = directory / f".{name}"
        fresh.write_text(content)
        fresh.rename(directory / name)


def remember(host: Host, address: IPAddress, *, name: str = "", **more: Any) -> None:
    """Leave the state file of an earlier run, in which the operator had given an address, and ``more``."""
    ring = KeyRing(ClusterKey(b"s" * 32))
    state = State(key_ring=ring, name=name or host.name, overlay_address=address, **more)
    path = host.root / "var/lib/wesher/wgoverlay.json"
    path.parent.mkdir()
    path.write_text(render_state(state))


def mounted_flags(host: Host) -> tuple[str, ...]:
    """Return the flags of an agent with these files and an API server that nobody serves."""
    (host.root / "run/kubeconfig").write_text(json.dumps(KUBECONFIG))
    return (f"--kubernetes={MOUNT}", "--kubeconfig=/run/kubeconfig")
