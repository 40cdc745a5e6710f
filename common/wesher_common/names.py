"""Names of meshes, members and interfaces, and the rules they keep."""

from __future__ import annotations

import re

from wesher_common.errors import InvalidSpec

GROUP = "wesher.dev"
VERSION = "v1alpha1"
MESH_LABEL = f"{GROUP}/mesh"
LOCATION_ANNOTATION = f"{GROUP}/location"
ADVERTISE_ADDRESS_ANNOTATION = f"{GROUP}/advertise-address"
NUDGE_ANNOTATION = f"{GROUP}/nudge"
NUDGE_FILE = "nudge"
"""Shows an agent that annotation of its pod: it changes when there is something new to ask for."""
RELEASE_ANNOTATION = f"{GROUP}/release"
TUNNELS_READY = f"{GROUP}/TunnelsReady"
"""Type of the condition that the operator writes to Nodes."""
ADMIT_KEY_ANNOTATION = f"{GROUP}/admit-key"
"""Of a WesherNode: the changed WireGuard key that an administrator admits. Agents may not write it."""
HOSTS_DOMAIN = "wesher.internal"

MAX_MESH_NAME = 32
MAX_MEMBER_NAME = 253
MAX_INTERFACE_NAME = 15

# Go wesher uses the kernel's hostname as it is, so capitals and underscores occur in the wild.
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
# What inet_aton(3) reads, on which programs rely to tell an address from a name.
_NUMBER = re.compile(r"(0[xX][0-9A-Fa-f]+|[0-9]+)\Z")
_LOOPBACK = frozenset({"localhost", "localhost4", "localhost6"})
# nss-myhostname(8) and macOS give these a meaning on each machine.
_LOCAL = frozenset({"_gateway", "_outbound", "_localdnsstub", "_localdnsproxy", "broadcasthost"})
_MESH = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?\Z")
_INTERFACE = re.compile(r"[^\s/:%]+\Z")


def is_member_name(name: str) -> bool:
    """Tell whether a gossiped name is one to a hosts file: DNS labels, 253 bytes at most."""
    return 0 < len(name) <= MAX_MEMBER_NAME and all(_LABEL.match(label) for label in name.split("."))


def is_like_address(name: str) -> bool:
    """Tell whether programs read a name as an IPv4 address: ``10.0.0.5``, ``0`` or ``0x7f.1``."""
    return all(_NUMBER.match(label) for label in name.split("."))


def is_reserved_name(name: str) -> bool:
    """Tell whether a name means something on each machine, so that it cannot be another machine's.

    These are the names of the loopback (RFC 6761, and Debian's ``ip6-…``), those that
    ``nss-myhostname`` answers, and names that look like an address.
    """
    folded = name.lower()
    labels = folded.split(".")
    return (
        not _LOOPBACK.isdisjoint((labels[0], labels[-1]))
        or folded.startswith("ip6-")
        or folded in _LOCAL
        or is_like_address(folded)
    )


def check_mesh_name(name: str, *, field: str = "metadata.name") -> str:
    """Return the name of a mesh, or say which rule it breaks.

    A dot is refused because ``<mesh>.<node>`` names a WesherNode.

    Raises:
        InvalidSpec: longer than 32, or not a lower-case DNS label.

    """
    if not _MESH.match(name):
        raise InvalidSpec(
            field,
            f"must be 1 to {MAX_MESH_NAME} lower-case letters, digits or '-', "
            "beginning and ending with a letter or digit",
            value=name,
        )
    return name


def check_interface_name(name: str, *, field: str) -> str:
    """Return a network interface's name, or say which rule it breaks.

    The rule is the kernel's ``dev_valid_name``: 1 to 15 bytes, no blank, slash or colon;
    and no ``%``, which the kernel takes for a pattern, nor anything that does not print.

    Raises:
        InvalidSpec: the kernel would not accept the name.

    """
    valid = name.isprintable() and _INTERFACE.match(name) and name not in {".", ".."}
    if not valid or len(name.encode()) > MAX_INTERFACE_NAME:
        raise InvalidSpec(
            field, f"must be 1 to {MAX_INTERFACE_NAME} bytes without spaces, '/', ':' or '%'", value=name
        )
    return name


def member_name(node_name: str, cluster_name: str = "") -> str:
    """Return the name under which a Kubernetes node gossips."""
    return f"{node_name}.{cluster_name}" if cluster_name else node_name


def wesher_node_name(mesh: str, node_name: str) -> str:
    """Return the name of the WesherNode that stands for a node in a mesh."""
    return f"{mesh}.{node_name}"


def key_secret_name(mesh: str) -> str:
    """Return the default name of a mesh's key Secret."""
    return f"{mesh}-key"


def authority_secret_name(mesh: str) -> str:
    """Return the name of the Secret that holds the private key of a mesh's authority."""
    return f"{mesh}-authority"


def config_map_name(mesh: str) -> str:
    """Return the name of the ConfigMap that carries a mesh's ``mesh.json``."""
    return f"{mesh}-config"


def daemon_set_name(mesh: str) -> str:
    """Return the name of a mesh's agent DaemonSet."""
    return f"{mesh}-agent"


def released_config_map_name(mesh: str) -> str:
    """Return the name of the ConfigMap that holds back addresses just given up."""
    return f"{mesh}-released"


def issued_config_map_name(mesh: str) -> str:
    """Return the name of the ConfigMap that lists the names that certificates were issued to."""
    return f"{mesh}-issued"


def revoked_config_map_name(mesh: str) -> str:
    """Return the name of the ConfigMap that remembers which names were revoked, and which stay out."""
    return f"{mesh}-revoked"


def out_label(mesh: str) -> str:
    """Return the label that keeps a Node out of a mesh, whatever its value.

    The prefix is one that the API server's NodeRestriction plugin keeps from kubelets: a node that was
    broken into cannot remove the label.
    """
    return f"wesher.node-restriction.kubernetes.io/out-{mesh}"
