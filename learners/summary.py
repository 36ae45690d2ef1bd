"""summary.json: what a run did, in the fields that other tools rely on."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from configs.schema import RunConfig
from learners.driver import LearnerDriver

__all__ = ["staleness", "summarise"]

LESSONS = re.compile(r"rewards/(.+)/learner/(lessons|let_go|lost)")
INTRINSIC = ("labels", "coverage", "reward_lag_p50_s", "parse_failures")


def summarise(
    config: RunConfig,
    driver: LearnerDriver,
    *,
    status: str,
    version: int,
    trajectories: Mapping[str, int],
    alarms: Mapping[str, Mapping[str, Any]],
    wall_s: float,
) -> dict[str, Any]:
    """Return the summary of a run that ended.

    Args:
      trajectories: the audit's totals over the whole life of the run.
      alarms: the same of those that were raised; see `alarm_totals`.
      wall_s: seconds from the command to now; rates count the streaming phase only.
    """
    totals, delivery = driver.account.totals, driver.delivery
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
        "staleness": staleness(totals.ages),
        "spanning_share": totals.spanning / max(totals.samples, 1),
        "eval": _evaluations(driver.evaluations),
        **_intrinsic(driver.account.observed),
        **_lessons(driver.account.observed),
        **({"alarms": dict(alarms)} if alarms else {}),
        "idle": {"learner": min(totals.waited_s / streaming_s, 1.0), "rollout": driver.account.meter.rollout_idle},
        "publish": {
            "count": len(delivery.transfers_s),
            "bytes": delivery.published_bytes,
            "transfer_s_p50": statistics.median(delivery.transfers_s or [0.0]),
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


def _lessons(metrics: Mapping[str, float]) -> dict[str, dict[str, dict[str, float]]]:
    """Return what became of the lessons of each reward that learns; nothing where none does."""
    found: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        if known := LESSONS.fullmatch(name):
            found.setdefault(known[1], {})[known[2]] = value
    return {"rewards": found} if found else {}


def _evaluations(results: Mapping[int, Mapping[str, float]]) -> dict[str, Mapping[str, float | None]]:
    """Return the first and the last evaluation; what nothing defines is null, which JSON has and NaN has not."""
    if not results:
        return {}
    first, last = (
        {name: value if math.isfinite(value) else None for name, value in results[version].items()}
        for version in (min(results), max(results))
    )
    return {"before": first, "after": last}


def staleness(ages: Mapping[int, int]) -> dict[str, float]:
    """Return mean, 95th percentile and maximum of versions -> trained samples; zeros where there are none."""
    ranked, samples = sorted(ages), sum(ages.values())
    if not samples:
        return {"mean": 0.0, "p95": 0.0, "max": 0}
    reached = accumulate(ages[age] for age in ranked)
    p95 = next(age for age, until in zip(ranked, reached, strict=True) if until > int(0.95 * samples))
    return {"mean": sum(age * n for age, n in ages.items()) / samples, "p95": float(p95), "max": ranked[-1]}
