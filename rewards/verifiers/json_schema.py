"""Reward for JSON that a schema accepts, checked in a killable child."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jsonschema

from buffers.scores import Sample, Score, ScoreStatus
from rewards.base import Component
from rewards.verifiers.child import ChildPool
from rewards.verifiers.extract import last_code_block

__all__ = ["JsonSchema"]

_CHILDREN = ChildPool("rewards.verifiers.json_schema_judge:judge")


@dataclass(frozen=True, kw_only=True)
class JsonSchema(Component):
    """1.0 where the completion is one JSON value that the schema accepts, else 0.0.

    The value is the last block between backticks, or else the whole completion. NaN, infinities, numbers that no
    double holds, repeated keys and more than `depth` levels are no JSON here. `schema` of the metadata goes before
    that of the section; abstains where there is none, or one that is no schema.

        component: {target: json_schema, schema: {type: object, required: [name], additionalProperties: false}}

    Source: JSON Schema 2020-12, https://json-schema.org/draft/2020-12; RFC 8259.
    """

    schema: Mapping[str, Any] = field(default_factory=dict)
    depth: int = 64
    deadline_s: float = 2.0
    """For one sample; patterns of a schema can take exponential time."""

    def __post_init__(self) -> None:
        try:
            jsonschema.Draft202012Validator.check_schema(self.schema)
        except jsonschema.SchemaError as error:
            raise ValueError(f"schema is no JSON schema: {error.message}; correct it") from error
        if not 1 <= self.depth <= 500:
            raise ValueError(f"depth is {self.depth}; it must lie in [1, 500]; 64 is plenty")
        if not self.deadline_s > 0:
            raise ValueError(f"deadline_s is {self.deadline_s}; it must be > 0; 2 suits most schemas")

    def warm(self, concurrency: int) -> None:
        """Start the children, so that their imports do not eat the first call's deadline."""
        _CHILDREN.warm(concurrency)

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Score:
        schema = sample.metadata.get("schema") or dict(self.schema)
        if not schema:
            return Score.invalid(ScoreStatus.ABSTAINED, f"{sample.id}: neither the section nor the task has a schema")
        item = {"schema": schema, "text": last_code_block(sample.completion).strip(), "depth": self.depth}
        return _CHILDREN.judge(item, self.deadline_s)
