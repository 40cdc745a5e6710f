"""What Kubernetes shows an agent, made by hand: mounted files, and an API server of one object or none."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

from wesher_agent.files.state_format import render_state
from wesher_agent.mesh.saved_state import SavedState
from wesher_common.certificate import Authority, Subject
from wesher_common.keys import ClusterKey, KeyRing, WireGuardPrivateKey
from wesher_common.mesh_document import MeshDocument
from wesher_common.news import NEWS_FILE
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_testing.lab.namespaces import Host

MOUNT = "/run/mesh"
NODE, ASKED = "/run/wesher-node.json", "/run/asked"
_API_SERVER = """
import http.server, pathlib, sys

class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        node, asked = map(pathlib.Path, sys.argv[1:])
        content = node.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        with asked.open("a") as log:
            log.write(self.command + "\\n")

    do_PATCH = do_GET

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 1), Answers)
print(flush=True)
server.serve_forever()
"""
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


def mount(
    host: Host,
    mesh: dict[str, Any] | str,
    *,
    key: str,
    accepted: str = "",
    nudge: str = "",
    news: bytes | None = None,
) -> None:
    """Put the files there, all at once."""
    text = mesh if isinstance(mesh, str) else json.dumps(mesh)
    files = {"mesh.json": text, "cluster-key": key, "accepted-keys": accepted, "nudge": nudge}
    contents = {name: content.encode() for name, content in files.items()}
    if news is not None:
        contents[NEWS_FILE] = news
    project(host.root / MOUNT.removeprefix("/"), contents)


def remember(host: Host, address: IPAddress, *, name: str = "", **more: Any) -> None:
    """Leave the state file of an earlier run, in which the operator had given an address, and ``more``."""
    ring = KeyRing(ClusterKey(b"s" * 32))
    state = SavedState(key_ring=ring, name=name or host.name, overlay_address=address, **more)
    path = host.root / "var/lib/wesher/wgoverlay.json"
    path.parent.mkdir()
    path.write_text(render_state(state))


def remember_certified(
    host: Host,
    mesh: dict[str, Any],
    authority: Authority,
    address: IPAddress,
    *,
    networks: tuple[IPNetwork, ...] = (),
    location: str = "",
) -> None:
    """Leave the state file of an earlier run of this mesh, in which the operator had given a certificate.

    Args:
        host: whose.
        mesh: its mesh.json.
        authority: signs the certificate.
        address: in the overlay.
        networks: what the mesh carries to this host, in the order of the encoding; the others know them.
        location: of the host.

    """
    key = WireGuardPrivateKey.from_random(hashlib.sha256(host.name.encode()).digest())
    subject = Subject(
        name=host.name, public_key=key.public, address=address, location=location, networks=networks
    )
    remember(
        host,
        address,
        private_key=key,
        certificate=authority.issue(subject, serial=int(time.time() * 1000)),
        location=location,
        routes=networks,
        carried=frozenset(networks),
        mesh=MeshDocument.from_json(json.dumps(mesh)),
    )


def mounted_flags(host: Host) -> tuple[str, ...]:
    """Return the flags of an agent with these files and an API server that only `serve` has answer."""
    (host.root / "run/kubeconfig").write_text(json.dumps(KUBECONFIG))
    return (f"--kubernetes={MOUNT}", "--kubeconfig=/run/kubeconfig")


@contextmanager
def serve(host: Host, node: dict[str, Any]) -> Iterator[None]:
    """Answer on a host as an API server does that has this WesherNode and takes every report."""
    say_again(host, node)
    with host.popen(
        [sys.executable, "-I", "-c", _API_SERVER, NODE, ASKED], stdin=PIPE, stdout=PIPE
    ) as server:
        assert server.stdout is not None
        server.stdout.readline()
        try:
            yield
        finally:
            server.kill()


def say_again(host: Host, node: dict[str, Any]) -> None:
    """Have the API server of a host have another WesherNode from now on."""
    path = host.root / NODE.removeprefix("/")
    fresh = path.with_suffix(".fresh")
    fresh.write_text(json.dumps(node))
    fresh.rename(path)


def asked(host: Host) -> list[str]:
    """Return the methods of all requests that the API server of a host has answered, in order."""
    log = host.root / ASKED.removeprefix("/")
    return log.read_text().split() if log.exists() else []


def project(directory: Path, contents: dict[str, bytes]) -> None:
    """Show files in a directory as a kubelet's projected volume does: all change in one rename.

    Source: Kubernetes, pkg/volume/util/atomic_writer.go.
    """
    directory.mkdir(exist_ok=True)
    current = directory / "..data"
    # Not resolve(), which leads out of a lab's host.
    old = directory / current.readlink() if current.is_symlink() else None
    version = directory / f"..{len(list(directory.iterdir()))}-{os.urandom(4).hex()}"
    version.mkdir(mode=0o700)
    for name, content in contents.items():
        file = version / name
        file.touch(mode=0o400)
        file.write_bytes(content)
    fresh = directory / "..data_tmp"
    fresh.symlink_to(version.name)
    fresh.rename(current)
    for name in contents:
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")
    if old is not None:
        shutil.rmtree(old)
