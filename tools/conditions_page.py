"""``docs/reference/conditions.md``: every condition of the custom resources, with its reasons.

A test compares the tables below with the code. The page links each reason that troubleshooting explains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from reference import FOLDER, code, page, table
from wesher_testing.run.toolbox import REPOSITORY

PAGE = FOLDER / "conditions.md"
TROUBLESHOOTING = REPOSITORY / "docs/troubleshooting.md"
Reasons = Mapping[str, tuple[str, ...]]
"""Reasons by status."""

_REFUSALS = ("InvalidSpec", "Conflict", "OverlappingNetwork", "NodesUseOverlay", "RefusedByCluster")
_WIREGUARD = ("NoAddress", "WireGuardUnavailable", "InvalidSetting", "PortTaken", "KeyCopied", "Failed")
_GOSSIP = ("AddressGone", "PortTaken", "KeyCopied", "NameConflict", "NobodyAnswers", "WrongKey")
_NOT_CARRIED = (
    *("AddressNotCertified", "NetworkOverlap", "RuleConflict", "TableConflict", "ReversePathFilter"),
    *("AddressNotPresent", "IPv6SwitchedOff"),
)
_NOT_ISSUING = ("AuthorityLost", "NodeRestrictionOff", "ClockDiffers", "RefusedByCluster")
_UNCERTIFIED = ("KeyProof", "KeyChanged", "KeyInUse")
MESH: Mapping[str, Reasons] = {
    "Ready": {
        "True": ("AllReady", "NodesStarting"),
        "False": (*_REFUSALS, "InvalidKey", "NoNodes", "MembersNotReady"),
        "Unknown": ("Reconciling", "NotLookedAt", "WaitingForAgents"),
    },
    "KeyReady": {"True": ("KeyReady",), "False": ("InvalidKey",), "Unknown": ("NotLookedAt",)},
    "ConfigPublished": {"True": ("Published",), "False": _REFUSALS},
    "MembersReady": {
        "True": ("AllReady", "NodesStarting"),
        "False": ("NoNodes", "MembersNotReady"),
        "Unknown": ("WaitingForAgents",),
    },
    "Converged": {"True": ("ViewsAgree",), "False": ("ViewsDiffer",), "Unknown": ("NoReports",)},
    "Degraded": {
        "False": ("AsExpected",),
        "True": (
            *("OverlappingNetwork", "NewsTooLarge", "NodesUseOverlay"),
            *("PairsUnreachable", "InvalidAnnotation"),
        ),
    },
    "Certified": {
        "True": ("AllCertified",),
        "False": (*_NOT_ISSUING, *_UNCERTIFIED, "CertificateExpires"),
        "Unknown": ("NotLookedAt", "WaitingForAgents", "NewAuthority"),
    },
    "TrafficCarried": {
        "True": ("Carried",),
        "False": (
            *("Conflict", "ApiServerUnknown", "PodsOutsidePodCIDR", "PodsNotChecked", "OneLocation"),
            *("AddressNotCertified", "AddressOverlap"),
            *(reason for reason in _NOT_CARRIED if reason != "AddressNotCertified"),
        ),
        "Unknown": ("WaitingForAgents",),
    },
    "AuthoritiesTrusted": {
        "True": ("AllTrusted",),
        "False": (
            *("InvalidSpec", "NoClusterName", "ClusterNameOverlap", "AuthorityKeyInUse"),
            "TrustedNetworkOverlap",
        ),
    },
    "NodeReadiness": {
        "True": ("NodesWritten",),
        "False": ("MissingPermission", "Conflict", "RefusedByCluster", "TaintNotTolerated"),
    },
}
NODE: Mapping[str, Reasons] = {
    "Ready": {
        "True": ("Ready",),
        "False": (
            *dict.fromkeys((*_WIREGUARD, *_GOSSIP)),
            *("InvalidConfig", "RestartFailed", "Removed", "Revoked", "HealthPortTaken"),
            *("PeersUnreachable", "OverlayDiffers"),
            *_NOT_CARRIED,
        ),
        "Unknown": ("Starting", "Joining", "Probing"),
    },
    "WireGuardReady": {"True": ("DeviceReady",), "False": _WIREGUARD, "Unknown": ("Starting",)},
    "GossipJoined": {"True": ("Joined", "OnlyMember"), "False": _GOSSIP, "Unknown": ("Joining",)},
    "KeyCurrent": {"True": ("Current",), "False": ("InvalidConfig",)},
    "TrafficCarried": {
        "True": ("Carried",),
        "False": _NOT_CARRIED,
        "Unknown": ("Accepting",),
    },
    "StateSaved": {"True": ("Saved",), "False": ("NotSaved",)},
    "Certified": {
        "True": ("Issued", "CertificateExpires"),
        "False": (
            "AuthorityLost",
            "NodeRestrictionOff",
            "ClockDiffers",
            "RefusedByCluster",
            *_UNCERTIFIED[:3],
            "Revoked",
        ),
        "Unknown": ("NotReported", "Issuing"),
    },
}
PEER: Mapping[str, Reasons] = {
    "Certified": {
        "True": ("Issued", "CertificateExpires"),
        "False": (
            *("AuthorityLost", "ClockDiffers", "RefusedByCluster"),
            *("InviteExpired", "InviteTooLong", "InviteUsed", "InviteDiffers", "InviteOtherName"),
            *("KeyChanged", "KeyInUse", "NameInUse", "NameNotAllowed"),
            *("AddressInUse", "AddressNotAllowed", "NoFreeAddress"),
            *("InvalidSpec", "MeshReplaced", "Revoked"),
        ),
        "Unknown": ("NotEnrolled", "Issuing"),
    },
}
MEMBER = (
    *("NotReported", "NoReport", "Unreachable", "NoFreeAddress"),
    *("Unschedulable", "ImageNotPulled", "PodRefused", "PodNotStarted", "AgentEnds", "AgentNotRunning"),
)
"""What the operator says of a node besides the reasons of the node's own condition `Ready`."""

_MESH_TRUE = {
    "Ready": "the mesh works: `KeyReady`, `ConfigPublished` and `MembersReady` are True",
    "KeyReady": "the key Secret has a valid cluster key",
    "ConfigPublished": "the agents' configuration is what the spec asks for",
    "MembersReady": "every node that should run an agent is ready",
    "Converged": "all agents see the same members",
    "Certified": "every agent on a Ready Node announces its certificate, and none expires soon",
    "AuthoritiesTrusted": "each of `spec.trustedAuthorities` is trusted; absent while there are none",
    "NodeReadiness": "Nodes say what `spec.nodeReadiness` asks for; absent if it asks for nothing",
    "Degraded": "the mesh works, but something is wrong; False is good",
    "TrafficCarried": "every node carries what `spec.traffic` says; absent while it says `None`",
}
_NODE_TRUE = {
    "Ready": "`WireGuardReady`, `GossipJoined`, `KeyCurrent` and `TrafficCarried`, if it is there, are True, "
    "and most peers answer",
    "WireGuardReady": "the WireGuard device is set up",
    "GossipJoined": "another member is alive, or there is no other",
    "KeyCurrent": "the agent uses the mounted key and configuration, or has none mounted",
    "Certified": "the operator has certified the node's name, WireGuard key and overlay address",
    "TrafficCarried": "packets of nodes and pods go through the tunnels as `spec.traffic` asks for; absent "
    "while it asks for nothing",
    "StateSaved": "the state file has the last change; `Ready` does not depend on it",
}
_PEER_TRUE = {"Certified": "the operator has certified the machine's name, WireGuard key and overlay address"}
GOOD = {
    "AllCertified": "every agent on a Ready Node announces its certificate",
    "AllReady": "every node is ready",
    "AllTrusted": "the clusters in the message may join, with names and addresses of their own",
    "AsExpected": "nothing is wrong",
    "Carried": "the tunnels carry what `spec.traffic` says",
    "Current": "the mounted files are in use, or none are mounted",
    "DeviceReady": "the device is as desired",
    "Issued": "the node or external machine has a valid certificate",
    "Joined": "another member is alive",
    "KeyReady": "the key in the message is in use",
    "NodesWritten": "Nodes say it; the message has the number of nodes whose tunnels are ready",
    "OnlyMember": "there is no other member",
    "Published": "agents have the configuration; a message says so if others can join by invite only",
    "Ready": "the node is in the mesh",
    "Saved": "the state file has the last change",
    "ViewsAgree": "all agents see the same members",
}
"""Reasons for which there is nothing to do."""
_INTRODUCTION = """
`kubectl describe` shows the conditions of a `wmesh`, `wnode` or `wpeer`, each with a message that names
what is wrong. `wesher status -o json` shows those of a WesherNode, also outside Kubernetes. A link leads to
the table of [troubleshooting](../troubleshooting.md) that explains the reason and says what to do.
"""
SECTIONS = {
    "WesherMesh": ("A mesh", "A node"),
    "WesherNode": ("A node", "A mesh"),
    "WesherPeer": ("An external machine", "A mesh", "A node"),
}
"""Of troubleshooting, that explain the reasons of each kind; the first that has a reason counts."""
_MEMBERS = """
In `status.memberList` of a WesherMesh, a node has the reason of its own condition `Ready`, or one that only
the operator can see:
"""


def text() -> str:
    """Return what the page should say."""
    return page(
        "Conditions",
        "tools/conditions_page.py",
        _INTRODUCTION,
        *_kind("WesherMesh", MESH, _MESH_TRUE),
        *_kind("WesherNode", NODE, _NODE_TRUE),
        *_kind("WesherPeer", PEER, _PEER_TRUE),
        "## Reasons that need no action",
        table(("reason", "meaning"), ((code(reason), meaning) for reason, meaning in GOOD.items())),
        "## Members of a WesherMesh",
        _MEMBERS,
        "\n".join(f"- {_linked(reason)}" for reason in MEMBER),
    )


def explained(section: str) -> list[str]:
    """Return the reasons in the table of a section of the troubleshooting page."""
    part = TROUBLESHOOTING.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)


def _kind(name: str, conditions: Mapping[str, Reasons], meaning: Mapping[str, str]) -> Iterator[str]:
    yield f"## {name}"
    yield table(("condition", "True means"), ((code(kind), meaning[kind]) for kind in conditions))
    yield table(("condition", "status", "reasons"), _rows(conditions, SECTIONS[name]))


def _rows(conditions: Mapping[str, Reasons], sections: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    for kind, reasons in conditions.items():
        shown = code(kind)
        for status, given in reasons.items():
            yield shown, code(status), ", ".join(_linked(reason, sections) for reason in given)
            shown = ""


def _linked(reason: str, sections: Sequence[str] = ("A mesh", "A node")) -> str:
    for section in sections:
        if reason in explained(section):
            return f"[`{reason}`](../troubleshooting.md#{section.lower().replace(' ', '-')})"
    return code(reason)


if __name__ == "__main__":
    PAGE.write_text(text())
