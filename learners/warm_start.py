"""The supervised phase before RL: maximum likelihood on reference answers.

Dimensions: E examples.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Any, Protocol

import numpy as np

from configs.errors import DataError
from configs.language import WarmStartConfig
from learners.batch import Item
from learners.models.tokenizer import encode
from learners.schedule import learning_rate

__all__ = ["supervised_batches", "supervised_items", "warm_start"]

WARMUP_SHARE = 0.03
SMOOTHED = 4
"""Batches whose mean loss is compared with the target."""


class Supervised(Protocol):
    """What the phase needs of a learner."""

    def reset_optimiser(self) -> None: ...
    def supervised_update(self, items: Sequence[Item], rate: float) -> float: ...
    def set_reference(self) -> None: ...


def supervised_items(tokenizer: Any, examples: Sequence[tuple[str, str]]) -> list[Item]:
    """Return (prompt, answer) texts as sequences whose loss tokens are the answer and the eos token.

    Raises:
      DataError: there is no example, or one has an empty prompt.
    """
    if not examples:
        raise DataError("warm start: there are no examples; set warm_start.updates=0 or give tasks with answers")
    items = []
    for group, (prompt, answer) in enumerate(examples):
        head, tail = encode(tokenizer, prompt), (*encode(tokenizer, answer), tokenizer.eos_token_id)
        if not head:
            raise DataError(f"warm start: example {group} has an empty prompt; nothing would predict its first token")
        targets = np.arange(len(head), len(head) + len(tail))
        items.append(Item(np.array([*head, *tail], np.int64), targets, np.zeros(len(tail), np.float32), 1.0, group))
    return items


def supervised_batches(items: Sequence[Item], *, updates: int, batch_size: int, seed: int) -> Iterator[list[Item]]:
    """Yield `updates` batches that go through all examples in a new order each epoch; the seed fixes the order."""
    generator = np.random.default_rng(seed)
    queue: list[int] = []
    for _ in range(updates):
        while len(queue) < batch_size:
            queue += generator.permutation(len(items)).tolist()
        yield [items[i] for i in queue[:batch_size]]
        del queue[:batch_size]


def warm_start(
    learner: Supervised,
    items: Sequence[Item],
    phase: WarmStartConfig,
    *,
    seed: int = 0,
    report: Callable[[int, float], None] = lambda updates, loss: None,
) -> tuple[int, float]:
    """Train on examples with moments of their own, then make the result the reference policy.

    The learning rate falls by a cosine to 0 at `phase.updates`, after a short linear rise. `report` is told
    the updates so far and the last loss.

    Returns:
      (updates made, mean nats per token of the last batches before their steps; nan without updates).
    """
    updates = phase.updates
    learner.reset_optimiser()
    recent: deque[float] = deque(maxlen=SMOOTHED)
    made = 0
    for batch in supervised_batches(items, updates=updates, batch_size=phase.batch_size, seed=seed):
        warmup = int(updates * WARMUP_SHARE)
        rate = learning_rate(phase.learning_rate, made, shape="cosine", warmup=warmup, total=updates)
        recent.append(learner.supervised_update(batch, rate))
        made += 1
        report(made, recent[-1])
        if len(recent) == SMOOTHED and fmean(recent) <= phase.target_loss:
            break
    learner.reset_optimiser()
    learner.set_reference()
    return made, fmean(recent) if recent else float("nan")
