"""Rules that a schema cannot state, as CEL, each with the message a user reads."""

from __future__ import annotations

import json
from typing import Any

from wesher_common.mesh_document import MIN_MTU
from wesher_common.names import MAX_INTERFACE_NAME
from wesher_common.seeds import MAX_PORT


def cel(rule: str, message: str, *, shows: str = "", **more: str) -> dict[str, Any]:
    """Return the schema extension that makes the API server check ``rule``.

    Args:
        rule: CEL; true for a value that may stand.
        message: what the user reads otherwise.
        shows: CEL for the text to show before the message, since the API server names only its type.
            Of a number it would not know the length, and so refuse the rule.
        more: further keys of the rule, as ``fieldPath``.

    """
    entry = {"rule": rule, "message": message, **more}
    if shows:
        entry["messageExpression"] = f'"\'" + {shows} + "\': " + {json.dumps(message)}'
    return {"x-kubernetes-validations": [entry]}


def all_of(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return one schema extension out of several rules, and of further keys."""
    merged = [entry for rule in rules for entry in rule["x-kubernetes-validations"]]
    return {"x-kubernetes-validations": merged, **more}


def or_empty(rule: dict[str, Any]) -> dict[str, Any]:
    """Return a rule for text that may also be empty, which in every field means that it is not set."""
    return {
        key: [{**entry, "rule": f"self == '' || ({entry['rule']})"} for entry in entries]
        for key, entries in rule.items()
    }


ANY_NETWORK = cel(
    "isCIDR(self) && cidr(self) == cidr(self).masked()",
    "must be a network such as 10.189.0.0/16, without host bits",
    shows="self",
)
OVERLAY_PREFIX = cel(
    "!isCIDR(self) || (cidr(self).ip().family() == 4"
    " ? cidr(self).prefixLength() >= 8 && cidr(self).prefixLength() <= 30"
    " : cidr(self).prefixLength() >= 32 && cidr(self).prefixLength() <= 126)",
    "the prefix must be /8 to /30 for IPv4, /32 to /126 for IPv6",
    shows="self",
)
IMMUTABLE_NETWORK = cel(
    "self == oldSelf",
    "is immutable because every member has an address in it: delete the mesh and create it again",
)
IMMUTABLE_KEY_SECRET = cel(
    # A field without a default may be absent.
    "(has(self.name) ? self.name : '') == (has(oldSelf.name) ? oldSelf.name : '')",
    "is immutable. To rotate the key, edit the Secret: add the new key to accepted-keys, then swap the "
    "two, then remove the old one. To use another Secret, delete the mesh and create it again",
)
DNS_NAME = cel(
    "!format.dns1123Subdomain().validate(self).hasValue()",
    "must be a lower-case DNS name",
    shows="self",
)
INTERFACE = cel(
    "self.matches('^[!-$&-.0-9;-~]+$') && self != '.' && self != '..'",
    f"must be 1 to {MAX_INTERFACE_NAME} ASCII characters, without spaces, '/', ':' or '%'",
    shows="self",
)
MTU = cel(f"self == 0 || self >= {MIN_MTU}", f"must be 0 (derived from the underlay) or at least {MIN_MTU}")
SEED_FORM = cel(
    # An address; [v6] with or without a port; v4 with a port; a name whose last label is not all digits.
    r"isIP(self)"
    r" || (self.matches('^\\[[0-9A-Fa-f:.]+\\](:[0-9]+)?$') && isIP(self.substring(1, self.indexOf(']'))))"
    r" || (self.matches('^[0-9.]+:[0-9]+$') && isIP(self.split(':')[0]))"
    r" || self.matches('^([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\\.)*"
    r"([0-9]*[A-Za-z_]([A-Za-z0-9_-]*[A-Za-z0-9_])?|[0-9]+-[A-Za-z0-9_-]*[A-Za-z0-9_])\\.?(:[0-9]+)?$')",
    "must be a host name or IP address, optionally with :port; write IPv6 with a port as [address]:port",
    shows="self",
)
SEED_PORT = cel(
    r"isIP(self) || !self.matches(':[0-9]+$')"
    r" || (self.matches(':[0-9]{1,5}$') && int(self.substring(self.lastIndexOf(':') + 1)) >= 1"
    rf" && int(self.substring(self.lastIndexOf(':') + 1)) <= {MAX_PORT})",
    f"the port must be a number from 1 to {MAX_PORT}",
    shows="self",
)
NODE_SELECTOR = cel(
    "self.all(key, !format.qualifiedName().validate(key).hasValue()"
    " && !format.labelValue().validate(self[key]).hasValue())",
    "must be valid node labels",
)
PRINTABLE: dict[str, Any] = {"pattern": r"^[^\p{Cc}\p{Cf}\p{Co}\p{Zl}\p{Zp}]*$"}
"""For each text of a status: no escape sequence, no line break, no direction mark.

Looser than `wesher_common.printable`, with which both programs write, since Unicode tables differ.
"""
MEMBER_NAME: dict[str, Any] = {"pattern": "^[A-Za-z0-9_.-]+$"}
"""The characters that gossip takes in a name."""
REASON: dict[str, Any] = {"pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"}
"""metav1.Condition's."""
LABEL_KEY = cel(
    "!format.qualifiedName().validate(self).hasValue()", "must be a valid label key", shows="self"
)
NODE_REQUIREMENT = all_of(
    cel(
        "self.operator in ['Exists', 'DoesNotExist'] ? self.values.size() == 0 : self.values.size() > 0",
        "Exists and DoesNotExist take no values, every other operator needs at least one",
        fieldPath=".values",
    ),
    cel(
        "!(self.operator in ['Gt', 'Lt'])"
        " || (self.values.size() == 1 && self.values[0].matches('^[0-9]{1,18}$'))",
        "Gt and Lt take one whole number",
        fieldPath=".values",
    ),
    cel(
        "!(self.operator in ['In', 'NotIn'])"
        " || self.values.all(value, !format.labelValue().validate(value).hasValue())",
        "must be valid label values",
        fieldPath=".values",
    ),
)
IP = cel("isIP(self)", "must be an IP address", shows="self")
DIRECT_PORT = cel(
    r"self.matches('^(tcp|udp)/[0-9]{1,5}$') && int(self.substring(4)) >= 1"
    rf" && int(self.substring(4)) <= {MAX_PORT}",
    "must be tcp/PORT or udp/PORT, such as tcp/2379",
    shows="self",
)
ONE_BIT = cel(
    "self == 0 || " + " || ".join(f"self == {1 << bit}" for bit in range(32)),
    "must be 0 or a number with one bit set, such as 128",
)
ROUTING_TABLE = cel("self == 0 || self >= 256", "must be 0 or at least 256: the kernel uses smaller numbers")
TAINT = cel(
    "self.matches('^[^=:]+(=[^=:]*)?:(NoSchedule|PreferNoSchedule|NoExecute)$')"
    " && !format.qualifiedName().validate(self.split(':')[0].split('=')[0]).hasValue()"
    " && (!self.contains('=') || !format.labelValue().validate(self.split(':')[0].split('=')[1]).hasValue())",
    "must be a taint such as wesher.dev/tunnels-not-ready:NoSchedule",
    shows="self",
)
AUTHORITY_KEY = cel(
    "self.matches('^[A-Za-z0-9+/]{43}=$')",
    "must be a public key in base64, as kubectl wesher authority prints it",
    shows="self",
)
# The API server checks the default of an object, {}, before it fills in those of its fields.
_NODE_CIDRS = cel(
    "!has(self.nodes) || self.nodes == 'None' || (has(self.nodeCIDRs) && self.nodeCIDRs.size() > 0)",
    "is required with traffic.nodes: list the networks of the nodes' InternalIPs",
    fieldPath=".nodeCIDRs",
)
_PODS_WITHIN_NODES = cel(
    "!has(self.pods) || !(self.pods in ['OtherLocations', 'All'])"
    " || (has(self.nodes) && (self.nodes == 'All' || self.nodes == self.pods))",
    "needs traffic.nodes to be the same or All: packets of pods that are masqueraded have a node's address",
    shows="self.pods",
    fieldPath=".pods",
)
TRAFFIC = all_of(_NODE_CIDRS, _PODS_WITHIN_NODES)
NODE_CIDRS_OUTSIDE_OVERLAY = cel(
    "!has(self.traffic) || !has(self.traffic.nodeCIDRs) || !isCIDR(self.overlayCIDR)"
    " || self.traffic.nodeCIDRs.all(each, !isCIDR(each)"
    " || !(cidr(each).containsCIDR(cidr(self.overlayCIDR))"
    " || cidr(self.overlayCIDR).containsCIDR(cidr(each))))",
    "must not overlap overlayCIDR",
    fieldPath=".traffic.nodeCIDRs",
)
