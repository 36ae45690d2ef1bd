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
    Panel(title="Return of evaluated episodes", lines={"eval/<task>/return_mean": ""}, chart=Chart(markers=True)),
    Panel(title="Success of evaluated episodes", lines={"eval/<task>/success_rate": ""},
          chart=Chart(percent=True, markers=True)),
    Panel(title="Return of an episode", lines={"episode/return_mean": ""}),
    Panel(title="Success of episodes", lines={"episode/success_rate": ""}, chart=SHARES),
    Panel(title="Length of an episode", lines={"episode/len_mean": "", "eval/<task>/len_mean": "evaluated"}),
    Panel(title="Reward of a step", lines={"reward/extrinsic_mean": "environment",
                                           "reward/intrinsic_mean": "intrinsic"}),
    Panel(title="Reward", lines={"reward/mean": "combined", "rewards/<component>/mean": ""}),
    Panel(title="Groups that teach nothing", lines={"reward/frac_zero_std": ""}, chart=SHARES),
    Panel(title="Entropy", lines={"policy/entropy": ""}),
    Panel(title="Response length", lines={"response_length/mean": ""}),
    Panel(title="Gradient norm", lines={"optim/grad_norm": ""}, limit=("clipped above", "learner.max_grad_norm")),
)  # fmt: skip

INTRINSIC = (
    Panel(title="Labels", lines={"intrinsic/labels": "labels", "intrinsic/heldout_labels": "held out"}),
    Panel(title="Captions with a label", lines={"intrinsic/coverage": ""}, chart=SHARES),
    Panel(title="Captions that wait for one", lines={"intrinsic/queue": "queue", "intrinsic/in_flight": "in flight"}),
    Panel(title="Held-out labels told right", lines={"intrinsic/heldout_accuracy": ""}, chart=SHARES),
    Panel(title="Loss of the reward model", lines={"intrinsic/loss": ""}),
    Panel(title="From a label to its use", lines={"intrinsic/reward_lag_p50_s": ""}),
    Panel(title="Answers without a label", lines={"intrinsic/abstained": "abstained",
                                                  "intrinsic/parse_failures": "unreadable"}, unless_zero=True),
    Panel(title="Steps with an intrinsic reward", lines={"reward/intrinsic_coverage": ""}, chart=SHARES,
          unless_zero=True),
)  # fmt: skip

CRITIC = (
    Panel(title="Explained variance", lines={"value/explained_variance": ""}, chart=Chart(zero=False)),
    Panel(title="Value of a step", lines={"value/mean": "critic", "returns/mean": "target"}, chart=Chart(zero=False)),
    Panel(title="Loss of the critic", lines={"value/loss": ""}),
    Panel(title="Spread of advantages", lines={"advantage/std": ""}),
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
    Panel(title="Environment steps", lines={"perf/fps": ""}),
    Panel(title="Idle time", lines={"idle/learner": "learner", "idle/rollout": "rollout"}, chart=SHARES),
    Panel(title="Time of an update", lines={"time/total": "total", "time/update": "compute",
                                            "time/wait_for_batch": "wait", "time/weight_sync": "publish"}),
    Panel(title="Samples that wait for a score", lines={"buffer/unscored": ""}),
    Panel(title="Payloads in the buffer", lines={"buffer/held_bytes": ""}),
    Panel(title="Scoring of a batch", lines={"rewards/<component>/batch_s": ""}),
    Panel(title="Pools in use", lines={"pool/<pool>/busy": ""}, chart=SHARES),
    Panel(title="Queue time of pools, p95", lines={"pool/<pool>/queue_p95_s": ""}),
    Panel(title="Dropped samples, by reason", lines={"dropped/<reason>": ""}),
)  # fmt: skip

PANELS = {
    "Learning": LEARNING,
    "Intrinsic reward": INTRINSIC,
    "Critic": CRITIC,
    "Off-policy health": OFF_POLICY,
    "Speed": SPEED,
}
"""heading -> its charts."""
