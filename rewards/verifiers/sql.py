"""Reward for SQL queries, with partial rewards for those that are nearly right."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from buffers.scores import Sample, Score, ScoreStatus
from rewards.base import Component
from rewards.sandbox.limits import Limits
from rewards.sandbox.pool import Sandbox
from rewards.sandbox.program import End, Order, Outcome, SandboxError
from rewards.verifiers.extract import last_code_block, last_tagged
from rewards.verifiers.format import tags_in_order

__all__ = ["PARTS", "Sql", "jaccard", "same_rows", "tokens"]

PARTS = ("execution", "syntax", "schema", "ngram", "format")
_TOKEN = re.compile(r"'[^']*'|\"[^\"]*\"|\w+|<=|>=|<>|!=|\|\||[^\s\w]")
_LIMITS = Limits(output_bytes=16 << 20)


@dataclass(frozen=True, kw_only=True)
class Sql(Component):
    """Weighted sum of five partial rewards in [0, 1] for an SQLite query; its vector has them one by one.

    execution: the rows are those of the reference query, in its order if it asks for one. syntax: it runs.
    schema: Jaccard index of the tables and columns that both name. ngram: the same of their pairs of tokens.
    format: the tags occur in order. The query is the last code block, or all, of the last `<answer>`.

    The metadata names the `database` (a file in the folder `databases`) or holds a `script` that builds one; the
    reference is the sample's answer. Queries run in the sandbox, read-only. Abstains where the reference fails.

        component: {target: sql, deadline_s: 5.0}

    The judge for queries that do not run, which the paper adds, is a component of its own.

    Source: Reasoning-SQL, arXiv:2503.23157; the Jaccard forms and weights are reconstructed.
    """

    databases: str = ""
    """Folder; empty where every task brings its script."""
    weights: Mapping[str, float] = field(
        default_factory=lambda: {"execution": 3.0, "syntax": 1.0, "schema": 1.0, "ngram": 1.0, "format": 1.0}
    )
    tags: Sequence[str] = ("think", "answer")
    deadline_s: float = 5.0
    """For one query."""

    def __post_init__(self) -> None:
        if wrong := sorted(self.weights.keys() - set(PARTS)):
            raise ValueError(f"weights names {wrong}; it must name some of {', '.join(PARTS)}; correct the name")
        if not self.deadline_s > 0:
            raise ValueError(f"deadline_s is {self.deadline_s}; it must be > 0; 5 suits most databases")
        if self.databases and not Path(self.databases).is_dir():
            raise ValueError(f"databases is {self.databases!r}; it must be a folder; give the one of the files")

    @cached_property
    def _sandbox(self) -> Sandbox:
        readable = (str(Path(self.databases).resolve()),) if self.databases else ()
        target = "rewards.verifiers.sql_program:run"
        return Sandbox(Order(target=target, imports=("sqlite3",), readable=readable, limits=_LIMITS))

    def require_containment(self) -> None:
        """Let hostile programs try to get out, once in this process."""
        self._sandbox.require_containment()

    def warm(self, concurrency: int) -> None:
        """Probe the sandbox and start its zygotes."""
        self._sandbox.warm(concurrency)

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Score:
        given = last_tagged(sample.completion, "answer") if "answer" in self.tags else sample.completion
        query = last_code_block(given or "").strip().rstrip(";")
        try:
            gold = self._run(sample, sample.answer.strip().rstrip(";"))
            outcome = self._run(sample, query)
        except (SandboxError, OSError) as error:
            return Score.invalid(ScoreStatus.ERROR, f"{sample.id}: {error}")
        wanted, found = _reply(gold), _reply(outcome)
        if "rows" not in wanted:
            why = wanted.get("error", gold.errors or gold.end)
            return Score.invalid(ScoreStatus.ABSTAINED, f"{sample.id}: the reference query fails: {why}")
        ordered = ("order", "by") in _pairs(tokens(sample.answer))
        names = {str(name).lower() for name in wanted["names"]}
        parts = {
            "execution": float("rows" in found and same_rows(found["rows"], wanted["rows"], ordered=ordered)),
            "syntax": float("rows" in found),
            "schema": jaccard(names.intersection(tokens(query)), names.intersection(tokens(sample.answer))),
            "ngram": jaccard(set(_pairs(tokens(query))), set(_pairs(tokens(sample.answer)))),
            "format": float(tags_in_order(self.tags, sample.completion)),
        }
        total = sum(weight * parts[name] for name, weight in self.weights.items())
        return Score(value=total, vector=tuple(parts.values()), detail=str(found.get("error", "")))

    def _run(self, sample: Sample, query: str) -> Outcome:
        item = {"query": query, "script": sample.metadata.get("script", "")}
        if name := sample.metadata.get("database"):
            path = (Path(self.databases) / str(name)).resolve(strict=True)
            item["path"] = str(path)
        return self._sandbox.run(item, self.deadline_s)


def same_rows(given: list[Any], expected: list[Any], *, ordered: bool) -> bool:
    """Return whether two results are equal as sequences, or else as multisets of rows."""
    if ordered:
        return given == expected
    return Counter(map(json.dumps, map(_key, given))) == Counter(map(json.dumps, map(_key, expected)))


def jaccard(given: set[Any], expected: set[Any]) -> float:
    """Return the share of common elements, 1.0 of two empty sets."""
    return len(given & expected) / len(given | expected) if given | expected else 1.0


def tokens(query: str) -> list[str]:
    """Return the words, numbers, strings and operators of a query in lower case."""
    return [token.strip('"`').lower() for token in _TOKEN.findall(query)]


def _pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    return list(pairwise(words))


def _key(row: list[Any]) -> list[Any]:
    return [int(cell) if isinstance(cell, float) and cell.is_integer() else cell for cell in row]


def _reply(outcome: Outcome) -> dict[str, Any]:
    if outcome.end is not End.EXITED or not isinstance(outcome.reply, dict):
        return {"error": str(outcome.end)}
    return outcome.reply
