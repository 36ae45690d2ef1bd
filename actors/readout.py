"""Metrics and summaries as words: what the views print.

Everything here is a pure function of numbers; a number that is missing leaves its words out.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Mapping
from statistics import fmean, harmonic_mean
from typing import Any

__all__ = [
    "FIGURES",
    "HEADLINES",
    "Recent",
    "bottleneck",
    "duration",
    "figures",
    "headlines",
    "load_line",
    "summary_rows",
]

NOTICEABLE = 0.1  # idle shares below this are called balanced
SATURATED = 0.9  # a reward pool this busy is named as what the learner waits for

FIGURES = {
    "reward": ("reward/mean", "{:.3f}"),
    "episode return": ("episode/return_mean", "{:.2f}"),
    "episode length": ("episode/len_mean", "{:.0f}"),
    "episode success": ("episode/success_rate", "{:.2f}"),
    "length": ("response_length/mean", "{:.1f}"),
    "entropy": ("policy/entropy", "{:.2f}"),
    "KL": ("rollout/mismatch_kl/mean", "{:.4f}"),
    "KL to ref": ("policy/kl_ref", "{:.3f}"),
    "staleness": ("staleness/mean", "{:.1f}"),
    "samples/s": ("perf/throughput", "{:,.0f}"),
    "tokens/s": ("perf/tokens_per_s", "{:,.0f}"),
    "frames/s": ("perf/fps", "{:,.0f}"),
    "labels": ("intrinsic/labels", "{:,.0f}"),
    "labelled": ("intrinsic/coverage", "{:.0%}"),
}
"""label -> (metric, format) of the numbers that a person follows, in reading order.

"KL" is the divergence from the policy that sampled: what staleness costs, and never constant.
"""

HEADLINES = {"accuracy": "accuracy", "return_mean": "return", "success_rate": "success"}
"""Figure of an evaluation -> label, the main one first."""

RATES = {
    "samples_per_s": "{:,.0f} samples/s",
    "tokens_per_s": "{:,.0f} tokens/s",
    "env_frames_per_s": "{:,.0f} frames/s",
}

LABELS = {"labels": "{:,.0f}", "coverage": "for {:.0%} of the captions met", "parse_failures": "{:,.0f} unreadable"}

REWARD_POOL = "pool/reward."
UNSTEADY = ("idle/", "perf/", "time/")
WINDOW = 10  # updates over which these are averaged: one update alone says little of who waits for whom


class Recent:
    """Metrics of the newest update, with those of the machinery averaged over the last few."""

    def __init__(self) -> None:
        self._last: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))

    def add(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Take the metrics of an update; return what to show."""
        shown = dict(metrics)
        for name, value in metrics.items():
            if name.startswith(UNSTEADY) and math.isfinite(value):
                self._last[name].append(value)
                # Updates have equal sizes, so the mean rate is the harmonic one.
                mean = harmonic_mean if name.startswith("perf/") else fmean
                shown[name] = mean(self._last[name])
        return shown


def bottleneck(metrics: Mapping[str, float]) -> str:
    """Return who waits for whom: "learner waiting 62 % on rollout"; empty where nothing is known.

    Reads `idle/learner` (or `time/wait_for_batch` over `time/total`), `idle/rollout` and
    `pool/reward.<component>/busy`.
    """
    total_s = metrics.get("time/total", 0.0)
    waited = metrics.get("time/wait_for_batch", 0.0) / total_s if total_s > 0 else 0.0
    learner, rollout = metrics.get("idle/learner", waited), metrics.get("idle/rollout", 0.0)
    if not {"idle/learner", "idle/rollout", "time/wait_for_batch"} & metrics.keys():
        return ""
    if max(learner, rollout) < NOTICEABLE:
        return "balanced"
    if rollout > learner:
        return f"rollout waiting {100 * rollout:.0f} % on learner"
    return f"learner waiting {100 * learner:.0f} % on {_slowest(metrics)}"


def _slowest(metrics: Mapping[str, float]) -> str:
    scoring_s = {name.split("/")[1]: v for name, v in metrics.items() if name.endswith("/batch_s")}
    if sum(scoring_s.values()) > metrics.get("time/wait_for_batch", math.inf) / 2:
        return f"reward `{max(scoring_s, key=scoring_s.__getitem__)}`"
    busy = {name[len(REWARD_POOL) : -len("/busy")]: v for name, v in metrics.items() if _is_reward_load(name)}
    component = max(busy, key=busy.__getitem__, default="")
    return f"reward `{component}`" if busy and busy[component] >= SATURATED else "rollout"


def _is_reward_load(name: str) -> bool:
    return name.startswith(REWARD_POOL) and name.endswith("/busy")


def duration(seconds: float) -> str:
    """Return "48 s", "3 min 20 s" or "2 h 05 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def figures(metrics: Mapping[str, float]) -> dict[str, str]:
    """Return {label: text} of those `FIGURES` that were measured."""
    known = ((label, name, form) for label, (name, form) in FIGURES.items() if name in metrics)
    found = {label: form.format(metrics[name]).replace("%", " %") for label, name, form in known}
    if "staleness" in found and "staleness/max" in metrics:
        found["staleness"] += f" (max {metrics['staleness/max']:.0f})"
    return found


def headlines(result: Mapping[str, float | None]) -> dict[str, str]:
    """Return {label: text} of the main figures of an evaluation; shares keep three places, returns three digits."""
    found = {key: result[key] for key in HEADLINES if result.get(key) is not None}
    return {
        HEADLINES[key]: digits(value) if key == "return_mean" else f"{value:.3f}"
        for key, value in found.items()
        if value is not None
    }


def load_line(load: Mapping[str, float]) -> str:
    """Return the figures of a pool's work on one line: "busy 62 %, 3 waiting, queue p50 0.01 s, p95 0.20 s"."""
    forms = {"busy": "busy {:.0%}", "waiting": "{:.0f} waiting", "queue_p50_s": "queue p50 {:.2f} s",
             "queue_p95_s": "p95 {:.2f} s"}  # fmt: skip
    return ", ".join(form.format(load[name]).replace("%", " %") for name, form in forms.items() if name in load)


def digits(value: float) -> str:
    """Return a number with three significant digits, and all of those before the point."""
    places = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, 4)}f}"


def _part(summary: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = summary.get(name)
    return part if isinstance(part, Mapping) else {}


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the (label, text) rows of a finished run; a field that is missing or null is left out."""
    evaluations = [headlines(_part(_part(summary, "eval"), when)) for when in ("before", "after")]
    verdicts = {label: " → ".join(e[label] for e in evaluations if label in e) for label in HEADLINES.values()}
    staleness, idle = _part(summary, "staleness"), _part(summary, "idle")
    counts = [f"{v:,} {k.replace('_', ' ')}" for k, v in _part(summary, "trajectories").items() if v]
    rows = [
        ("status", str(summary.get("status") or "")),
        *verdicts.items(),
        ("trajectories", " · ".join(counts)),
        ("throughput", _joined(summary, RATES)),
        ("labels", _joined(_part(summary, "intrinsic"), LABELS).replace("%", " %")),
        ("staleness", _joined(staleness, {"mean": "mean {:.2f}", "p95": "p95 {:.0f}", "max": "max {:.0f}"})),
        ("alarms", " · ".join(f"{name} {_times(a)}" for name, a in _part(summary, "alarms").items())),
        ("idle", " · ".join(f"{who} {100 * share:.0f} %" for who, share in idle.items() if share is not None)),
        ("wall time", duration(summary["wall_s"]) if summary.get("wall_s") is not None else ""),
        ("weights", _joined(summary, {"policy_version": "version {}", "weights_sha256": "sha256 {:.12}"})),
        ("report", str(summary.get("report") or "")),
    ]
    return [row for row in rows if row[1]]


def _times(alarm: Mapping[str, Any]) -> str:
    times = "once" if alarm["raised"] == 1 else f"{alarm['raised']} times"
    return f"{times}{', still raised' if alarm['active'] else ''}"


def _joined(values: Mapping[str, Any], forms: Mapping[str, str]) -> str:
    return " · ".join(form.format(values[key]) for key, form in forms.items() if values.get(key) is not None)
