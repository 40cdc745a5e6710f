"""``charts/wesher/values.schema.json``: what the chart's values may be; what is not named is refused.

``make generate`` writes it. The mesh's part is the
CustomResourceDefinition's own, so that a misspelt field fails at ``helm install``:
the API server would only drop it.
"""

from __future__ import annotations

import json
from typing import Any

from wesher_common.event_logger import FORMATS
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


def text() -> str:
    """Return what the file should say."""
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **_values()}
    return json.dumps(schema, indent=2) + "\n"


def _values() -> Schema:
    image = {
        "registry": _TEXT,
        "repository": {"type": "string", "minLength": 1},
        "tag": _TEXT,
        "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
        "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    }
    operator = {
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
        "extraArgs": {"type": "array", "items": _TEXT},
        **_pods(),
    }
    return _exactly(
        {
            "global": _ANY_MAP,  # Helm's own, where this chart is part of another
            "image": _exactly(image),
            "imagePullSecrets": _list_of({"name": _TEXT}),
            "nameOverride": {
                "type": "string",
                "maxLength": 40,
                "pattern": "^([a-z0-9]([a-z0-9-]*[a-z0-9])?)?$",
            },
            "commonLabels": _WORDS,
            "rbac": _exactly({"create": _SWITCH, "nodeRestriction": _SWITCH}),
            "resourceQuota": _exactly({"create": _SWITCH}),
            "crds": _exactly({"manage": _SWITCH}),
            "operator": _exactly(operator),
            "agent": _exactly(agent),
            "mesh": _mesh(),
            "extraObjects": _ANY_LIST,
        }
    )


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
