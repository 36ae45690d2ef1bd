"""Process rewards: what single steps of a completion are worth.

    tokens --steps.py--> spans --a model--> one value per span --shaping.py--> step rewards
                                               `--aggregation.py--> the score's value

A *step* is a stretch of sampled tokens that ends where a separator ends: a line, a tag, a pattern, a whole
turn. Models are hosted by the components themselves, from model folders, and run the same networks as
learner and engine. What trains online (`prime`) has a learner actor beside its scoring servers, see
`rewards.online`.

To add a way of splitting or of aggregating, write a function and name it in STEPS or AGGREGATES.
"""

from __future__ import annotations

__all__ = ["AGGREGATES", "STEPS"]

STEPS = {
    "lines": "rewards.process.steps:Lines",
    "pattern": "rewards.process.steps:Pattern",
    "tags": "rewards.process.steps:Tags",
    "tokens": "rewards.process.steps:Tokens",
    "turns": "rewards.process.steps:Turns",
}

AGGREGATES = {
    "last": "rewards.process.aggregation:last",
    "mean": "rewards.process.aggregation:mean",
    "minimum": "rewards.process.aggregation:minimum",
    "product": "rewards.process.aggregation:product",
    "total": "rewards.process.aggregation:total",
}
