"""What a step-wise reward model is trained on: the nodes of trees of solutions, and of trees with merged steps.

A step that repairs a fault of the step before looks fine in a merged node, which is one step then: a model that has
seen such nodes does not blame the repair.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

__all__ = ["Node", "Solution", "StepExample", "Tokens", "balanced", "compressed", "grown", "step_examples"]

Tokens = tuple[int, ...]
Solution = tuple[Sequence[Tokens], bool]
"""Its steps, at least one, and whether it came out right."""

CROWDED = 4
"""Children at which a parent gives one away."""
DEEP = 2
"""Depth from which on parents have a step of their own and a grandparent; the root, the question, is at 0."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A step, and how often what was tried from there came out right."""

    step: Tokens = ()
    """Its tokens; of the root those of the question."""
    children: tuple[Node, ...] = ()
    right: bool = False
    """Of a leaf: whether the answer is."""

    @property
    def leaves(self) -> tuple[int, int]:
        """(right ones, all) below, or itself."""
        if not self.children:
            return int(self.right), 1
        counts = [child.leaves for child in self.children]
        return sum(right for right, _ in counts), sum(all_ for _, all_ in counts)

    @property
    def score(self) -> float:
        """Share of right leaves: the Monte-Carlo value of the node."""
        right, count = self.leaves
        return right / count


@dataclass(frozen=True, kw_only=True)
class StepExample:
    """The steps up to and with one that is to be judged, and its value."""

    question: Tokens = ()
    steps: tuple[Tokens, ...]
    score: float


def grown(question: Tokens, solutions: Sequence[Solution]) -> Node:
    """Return the tree of solutions of a question: they share the steps that they begin with, and each has its leaf."""
    return Node(step=question, children=tuple(_grown(solutions, 0)))


def _grown(solutions: Sequence[Solution], depth: int) -> Iterator[Node]:
    shared: dict[Tokens, list[Solution]] = defaultdict(list)
    for steps, right in solutions:
        if len(steps) == depth + 1:
            yield Node(step=steps[depth], right=right)
        else:
            shared[steps[depth]].append((steps, right))
    for step, those in shared.items():
        yield Node(step=step, children=tuple(_grown(those, depth + 1)))


def step_examples(root: Node) -> Iterator[StepExample]:
    """Yield an example for each node but the root, parents first."""
    todo: list[tuple[tuple[Tokens, ...], Node]] = [((), root)]
    while todo:
        before, node = todo.pop(0)
        if node is not root:
            yield StepExample(question=root.step, steps=before, score=node.score)
        todo += [((*before, child.step), child) for child in node.children]


def compressed(root: Node, rng: random.Random, probability: float = 0.5) -> Node:
    """Return the tree after some crowded parents gave one child to their own parent, the two steps as one.

    A parent has at least 4 children, stands at depth 2 or deeper, and is chosen with `probability`. No leaf comes or
    goes, so scores above the grandparent, and its own, stay as they are.

    Source: hierarchical node compression of HRM, arXiv:2503.13551, and its construct_hrm_train_data.py.
    """
    return _compressed(root, 0, rng, probability)


def _compressed(node: Node, depth: int, rng: random.Random, probability: float) -> Node:
    kept: list[Node] = []
    merged: list[Node] = []
    for child in (_compressed(child, depth + 1, rng, probability) for child in node.children):
        if depth + 1 >= DEEP and len(child.children) >= CROWDED and rng.random() < probability:
            given = rng.randrange(len(child.children))
            moved = child.children[given]
            merged.append(replace(moved, step=child.step + moved.step))
            child = replace(child, children=child.children[:given] + child.children[given + 1 :])
        kept.append(child)
    return replace(node, children=(*kept, *merged))


def balanced(examples: Sequence[StepExample], rng: random.Random) -> list[StepExample]:
    """Return as many examples of each score as of the rarest one, at each number of steps; drawn without return.

    Source: construct_hrm_train_data.py of HRM, arXiv:2503.13551.
    """
    by_depth: dict[int, dict[float, list[StepExample]]] = defaultdict(lambda: defaultdict(list))
    for example in examples:
        by_depth[len(example.steps)][example.score].append(example)
    found: list[StepExample] = []
    for classes in by_depth.values():
        count = min(map(len, classes.values()))
        for members in classes.values():
            found += rng.sample(members, count)
    return found
