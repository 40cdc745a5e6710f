"""``charts/wesher/values.schema.json``: what the chart's values may be; what is not named is refused.

``make generate`` writes it. The mesh's part is the
CustomResourceDefinition's own, so that a misspelt field fails at ``helm install``:
the API server would only drop it.
"""

from __future__ import annotations

import json
from typing import Any

from wesher_common.event_logger import FORMATS
from wesher_operator.agent_pods import API_SERVER
from wesher_operator.crd import definition
from wesher_operator.resources.mesh import WesherMesh
from wesher_testing.cluster.helm import CHART

SCHEMA = CHART / "values.schema.json"

Schema = dict[str, Any]
_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "integer"}
_NUMBER_OR_TEXT: Schema = {"type": ["integer", "string"]}
_SWITCH: Schema = {"type": "boolean"}
_ANY_MAP: Schema = {"type": "object"}
_ANY_LIST: Schema = {"type": "array", "items": {"type": "object"}}
_WORDS: Schema = {"type": "object", "additionalProperties": _TEXT}
_OPERATOR_LEVEL: Schema = {"enum": ["debug", "info", "warning", "error"]}
_LOG_FORMAT: Schema = {"enum": list(FORMATS)}
_ACCOUNTS = (
    "nameOverride, after which the ServiceAccounts are named, and rbac.create=false for roles of your own"
)
_EITHER = "operator.{0} or agent.{0}"
USE_INSTEAD: dict[str, str] = {
    "fullnameOverride": "nameOverride",
    "namespaceOverride": "--namespace of Helm",
    "serviceAccount": _ACCOUNTS,
    "replicaCount": "operator.replicas",
    "installCRDs": "--skip-crds of Helm, and crds.manage",
    "nodeSelector": "mesh.nodeSelector for agents, operator.nodeSelector for the operator",
    "tolerations": "mesh.tolerations for agents, operator.tolerations for the operator",
    "affinity": "mesh.affinity for agents, operator.affinity for the operator",
    **{
        name: _EITHER.format(name)
        for name in (
            *("logLevel", "logFormat", "resources", "priorityClassName"),
            *("extraEnv", "podAnnotations", "podLabels"),
        )
    },
    "privileged": "agent.privileged",
    "securityContext": "agent.privileged",
    "podSecurityContext": "agent.privileged",
    **{
        name: f"mesh.{name}"
        for name in ("overlayCIDR", "allocationCIDR", "clusterName", "clusterKeySecretRef", "seedNodes")
    },
    **{name: f"mesh.{name}" for name in ("wireguard", "gossip", "addresses", "etcHosts")},
    "image.name": "image.repository",
    "image.pullSecrets": "imagePullSecrets",
    "crds.create": "crds.manage, and --skip-crds of Helm",
    "crds.install": "crds.manage, and --skip-crds of Helm",
    "crds.enabled": "crds.manage, and --skip-crds of Helm",
    "operator.replicaCount": "operator.replicas",
    "operator.imagePullSecrets": "imagePullSecrets",
    "operator.serviceAccount": _ACCOUNTS,
    "operator.env": "operator.extraEnv",
    "agent.nodeSelector": "mesh.nodeSelector",
    "agent.tolerations": "mesh.tolerations",
    "agent.affinity": "mesh.affinity",
    "agent.image": "image",
    "agent.imagePullSecrets": "imagePullSecrets",
    "agent.serviceAccount": _ACCOUNTS,
    "agent.securityContext": "agent.privileged",
    "agent.env": "agent.extraEnv",
    "agent.args": "agent.extraArgs",
    "mesh.interface": "mesh.wireguard.interface",
    "mesh.port": "mesh.wireguard.port or mesh.gossip.port",
    "mesh.mtu": "mesh.wireguard.mtu",
}
"""Values that other charts have, or that belong elsewhere in this one, each with what to use."""


def text() -> str:
    """Return what the file should say."""
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **_values()}
    return json.dumps(schema, indent=2) + "\n"


def _values() -> Schema:
    root = _exactly(_known())
    for path, use in USE_INSTEAD.items():
        *sections, name = path.split(".")
        section = root
        for each in sections:
            section = section["properties"][each]
        if name in section["properties"]:
            raise ValueError(f"{path} is a value of this chart")
        # Helm prints no description or title of a schema, but it prints a const.
        section["properties"][name] = {"const": f"left out: use {use}"}
    return root


def _known() -> dict[str, Schema]:
    digest = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
    image = {
        "registry": _TEXT,
        "repository": _TEXT,
        "tag": _TEXT,
        "digest": digest,
        "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    }
    operator = {
        "image": _exactly({"repository": _TEXT, "tag": _TEXT, "digest": digest}),
        "replicas": {"type": "integer", "minimum": 0},
        "logLevel": _OPERATOR_LEVEL,
        "logFormat": _LOG_FORMAT,
        "priorityClassName": _TEXT,
        "nodeSelector": _WORDS,
        "tolerations": _list_of(
            {"key": _TEXT, "operator": _TEXT, "value": _TEXT, "effect": _TEXT, "tolerationSeconds": _NUMBER}
        ),
        "affinity": _exactly(
            {"nodeAffinity": _ANY_MAP, "podAffinity": _ANY_MAP, "podAntiAffinity": _ANY_MAP}
        ),
        **_pods(),
    }
    agent = {
        "privileged": _SWITCH,
        "logLevel": _OPERATOR_LEVEL,
        "logFormat": _LOG_FORMAT,
        "priorityClassName": _TEXT,
        "updateStrategy": _exactly(
            {
                "type": {"enum": ["RollingUpdate", "OnDelete"]},
                # No maxSurge: two agents cannot have one node's ports.
                "rollingUpdate": _exactly({"maxUnavailable": _NUMBER_OR_TEXT}),
            }
        ),
        "dnsPolicy": {"enum": ["Default", "ClusterFirst", "ClusterFirstWithHostNet"]},
        "apiServer": {"type": "string", "pattern": API_SERVER},
        "extraArgs": {"type": "array", "items": _TEXT},
        **_pods(),
    }
    return {
        "global": _global(),
        # An umbrella chart's condition. If it is false, Helm leaves this chart out, and checks nothing.
        "enabled": {"const": True},
        "image": _exactly(image),
        "imagePullSecrets": _list_of({"name": _TEXT}),
        "nameOverride": {
            "type": "string",
            "maxLength": 40,
            "pattern": "^([a-z0-9]([a-z0-9-]*[a-z0-9])?)?$",
        },
        "commonLabels": _WORDS,
        "rbac": _exactly({"create": _SWITCH, "nodeRestriction": _SWITCH, "nodeReadiness": _SWITCH}),
        "resourceQuota": _exactly({"create": _SWITCH}),
        "crds": _exactly({"manage": _SWITCH}),
        "operator": _exactly(operator),
        "agent": _exactly(agent),
        "mesh": _mesh(),
        "extraObjects": _ANY_LIST,
    }


def _global() -> Schema:
    """Return what Helm hands to each chart of an umbrella: the others' too, so nothing is refused."""
    secrets = {"type": "array", "items": {"type": ["string", "object"]}}
    return {"type": "object", "properties": {"imageRegistry": _TEXT, "imagePullSecrets": secrets}}


def _pods() -> Schema:
    quantities = {"type": "object", "additionalProperties": {"type": ["number", "string"]}}
    return {
        "extraEnv": _list_of({"name": _TEXT, "value": _TEXT, "valueFrom": _ANY_MAP}),
        "podAnnotations": _WORDS,
        "podLabels": _WORDS,
        "resources": _exactly({"limits": quantities, "requests": quantities, "claims": _ANY_LIST}),
    }


def _list_of(properties: Schema) -> Schema:
    return {"type": "array", "items": _exactly(properties)}


def _exactly(properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _mesh() -> Schema:
    root = definition(WesherMesh)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    spec = _plain(root["properties"]["spec"])
    spec["properties"] = {"create": _SWITCH, "name": {"type": "string", "minLength": 1}, **spec["properties"]}
    return spec


def _plain(schema: Schema) -> Schema:
    """Return a structural schema as ordinary JSON schema: closed, and without what only Kubernetes reads."""
    kept = {key: value for key, value in schema.items() if not key.startswith("x-") and key != "format"}
    if "properties" in kept:
        kept["properties"] = {name: _plain(part) for name, part in kept["properties"].items()}
        kept["additionalProperties"] = False
    if "items" in kept:
        kept["items"] = _plain(kept["items"])
    return kept


if __name__ == "__main__":
    SCHEMA.write_text(text())
