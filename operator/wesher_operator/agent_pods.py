"""What an installation adds to its agents' pods: the chart's ``agent`` values, as one checked JSON text."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from wesher_common.errors import InvalidSpec

HOST_VARIABLE, PORT_VARIABLE = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"
API_SERVER = r"^$|^(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.-]+):[0-9]{1,5}$"
"""``HOST:PORT``, or nothing."""


class AgentPods(BaseModel):
    """The fields, named as in the chart; Kubernetes' own parts are passed on as they are."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")

    service_account_name: str = "wesher-agent"
    privileged: bool = True
    """False is NET_ADMIN and nothing else."""
    priority_class_name: str = "system-node-critical"
    dns_policy: Literal["Default", "ClusterFirst", "ClusterFirstWithHostNet"] = "Default"
    """Seeds must resolve before the cluster's own DNS runs."""
    update_strategy: dict[str, Any] = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}}
    resources: dict[str, Any] = {}
    api_server: str = Field("", pattern=API_SERVER)
    """Where agents reach the API server; empty is the Service ``kubernetes``."""
    log_format: Literal["text", "json"] = "text"
    extra_args: list[str] = []
    extra_env: list[dict[str, Any]] = []
    pod_annotations: dict[str, str] = {}
    pod_labels: dict[str, str] = {}
    image_pull_secrets: list[dict[str, str]] = []

    @property
    def environment(self) -> list[dict[str, Any]]:
        """The pods' environment variables, without those of each node."""
        host, _, port = self.api_server.rpartition(":")
        # A kubelet sets these variables only where a pod does not.
        dialled = {HOST_VARIABLE: host.strip("[]"), PORT_VARIABLE: port} if host else {}
        return [*({"name": name, "value": value} for name, value in dialled.items()), *self.extra_env]


def parse_agent_pods(text: str, *, where: str) -> AgentPods:
    """Read the JSON text; an empty one means the defaults.

    Args:
        text: a JSON object.
        where: the flag or variable it stands in, for the error.

    Raises:
        InvalidSpec: naming the field and its rule.

    """
    try:
        return AgentPods.model_validate_json(text or "{}")
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"]))
        raise InvalidSpec(f"{where} {path}".rstrip(), first["msg"]) from error
