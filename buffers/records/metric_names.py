"""The glossary: what every metric means, its unit, its healthy range, and what to do outside it.

One table serves the report's chart lines, its advisories and the generated page. A name may hold
`<placeholders>` that stand for one path segment: `rewards/<component>/mean`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from buffers.records.decision_metric_names import DECISION_GLOSSARY
from buffers.records.metric import Metric

__all__ = ["METRICS", "Metric", "describe", "exported", "glossary_markdown", "matching"]


_GLOSSARY = (
    Metric("alarm/<alarm>", "1",
           "1 while an alarm is raised, 0 while it is not; see the section `alarms`",
           "0"),
    Metric("buffer/held_bytes", "bytes",
           "Payloads that wait in the buffer",
           "below buffer.max_bytes, where admission pauses"),
    Metric("buffer/unscored", "samples",
           "Generated samples that wait for a score",
           "steady; growth means that a reward is the bottleneck"),
    Metric("dropped/<reason>", "samples",
           "Samples dropped for this reason since the start",
           "explained by buffer.filters and buffer.staleness_policy"),
    Metric("eval/<task>/accuracy", "share",
           "Share of held-out tasks solved by a pinned version",
           "rises; far below the training reward means overfitting"),
    Metric("eval/<task>/invalid", "samples",
           "Held-out tasks whose answer got no score; they count as unsolved",
           "0", high=0.5,
           remedy="raise the deadline_s of rewards.components"),
    Metric("eval/<task>/reward", "reward",
           "Mean combined reward on held-out tasks",
           "rises with the accuracy"),
    Metric("idle/learner", "share",
           "Share of wall time in which the learner waited for a batch",
           "below 0.5", high=0.5,
           remedy="raise rollout.workers or rollout.slots, or max_staleness"),
    Metric("idle/rollout", "share",
           "Share of wall time in which the engines computed nothing",
           "below 0.5", high=0.5,
           remedy="raise max_staleness or learner.ranks, or lower rollout.workers"),
    Metric("num_turns/mean", "turns",
           "Turns of an episode",
           "1 for single-turn programs"),
    Metric("object_store/spill_rate", "bytes/s",
           "What Ray's object stores moved to disk lately, all nodes together",
           "0"),
    Metric("object_store/used", "share",
           "Share of Ray's object stores in use, all nodes together",
           "below 0.8; above, objects spill"),
    Metric("optim/grad_norm", "1",
           "Norm of the gradient before clipping",
           "steady; spikes above 10 x its usual level precede collapse"),
    Metric("optim/lr", "1",
           "Learning rate of this update",
           "follows learner.schedule"),
    Metric("optim/skipped", "steps",
           "Optimiser steps left out because the gradient was not finite",
           "0", high=0,
           remedy="lower learner.learning_rate; learner.max_nonfinite_updates in a row end the run"),
    Metric("perf/throughput", "samples/s",
           "Samples trained on per second of wall time",
           "steady"),
    Metric("perf/tokens_per_s", "tokens/s",
           "Sampled tokens trained on per second of wall time",
           "steady"),
    Metric("pool/<pool>/busy", "share",
           "Share of a pool's places in use: engines, concurrent calls of a reward, the buffer's thread, updates",
           "below 0.9; a reward that is always busy needs `launch.py scale RUN reward.<component>=N`"),
    Metric("pool/<pool>/members", "members",
           "Living members of a pool",
           "what the configuration, or `launch.py scale`, asks for"),
    Metric("pool/<pool>/queue_p50_s", "s",
           "Median time that work waited for a member of a pool in the last 30 s, what still waits included",
           "small beside time/total"),
    Metric("pool/<pool>/queue_p95_s", "s",
           "Time that one piece of work in twenty waited longer than for a member of a pool in the last 30 s",
           "small beside time/total"),
    Metric("pool/<pool>/waiting", "1",
           "Pieces of work that wait for a member: units for their weights, calls of a reward, captions for "
           "annotators, messages for the buffer's disk, complete groups for the learner",
           "steady; growth means that the pool is the bottleneck"),
    Metric("policy/clip_frac", "share",
           "Share of tokens whose probability ratio was clipped",
           "below 0.3", high=0.3,
           remedy="lower learner.learning_rate or max_staleness, or widen epsilon in learner.loss"),
    Metric("policy/entropy", "nats",
           "Entropy of the policy's next-token distribution, per sampled token",
           "above 0.01; a fast fall to 0 is collapse", low=0.01,
           remedy="lower learner.learning_rate, or raise rollout.temperature or learner.beta"),
    Metric("policy/kl_ref", "nats",
           "KL divergence from the reference policy, per token (k3 estimate)",
           "below 1", high=1,
           remedy="raise learner.beta or lower learner.learning_rate"),
    Metric("policy/loss", "reward",
           "Policy objective that the optimiser minimised",
           "no meaning by its level"),
    Metric("policy/ppo_kl", "nats",
           "KL divergence between the policy before the update and the weights in training, per token; "
           "0 with one optimiser step an update",
           "below 0.1", high=0.1,
           remedy="lower learner.learning_rate, learner.num_iterations or max_staleness"),
    Metric("response_length/clip_ratio", "share",
           "Share of completions cut off at max_completion_length",
           "below 0.1", high=0.1,
           remedy="raise rollout.max_completion_length"),
    Metric("response_length/mean", "tokens",
           "Sampled tokens of a completion",
           "changes slowly; growth without reward is padding"),
    Metric("reward/frac_zero_std", "share",
           "Share of groups whose samples all earned the same reward, so teach nothing",
           "below 0.8", high=0.8,
           remedy="tasks are too easy or too hard: change tasks.train, or raise batch.num_generations"),
    Metric("reward/mean", "reward",
           "Mean combined reward of the batch, over samples whose scores are valid; of fragments, per step",
           "rises, then levels off"),
    Metric("reward/std", "reward",
           "Standard deviation of the combined reward in the batch",
           "above 0: without spread there is nothing to learn"),
    Metric("reward/step_mean", "reward",
           "Mean combined reward of a step, where components give credit to steps",
           "rises with reward/mean; one that rises alone is being gamed"),
    Metric("reward/steps", "1",
           "Rewarded steps of a sample",
           "changes slowly; growth without reward/mean is padding"),
    Metric("rewards/<component>/abstained", "share",
           "Share of the scores since the last update that are no verdict, such as replies that cannot be read",
           "0"),
    Metric("rewards/<component>/batch_s", "s",
           "How long a component with when=batch took for this batch, at most",
           "small beside time/update; the learner waits for it"),
    Metric("rewards/<component>/failed", "share",
           "Share of the scores since the last update that are time-outs or errors",
           "0"),
    Metric("rewards/<component>/invalid", "samples",
           "Scores of the batch without a value (timeout, error, abstained); they are not trained on",
           "0", high=0.5,
           remedy="raise rewards.components.<component>.deadline_s or .replicas; the ledger holds the reasons"),
    Metric("rewards/<component>/learner/examples", "steps",
           "Steps that its last update learned from, those of merged steps among them",
           "a multiple of the solutions; few where shares of right ones rarely repeat and balance is true"),
    Metric("rewards/<component>/learner/lessons", "samples",
           "Samples that the learner of a reward component has learned from",
           "grows with the samples trained on"),
    Metric("rewards/<component>/learner/let_go", "samples",
           "Samples that it left out because too many waited",
           "0"),
    Metric("rewards/<component>/learner/lost", "samples",
           "Samples that a server took along when it died, since the beginning of the run; nobody learned from them",
           "0; after a server died, at most what it scored during one update of the learner"),
    Metric("rewards/<component>/learner/loss", "nats",
           "Loss of its last update, before its steps",
           "below log 2 = 0.69, which says nothing of two outcomes"),
    Metric("rewards/<component>/learner/outcome_accuracy", "share",
           "How often its reward said the outcome of samples that it had not learned from yet",
           "above the share of the commoner outcome"),
    Metric("rewards/<component>/learner/version", "versions",
           "Newest version of a reward component that learns online",
           "grows with the updates"),
    Metric("rewards/<component>/learner/waiting", "samples",
           "Samples that wait to be learned from",
           "below those of two updates"),
    Metric("rewards/<component>/mean", "reward",
           "Mean of one reward component, unweighted, over its valid scores",
           "moves with reward/mean; one that moves alone is being gamed"),
    Metric("rollout/errored", "samples",
           "Attempts that ended in an error since the last update",
           "0", high=0.5,
           remedy="read the reasons in the ledger; environments and tools fail here before they fail loudly"),
    Metric("rollout/ess", "share",
           "Effective sample size of the importance weights, as a share of the tokens",
           "above 0.5", low=0.5,
           remedy="lower max_staleness, or truncate the importance weights in learner.loss"),
    Metric("rollout/is_ratio/mean", "ratio",
           "Mean importance ratio of the learner's policy before the update over the engine's, per token",
           "0.9 to 1.1", low=0.9, high=1.1,
           remedy="lower max_staleness or learner.learning_rate; at max_staleness=0 use one model.network"),
    Metric("rollout/mismatch_kl/mean", "nats",
           "KL divergence between the engine's recorded and the learner's policy before the update, per token",
           "below 0.05, growing with age; at max_staleness=0 in float32 below 1e-6", high=0.05,
           remedy="lower max_staleness or learner.learning_rate; at max_staleness=0 use model.dtype=float32"),
    Metric("staleness/dropped", "samples",
           "Samples dropped for their age since the start, dispatched again",
           "0 under buffer.staleness_policy=wait"),
    Metric("staleness/max", "versions",
           "Largest age in the batch",
           "never above max_staleness"),
    Metric("staleness/mean", "versions",
           "Versions between the oldest token of a sample and the weights it trains",
           "below max_staleness"),
    Metric("staleness/spanning_share", "share",
           "Share of samples whose tokens come from more than one version of the weights",
           "grows with completion length; 0 in mode=sync"),
    Metric("time/total", "s",
           "Wall time from one update to the next",
           "steady"),
    Metric("time/update", "s",
           "The learner's computation on one batch",
           "steady; the larger part of time/total in a run that is bound by learning"),
    Metric("time/wait_for_batch", "s",
           "How long the learner waited for the batch of this update",
           "small beside time/update"),
    Metric("time/without_batch", "s",
           "How long the learner has waited by now for its next batch; 0 at an update",
           "below 2: longer waits are looked at every 2 s"),
    Metric("time/weight_sync", "s",
           "Publishing the new weights, until engines can take them",
           "small beside time/update"),
)  # fmt: skip

METRICS = {m.name: m for m in sorted((*_GLOSSARY, *DECISION_GLOSSARY), key=lambda metric: metric.name)}
"""Every documented metric, by name."""


@cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile("([^/]+)".join(re.escape(part) for part in re.split(r"<\w+>", name)))


def describe(name: str) -> Metric | None:
    """Return the glossary line of a metric as logged, or None for one that is not documented.

    `rewards/judge/mean` finds `rewards/<component>/mean`.
    """
    if name in METRICS:
        return METRICS[name]
    return next((metric for key, metric in METRICS.items() if _pattern(key).fullmatch(name)), None)


def matching(name: str, logged: Iterable[str]) -> dict[str, str]:
    """Return {logged name: what stands for the placeholder ("" without one)}, sorted by name."""
    found = ((key, _pattern(name).fullmatch(key)) for key in sorted(logged))
    return {key: "/".join(match.groups()) for key, match in found if match}


def exported(logged: str) -> tuple[str, str, dict[str, str]]:
    """Return (name, meaning, labels) under which monitoring knows a metric, by the name it is logged with.

    `rewards/judge/mean` is (headrace_rewards_mean, ..., {"component": "judge"}); what is not documented has no label.
    """
    metric = describe(logged)
    name = metric.name if metric else logged
    found = _pattern(name).fullmatch(logged)
    labels = dict(zip(re.findall(r"<(\w+)>", name), found.groups() if found else (), strict=True))
    words = re.findall(r"[A-Za-z0-9]+", re.sub(r"<\w+>", "", name))
    return "_".join(["headrace", *words]), metric.meaning if metric else "", labels


def glossary_markdown() -> str:
    """Return the glossary as a Markdown page."""
    head = "# Metrics\n\n| name | meaning | unit | healthy | otherwise |\n| --- | --- | --- | --- | --- |\n"
    rows = (f"| `{m.name}` | {m.meaning} | {m.unit} | {m.healthy} | {m.remedy} |" for m in METRICS.values())
    return head + "\n".join(rows) + "\n"
