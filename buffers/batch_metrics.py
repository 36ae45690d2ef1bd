"""What a batch looks like before it is trained on: rewards, staleness, lengths."""

from __future__ import annotations

import statistics

from buffers.staleness import age
from buffers.stream import Batch

__all__ = ["batch_metrics"]


def batch_metrics(batch: Batch, *, max_completion_length: int) -> dict[str, float]:
    """Return the metrics of a batch; samples and tokens, rewards, ages in versions.

    `reward/frac_zero_std` is the share of groups that carry no advantage.
    """
    rows = batch.rows
    totals = {row.id: batch.reward(row) for row in rows}
    rewards = [total for total in totals.values() if total is not None]
    ages = [age(batch.version, row.oldest_version) for row in rows if row.oldest_version >= 0] or [0]
    lengths = [row.num_sampled for row in rows] or [0]
    flat = [len({totals[row.id] for row in group.valid_rows}) <= 1 for group in batch.groups]
    metrics = {
        "reward/mean": statistics.fmean(rewards) if rewards else float("nan"),
        "reward/std": statistics.pstdev(rewards) if rewards else float("nan"),
        "reward/frac_zero_std": sum(flat) / len(flat),
        "staleness/mean": statistics.fmean(ages),
        "staleness/max": float(max(ages)),
        "staleness/spanning_share": sum(row.runs > 1 for row in rows) / max(len(rows), 1),
        "response_length/mean": statistics.fmean(lengths),
        "response_length/clip_ratio": sum(n >= max_completion_length for n in lengths) / len(lengths),
    }
    return metrics | _component_metrics(batch)


def _component_metrics(batch: Batch) -> dict[str, float]:
    metrics: dict[str, float] = {}
    scores = [batch.scores(row) for row in batch.rows]
    for name in scores[0] if scores else ():
        values = [known[name].value if name in known else None for known in scores]
        valid = [v for v in values if v is not None]
        metrics[f"rewards/{name}/mean"] = statistics.fmean(valid) if valid else float("nan")
        metrics[f"rewards/{name}/invalid"] = float(len(values) - len(valid))
    return metrics
