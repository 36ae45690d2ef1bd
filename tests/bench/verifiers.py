"""How many samples each verifier judges in a second, one caller at a time and two.

    python -m tests.bench.verifiers [--seconds 2] [--only code,sql]

Prints one JSON line for each component: samples/s on right answers, and how many of them were judged right, which
must be all. A caller scores one sample per call, as a rollout's completion arrives; `warm` is done before, and is
reported apart.
"""

from __future__ import annotations

import argparse
import itertools
import json
import threading
import time
from typing import Any

from buffers.scores import Sample
from configs.registry import construct
from rewards import REWARDS
from rewards.base import Component, Warm

SCRIPT = "CREATE TABLE singer (name TEXT, age INTEGER); INSERT INTO singer VALUES ('Ann', 30), ('Bob', 20);"
QUERY = "select name from singer where age > 20"
CODE = "```python\nn = int(input())\nprint(2 * n)\n```"
BOXES = [[10 * i, 0, 10 * i + 8, 8] for i in range(8)]
CALLERS = (1, 2)
TASKS: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "answer_or_abstain": ({}, {"completion": "Paris", "answer": "paris"}, 1.0),
    "box_criteria": ({}, {"completion": json.dumps(BOXES), "metadata": {"boxes": BOXES}}, 3.0),
    "box_detection": ({}, {"completion": json.dumps(BOXES), "metadata": {"boxes": BOXES}}, 1.0),
    "box_overlap": ({}, {"completion": json.dumps(BOXES), "metadata": {"boxes": BOXES}}, 1.0),
    "code": ({}, {"completion": CODE, "metadata": {"tests": [{"input": "2", "output": "4"}]}}, 1.0),
    "entity_match": (
        {},
        {"completion": "<think>Ada</think><answer>x</answer>", "answer": "x", "metadata": {"entities": ["Ada"]}},
        1.0,
    ),
    "exact_match": ({}, {"completion": "42", "answer": "42"}, 1.0),
    "format": ({"pattern": r"answer: \d+"}, {"completion": "answer: 42"}, 1.0),
    "json_schema": ({"schema": {"type": "array"}}, {"completion": json.dumps(BOXES)}, 1.0),
    "length_penalty": ({"target_tokens": 8}, {"completion": "x", "num_tokens": 4}, 0.0),
    "math": ({}, {"completion": r"so $x = \frac{1}{2}$", "answer": "1/2"}, 1.0),
    "multiple_choice": ({}, {"completion": "The answer is (C).", "answer": "C"}, 1.0),
    "numeric": ({"units": True}, {"completion": "It is 1.5 km long.", "answer": "1500 m"}, 1.0),
    "reasoning_gym": (
        {},
        {"completion": "7", "metadata": {"dataset": "basic_arithmetic", "entry": {"answer": "7", "metadata": {}}}},
        1.0,
    ),
    "repetition_penalty": ({}, {"completion": " ".join(map(str, range(200)))}, 0.0),
    "soft_overlong": ({"max_completion_length": 8, "cache_tokens": 2}, {"completion": "x", "num_tokens": 4}, 0.0),
    "sql": (
        {},
        {"completion": f"<think></think><answer>{QUERY}</answer>", "answer": QUERY, "metadata": {"script": SCRIPT}},
        7.0,
    ),
    "text_match": ({}, {"completion": "the cat sat on a mat", "answer": "cat sat on mat"}, 1.0),
}
"""Component -> its settings, a sample that it judges right, and the value of that."""


def measure(name: str, seconds: float) -> dict[str, Any]:
    """Return samples/s of one component by the number of callers."""
    settings, fields, expected = TASKS[name]
    component = construct(REWARDS, {"target": name, **settings}, name)
    started = time.perf_counter()
    if isinstance(component, Warm):
        component.warm(max(CALLERS))
    warm_s = time.perf_counter() - started
    sample = Sample(**{"id": "s", "group": "g", "prompt": "", **fields})
    rates = {str(callers): rate(component, sample, expected, callers, seconds) for callers in CALLERS}
    return {"component": name, "warm_s": round(warm_s, 3), "samples_per_s": rates}


def rate(component: Component, sample: Sample, expected: float, callers: int, seconds: float) -> float:
    """Return samples/s of `callers` threads together.

    Raises:
      AssertionError: a verdict is not the expected one, so that nothing was measured.
    """
    until = time.perf_counter() + seconds
    counts = [0] * callers
    wrong: list[object] = []

    def call(caller: int) -> None:
        for counts[caller] in itertools.count(1):
            (score,) = component.score([sample])
            if score.value is None or abs(score.value - expected) > 1e-9:
                wrong.append(score)
            if wrong or time.perf_counter() > until:
                return

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(callers)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]
    return round(sum(counts) / (time.perf_counter() - started), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement")
    parser.add_argument("--only", default=",".join(TASKS), help="components, separated by commas")
    options = parser.parse_args()
    for name in options.only.split(","):
        print(json.dumps(measure(name, options.seconds)), flush=True)


if __name__ == "__main__":
    main()
