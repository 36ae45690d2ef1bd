"""Which curves a report shows, in which order and under which heading: one question a chart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from buffers.records.plots import Chart

__all__ = ["PANELS", "Panel"]

SHARES = Chart(percent=True)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One chart of a report."""

    title: str
    lines: Mapping[str, str]
    """metric name, possibly with a placeholder -> label; an empty label takes what stands for the placeholder."""
    chart: Chart = field(default_factory=Chart)
    limit: tuple[str, str] | None = None
    """Label and configuration key of a horizontal limit; without one, the metric's advisory threshold is drawn."""
    unless_zero: bool = False
    """Left out where every value is 0, because that holds by construction in some configurations."""


LEARNING = (
    Panel(title="Accuracy on held-out tasks", lines={"eval/<task>/accuracy": ""},
          chart=Chart(percent=True, markers=True)),
    Panel(title="Reward", lines={"reward/mean": "combined", "rewards/<component>/mean": ""}),
    Panel(title="Groups that teach nothing", lines={"reward/frac_zero_std": ""}, chart=SHARES),
    Panel(title="Entropy", lines={"policy/entropy": ""}),
    Panel(title="Response length", lines={"response_length/mean": ""}),
    Panel(title="Gradient norm", lines={"optim/grad_norm": ""}, limit=("clipped above", "learner.max_grad_norm")),
)  # fmt: skip

OFF_POLICY = (
    Panel(title="Staleness", lines={"staleness/mean": "mean", "staleness/max": "max"},
          limit=("max_staleness", "max_staleness")),
    Panel(title="KL to the policy that sampled", lines={"rollout/mismatch_kl/mean": ""}),
    Panel(title="Importance ratio, learner over engine", lines={"rollout/is_ratio/mean": ""}, chart=Chart(zero=False)),
    Panel(title="Effective sample size", lines={"rollout/ess": ""}, chart=SHARES),
    Panel(title="KL to the reference policy", lines={"policy/kl_ref": ""}, unless_zero=True),
    Panel(title="KL within an update", lines={"policy/ppo_kl": ""}, unless_zero=True),
    Panel(title="Clipped tokens", lines={"policy/clip_frac": ""}, chart=SHARES, unless_zero=True),
    Panel(title="Samples that span versions", lines={"staleness/spanning_share": ""}, chart=SHARES, unless_zero=True),
)  # fmt: skip

SPEED = (
    Panel(title="Throughput", lines={"perf/throughput": ""}),
    Panel(title="Token throughput", lines={"perf/tokens_per_s": ""}),
    Panel(title="Idle time", lines={"idle/learner": "learner", "idle/rollout": "rollout"}, chart=SHARES),
    Panel(title="Time of an update", lines={"time/total": "total", "time/update": "compute",
                                            "time/wait_for_batch": "wait", "time/weight_sync": "publish"}),
    Panel(title="Samples that wait for a score", lines={"buffer/unscored": ""}),
    Panel(title="Payloads in the buffer", lines={"buffer/held_bytes": ""}),
    Panel(title="Reward servers in use", lines={"rewards/<component>/busy": ""}, chart=SHARES),
    Panel(title="Dropped samples, by reason", lines={"dropped/<reason>": ""}),
)  # fmt: skip

PANELS = {"Learning": LEARNING, "Off-policy health": OFF_POLICY, "Speed": SPEED}
"""heading -> its charts."""
