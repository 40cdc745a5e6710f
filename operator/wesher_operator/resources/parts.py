"""What the models of all kinds are made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from wesher_common.report import MAX_MESSAGE
from wesher_operator.resources import rules

MAX_DNS_NAME = 253
MAX_CIDR_TEXT = 43
"""The longest IPv6 network as text."""


class Resource(BaseModel):
    """Base of every part of a custom resource: camelCase outside, unknown fields ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, use_attribute_docstrings=True
    )


class ConditionStatus(Resource):
    """metav1.Condition."""

    type: str = Field(max_length=316, json_schema_extra=rules.REASON)
    """Type of the condition."""
    status: Literal["True", "False", "Unknown"]
    """Status of the condition."""
    reason: str = Field(max_length=1024, json_schema_extra=rules.REASON)
    """Machine-readable reason in CamelCase."""
    message: str = Field("", max_length=MAX_MESSAGE)
    """Explanation for people."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When status last changed."""
    observed_generation: int = 0
    """Generation of the spec that the condition describes."""


Conditions = Annotated[
    list[ConditionStatus],
    Field(
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


class Column(BaseModel):
    """One printer column."""

    name: str
    path: str
    type: Literal["string", "date", "integer"] = "string"
    wide: bool = False
