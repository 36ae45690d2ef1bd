"""Training examples of search trees, against the figures of the catalogue and what must not change."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from rewards.process.trees import Node, StepExample, Tokens, balanced, compressed, grown, step_examples


def named(text: str) -> Tokens:
    return tuple(map(ord, text))


def leaf(step: str, right: int) -> Node:
    return Node(step=named(step), right=bool(right))


def crowded() -> Node:
    """Return root -> G -> P -> four leaves, of which two are right."""
    leaves = tuple(leaf(f"l{i}", i < 2) for i in range(4))
    return Node(children=(Node(step=named("G"), children=(Node(step=named("P"), children=leaves),)),))


def trees(depth: int = 4) -> st.SearchStrategy[Node]:
    if depth == 0:
        return st.builds(lambda right: Node(step=named("s"), right=right), st.booleans())
    children = st.lists(trees(depth - 1), max_size=5).map(tuple)
    return st.builds(lambda c, right: Node(step=named("s"), children=c, right=right), children, st.booleans())


def paths(node: Node, before: Tokens = ()) -> Iterator[tuple[Tokens, bool]]:
    text = before + node.step
    if not node.children:
        yield text, node.right
    for child in node.children:
        yield from paths(child, text)


def test_scores_are_those_of_the_catalogue():
    root = Node(
        children=(
            Node(step=named("A"), children=(leaf("a", 1), leaf("b", 0))),
            Node(step=named("B"), children=(leaf("c", 1), leaf("d", 1))),
        )
    )
    assert (root.score, [child.score for child in root.children]) == (0.75, [0.5, 1.0])
    assert [(e.steps, e.score) for e in step_examples(root)][:3] == [
        ((named("A"),), 0.5),
        ((named("B"),), 1.0),
        ((named("A"), named("a")), 1.0),
    ]


def test_solutions_share_what_they_begin_with_and_each_ends_in_a_leaf_of_its_own():
    a, b, c, d, e = ((number,) for number in range(5))
    tree = grown((9,), [((a, b), True), ((a, c), False), ((a, c), False), ((d,), True), ((a, c, e), True)])
    assert (tree.step, tree.leaves) == ((9,), (3, 5))
    found = [(one.steps, one.score) for one in step_examples(tree)]
    assert found[:2] == [((d,), 1.0), ((a,), 0.5)]
    assert sorted(found[2:]) == [((a, b), 1.0), ((a, c), 0.0), ((a, c), 0.0), ((a, c), 1.0), ((a, c, e), 1.0)]
    assert {one.question for one in step_examples(tree)} == {(9,)}


def test_a_crowded_parent_gives_one_child_to_its_own_parent_as_in_the_catalogue():
    class First(random.Random):
        def randrange(self, *_: int) -> int:  # type: ignore[override]
            return 0

    (grandparent,) = compressed(crowded(), First(0), probability=1.0).children
    parent, merged = grandparent.children
    assert (parent.step, parent.score, len(parent.children)) == (named("P"), 1 / 3, 3)
    assert (merged.step, merged.score, merged.children) == (named("Pl0"), 1.0, ())
    assert (grandparent.score, grandparent.leaves) == (0.5, (2, 4))


def test_who_is_not_crowded_not_deep_or_not_chosen_stays():
    flat = Node(children=(Node(step=named("P"), children=tuple(leaf(str(i), 0) for i in range(5))),))
    three = Node(children=(Node(step=named("G"), children=(Node(step=named("P"), children=(leaf("a", 1),) * 3),)),))
    for tree in (flat, three):
        assert compressed(tree, random.Random(0), probability=1.0) == tree
    assert compressed(crowded(), random.Random(0), probability=0.0) == crowded()


@given(trees(), st.integers(0, 99))
def test_merging_changes_no_text_and_no_leaf(tree: Node, seed: int):
    found = compressed(tree, random.Random(seed))
    assert found.score == tree.score
    assert sorted(paths(found)) == sorted(paths(tree))


def test_about_half_of_the_crowded_parents_are_chosen():
    found = [compressed(crowded(), random.Random(seed)) != crowded() for seed in range(200)]
    assert 70 <= sum(found) <= 130  # 100 expected, deviation 7


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0.0, 0.5, 1.0])), max_size=40), st.integers(0, 9))
def test_every_score_is_equally_frequent_at_each_depth(rows: list[tuple[int, float]], seed: int):
    examples = [StepExample(steps=((i,),) * depth, score=score) for i, (depth, score) in enumerate(rows)]
    found = balanced(examples, random.Random(seed))
    counts = Counter((len(e.steps), e.score) for e in found)
    before = Counter((len(e.steps), e.score) for e in examples)
    for (depth, _), count in counts.items():
        assert count == min(n for (d, _), n in before.items() if d == depth)
    assert counts.keys() == before.keys() and len(set(found)) == len(found)
