"""What to run on a machine outside the cluster so that it joins a mesh; pure.

The cluster key itself is in none of it: it goes from the Secret into a file, never
through an argument list that other users of a machine can read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network

from wesher_common.errors import InvalidSpec
from wesher_common.join_command import KEY_FILE, MAX_SEEDS, TAKE_KEY, JoinFlags
from wesher_common.overlay import why_closed_to_machines_outside
from wesher_common.printable import as_lines, shell_line
from wesher_operator.kubectl.meshes import key_secret_of, name_of, status_of
from wesher_operator.kubectl.reach import Object
from wesher_operator.kubectl.status import conditions_of


def join_text(mesh: Object, nodes: Sequence[Object], namespace: str, *, reach: Sequence[str] = ()) -> str:
    """Return the commands, with what each is for as comments.

    Args:
        mesh: the WesherMesh.
        nodes: its WesherNodes.
        namespace: the operator's, where the key Secret lives.
        reach: kubectl's flags that lead to this cluster.

    Raises:
        InvalidSpec: external machines can join the mesh by invite only, or there is no node to join
            through yet.

    """
    overlay = _joinable(mesh["spec"]["overlayCIDR"])
    secret = shell_line(["kubectl", *reach, "-n", namespace, "get", "secret", key_secret_of(mesh)])
    return as_lines(
        [
            *_why_refused(mesh, reach),
            f"# To add a machine to the mesh {name_of(mesh)}:",
            "# 1. On a host with kubectl, write the cluster key into a file that only you can read:",
            "(umask 077; " + secret + " -o jsonpath='{.data.cluster-key}' | base64 -d > wesher-key)",
            "",
            f"# 2. Copy that file to the machine as {KEY_FILE}, readable only by root, then delete it here:",
            f"{TAKE_KEY} < wesher-key",
            "rm wesher-key",
            "",
            "# 3. On the new machine, as root, after you have opened its ports to the members:",
            _flags(mesh, nodes, overlay).command(),
        ]
    )


def _why_refused(mesh: Object, reach: Sequence[str]) -> list[str]:
    """Return as comments why a Verified mesh gives such a machine no tunnel, and how to admit one."""
    if not _is_verified(mesh):
        return []
    of_mesh = shell_line([*reach, "--mesh", name_of(mesh)])
    return [
        f"# Mesh {name_of(mesh)} is Verified: a machine that joins with the cluster key alone has no",
        "# certificate, and gets no tunnel. To write a file that admits one machine, run instead:",
        f"# kubectl wesher invite NAME {of_mesh} --output FILE",
        "# Or admit it after it has joined, by the WireGuard key that wg show prints on it:",
        f"# kubectl wesher admit NAME --key KEY {of_mesh}",
        "",
    ]


def _is_verified(mesh: Object) -> bool:
    return bool((status_of(mesh).get("identity") or {}).get("mode") == "Verified")


def _flags(mesh: Object, nodes: Sequence[Object], overlay: str) -> JoinFlags:
    spec = mesh["spec"]
    wireguard, gossip = spec["wireguard"], spec["gossip"]
    return JoinFlags(
        seeds=seeds_of(mesh, nodes),
        overlay=overlay,
        gossip_port=gossip["port"],
        wireguard_port=wireguard["port"],
        gossip_profile=gossip["profile"],
        label=gossip.get("label") or "",
        mtu=wireguard.get("mtu") or 0,
        writes_hosts_file=spec.get("etcHosts") != "Off",
        authority=str(status_of(mesh)["identity"].get("authority") or "") if _is_verified(mesh) else "",
    )


def _joinable(overlay: str) -> str:
    if why := why_closed_to_machines_outside(ip_network(overlay)):
        raise InvalidSpec(
            "spec.overlayCIDR", f"{why}. Run kubectl wesher invite NAME --output FILE", value=overlay
        )
    return overlay


def seeds_of(mesh: Object, nodes: Sequence[Object]) -> list[str]:
    """Return the addresses of some nodes, ready ones first; they gossip on the port that is given too.

    Raises:
        InvalidSpec: no node has reported one.

    """
    hosts = [host for node in sorted(nodes, key=lambda node: not _is_ready(node)) for host in _hosts(node)]
    if not hosts:
        raise InvalidSpec(
            "MESH",
            "no node has reported an address to join through: wait until a node is Ready",
            value=name_of(mesh),
        )
    return hosts[:MAX_SEEDS]


def _hosts(node: Object) -> Iterator[str]:
    """Yield the address that a node's agent reported, if it is one: the node may have been broken into."""
    host = str(status_of(node).get("endpoint") or "").rpartition(":")[0].strip("[]")
    try:
        yield str(ip_address(host))
    except ValueError:
        return


def _is_ready(node: Object) -> bool:
    return any(c.type == "Ready" and c.is_true for c in conditions_of(status_of(node)))
