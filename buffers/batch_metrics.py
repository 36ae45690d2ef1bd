"""What a batch looks like before it is trained on: rewards, staleness, lengths or episodes."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from buffers.batch import Batch
from buffers.payloads import PayloadStore
from buffers.staleness import age

__all__ = ["fragment_metrics", "text_metrics"]


def text_metrics(batch: Batch, *, max_completion_length: int) -> dict[str, float]:
    """Return the metrics of a batch of texts; samples and tokens, rewards, ages in versions.

    `reward/frac_zero_std` is the share of groups that carry no advantage.
    """
    lengths = [row.num_sampled for row in batch.rows] or [0]
    flat = [len({batch.reward(row) for row in group.valid_rows}) <= 1 for group in batch.groups]
    return _common(batch) | {
        "reward/frac_zero_std": sum(flat) / len(flat),
        "response_length/mean": statistics.fmean(lengths),
        "response_length/clip_ratio": sum(n >= max_completion_length for n in lengths) / len(lengths),
    }


def fragment_metrics(batch: Batch, payloads: PayloadStore) -> dict[str, float]:
    """Return the metrics of a batch of fragments; of episodes those that ended in it, where any did."""
    notes = payloads.gather(batch.rows, ["metadata"])["metadata"].to_pylist()
    return _common(batch) | _episodes([episode for note in notes for episode in json.loads(note)["episodes"]])


def _episodes(ended: Sequence[tuple[float, int, bool | None]]) -> dict[str, float]:
    """Return means over (return, steps, success); success where the environment or the settings define it."""
    metrics = {"episode/ended": float(len(ended))}
    if ended:
        metrics["episode/return_mean"] = statistics.fmean(total for total, _, _ in ended)
        metrics["episode/len_mean"] = statistics.fmean(length for _, length, _ in ended)
    if known := [float(success) for _, _, success in ended if success is not None]:
        metrics["episode/success_rate"] = statistics.fmean(known)
    return metrics


def _common(batch: Batch) -> dict[str, float]:
    rows = batch.rows
    rewards = [total for row in rows if (total := batch.reward(row)) is not None]
    ages = [age(batch.version, row.oldest_version) for row in rows if row.oldest_version >= 0] or [0]
    return {
        "reward/mean": statistics.fmean(rewards) if rewards else float("nan"),
        "reward/std": statistics.pstdev(rewards) if rewards else float("nan"),
        "staleness/mean": statistics.fmean(ages),
        "staleness/max": float(max(ages)),
        "staleness/spanning_share": sum(row.runs > 1 for row in rows) / max(len(rows), 1),
        **_steps(batch),
        **_components(batch),
        **{f"rewards/{name}/batch_s": seconds for name, seconds in batch.scoring_s.items()},
    }


def _steps(batch: Batch) -> dict[str, float]:
    given = [steps for row in batch.rows if (steps := batch.steps(row)) is not None]
    if not given:
        return {}
    values = [value for steps in given for value in steps.values]
    return {
        "reward/steps": len(values) / len(given),
        "reward/step_mean": statistics.fmean(values) if values else float("nan"),
    }


def _components(batch: Batch) -> dict[str, float]:
    scores = [batch.scores(row) for row in batch.rows]
    values: dict[str, list[Any]] = {name: [] for known in scores for name in known}
    invalid: Counter[str] = Counter()
    for known in scores:
        for name, found in values.items():
            value = known[name].value if name in known else None
            invalid[name] += value is None
            found += [] if value is None else [value]
    means = {f"rewards/{n}/mean": statistics.fmean(found) if found else float("nan") for n, found in values.items()}
    return means | {f"rewards/{name}/invalid": float(invalid[name]) for name in values}
