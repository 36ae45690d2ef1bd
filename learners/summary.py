"""summary.json: what a run did, in the fields that other tools rely on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from configs.schema import RunConfig
from learners.driver import LearnerDriver

__all__ = ["summarise"]

INTRINSIC = ("labels", "coverage", "reward_lag_p50_s", "parse_failures")


def summarise(
    config: RunConfig,
    driver: LearnerDriver,
    *,
    status: str,
    version: int,
    trajectories: Mapping[str, int],
    wall_s: float,
) -> dict[str, Any]:
    """Return the summary of a run that ended.

    Args:
      trajectories: the audit's totals over the whole life of the run.
      wall_s: seconds from the command to now; rates count the streaming phase only.
    """
    totals = driver.totals
    streaming_s = max(totals.wall_s, 1e-9)
    return {
        "run": config.name,
        "status": status,
        "mode": config.mode,
        "seed": config.seed,
        "wall_s": round(wall_s, 3),
        "streaming_s": round(streaming_s, 3),
        "policy_version": version,
        "weights_sha256": driver.weights_sha256,
        "trajectories": dict(trajectories),
        "samples_per_s": totals.samples / streaming_s,
        **_sampled(config, totals.tokens / streaming_s, trajectories),
        "staleness": {
            "mean": statistics.fmean(totals.ages or [0]),
            "p95": _percentile(totals.ages, 95),
            "max": max(totals.ages, default=0),
        },
        "spanning_share": totals.spanning / max(totals.samples, 1),
        "eval": _evaluations(driver.evaluations),
        **_intrinsic(driver.intrinsic),
        "idle": {"learner": min(totals.waited_s / streaming_s, 1.0), "rollout": driver.meter.rollout_idle},
        "publish": {
            "count": len(totals.transfers_s),
            "bytes": totals.published_bytes,
            "transfer_s_p50": statistics.median(totals.transfers_s or [0.0]),
            "pause_s_p50": statistics.median(totals.pauses_s or [0.0]),
        },
    }


def _sampled(config: RunConfig, per_s: float, trajectories: Mapping[str, int]) -> dict[str, float]:
    """Return the rate of what is sampled: tokens, or frames of environments and how many there were in all."""
    if not config.is_decision:
        return {"tokens_per_s": per_s}
    frames = trajectories.get("trained", 0) * config.environment.fragment_length
    return {"env_frames": frames, "env_frames_per_s": per_s}


def _intrinsic(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return what became of labels and the reward learned from them; nothing where no reward is learned."""
    found = {name: metrics[f"intrinsic/{name}"] for name in INTRINSIC if f"intrinsic/{name}" in metrics}
    return {"intrinsic": found} if found else {}


def _evaluations(results: Mapping[int, Mapping[str, float]]) -> dict[str, Mapping[str, float | None]]:
    """Return the first and the last evaluation; what nothing defines is null, which JSON has and NaN has not."""
    if not results:
        return {}
    first, last = (
        {name: value if math.isfinite(value) else None for name, value in results[version].items()}
        for version in (min(results), max(results))
    )
    return {"before": first, "after": last}


def _percentile(values: Sequence[int], percent: float) -> float:
    if not values:
        return 0.0
    ranked = sorted(values)
    return float(ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))])
