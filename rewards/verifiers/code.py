"""Reward for programs that pass their tests, run in the sandbox."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from buffers.scores import Sample, Score, ScoreStatus
from rewards.base import Component
from rewards.sandbox.limits import Limits
from rewards.sandbox.pool import Sandbox
from rewards.sandbox.program import End, Order, Outcome, SandboxError
from rewards.verifiers.extract import last_code_block

__all__ = ["CodeTests", "same"]


@dataclass(frozen=True, kw_only=True)
class CodeTests(Component):
    """1.0 where the Python program of the completion passes all tests in its metadata, else 0.0; or the share passed.

    The program is the last block between backticks, or else the whole completion. `tests` is a list of either
    `{"input": ..., "output": ...}`, texts of standard input and output, or `{"arguments": [...], "expected": ...}`
    for the function that the metadata names as `function` (`Class.method` for a method). Every test is a new
    process in the sandbox, with nothing but its input: what is expected stays outside, so that no program can
    forge a verdict. A crash, a wrong answer and a missed deadline fail a test; abstains without tests.

        component: {target: code, deadline_s: 4.0}
        batch_size: 1
        deadline_s: 60.0

    Source: the test-case reward of DRIVE, arXiv:2511.06307; the forms of tests are those of LiveCodeBench,
    arXiv:2403.07974.
    """

    deadline_s: float = 4.0
    """For one test."""
    memory_mb: int = 512
    """Address space of a program, the interpreter's own included."""
    scratch_mb: int = 0
    """Of a folder `/scratch` that programs may write to, empty for each test; needs bubblewrap. 0: none."""
    partial: bool = False
    """Reward the share of tests that pass; otherwise the first failure ends the judgement."""
    tolerance: float = 1e-9
    """Relative, between real numbers that a function returns."""

    def __post_init__(self) -> None:
        if not self.deadline_s > 0:
            raise ValueError(f"deadline_s is {self.deadline_s}; it must be > 0; 4 suits contest problems")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance is {self.tolerance}; it must lie in [0, 1); 0 asks for equality")

        if self.memory_mb < 64 or self.scratch_mb < 0:
            sizes = f"memory_mb, scratch_mb are {self.memory_mb}, {self.scratch_mb}"
            raise ValueError(f"{sizes}; they must be >= 64 and >= 0; try 512 and 0")

    def require_containment(self) -> None:
        """Let hostile programs try to get out, once in this process."""
        _sandbox(self.memory_mb, self.scratch_mb).require_containment()

    def warm(self, concurrency: int) -> None:
        """Probe the sandbox and start its zygotes."""
        _sandbox(self.memory_mb, self.scratch_mb).warm(concurrency)

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Score:
        tests = sample.metadata.get("tests")
        if not tests or not all(isinstance(t, Mapping) and ({"output", "expected"} & t.keys()) for t in tests):
            detail = f"{sample.id}: metadata.tests must be a list of tests with `output` or `expected`"
            return Score.invalid(ScoreStatus.ABSTAINED, detail)
        source, passed, failure = last_code_block(sample.completion), 0, ""
        for number, test in enumerate(tests):
            try:
                outcome = self._run(source, test, sample.metadata.get("function", ""))
            except SandboxError as error:
                return Score.invalid(ScoreStatus.ERROR, str(error))
            if outcome.starved(self.deadline_s):
                why = f"test {number} had no processor for {outcome.starved_s:.1f} of its {self.deadline_s:g} s"
                return Score.invalid(ScoreStatus.TIMEOUT, why)
            if self._passes(outcome, test):
                passed += 1
                continue
            failure = failure or f"; test {number} failed: {_reason(outcome)}"
            if not self.partial:
                return Score(value=0.0, detail=failure[2:])
        return Score(value=passed / len(tests), detail=f"{passed} of {len(tests)} tests passed{failure}")

    def _run(self, source: str, test: Mapping[str, Any], function: str) -> Outcome:
        item = {"source": source}
        if "expected" in test:
            item |= {"call": function or "solve", "arguments": test.get("arguments", [])}
        text = str(test.get("input", "")).encode(errors="replace")
        return _sandbox(self.memory_mb, self.scratch_mb).run(item, self.deadline_s, text=text)

    def _passes(self, outcome: Outcome, test: Mapping[str, Any]) -> bool:
        if outcome.end is not End.EXITED or outcome.code != 0:
            return False
        if "expected" in test:
            return same(outcome.reply, test["expected"], self.tolerance)
        return _lines(outcome.output.decode(errors="replace")) == _lines(str(test["output"]))


@functools.cache
def _sandbox(memory_mb: int, scratch_mb: int) -> Sandbox:
    """Return the sandbox that all components of these sizes share."""
    target = "rewards.sandbox.python_program:run"
    return Sandbox(Order(target=target, limits=Limits(memory_bytes=memory_mb << 20), scratch_bytes=scratch_mb << 20))


def same(given: Any, expected: Any, tolerance: float) -> bool:
    """Return whether two JSON values are equal; numbers within a relative tolerance where either is real."""
    if isinstance(expected, list) and isinstance(given, list):
        return len(given) == len(expected) and all(same(*pair, tolerance) for pair in zip(given, expected, strict=True))
    if isinstance(expected, dict) and isinstance(given, dict):
        return given.keys() == expected.keys() and all(same(given[k], v, tolerance) for k, v in expected.items())
    if isinstance(expected, bool) or isinstance(given, bool):
        return given is expected
    if isinstance(expected, float) and isinstance(given, int | float):
        return math.isclose(_real(given), expected, rel_tol=tolerance)
    return bool(given == expected)


def _real(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _reason(outcome: Outcome) -> str:
    if outcome.end is not End.EXITED:
        return str(outcome.end)
    if outcome.code != 0:
        return outcome.errors.strip().rpartition("\n")[2][:200] or f"status {outcome.code}"
    return "wrong answer"
