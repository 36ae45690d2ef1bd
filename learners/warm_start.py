"""The supervised phase before RL: maximum likelihood on reference answers.

Dimensions: E examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from configs.errors import DataError
from learners.batch import Item
from learners.models.tokenizer import encode
from learners.optimiser import Optimiser
from learners.schedule import learning_rate

__all__ = ["supervised_batches", "supervised_items", "warm_start"]

WARMUP_SHARE = 0.03


class Supervised(Protocol):
    """What the phase needs of a learner."""

    def new_optimiser(self) -> Optimiser: ...
    def supervised_update(self, items: Sequence[Item], optimiser: Optimiser, rate: float) -> float: ...
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
    learner: Supervised, items: Sequence[Item], *, updates: int, batch_size: int, rate: float, seed: int = 0
) -> float:
    """Train on examples with an AdamW of its own, then make the result the reference policy.

    Args:
      rate: peak learning rate; cosine to 0 after a short linear rise.

    Returns:
      Mean nats per token of the last batch, before its step; nan without updates.
    """
    optimiser, loss = learner.new_optimiser(), float("nan")
    for update, batch in enumerate(supervised_batches(items, updates=updates, batch_size=batch_size, seed=seed)):
        warmup = int(updates * WARMUP_SHARE)
        loss = learner.supervised_update(
            batch, optimiser, learning_rate(rate, update, shape="cosine", warmup=warmup, total=updates)
        )
    learner.set_reference()
    return loss
