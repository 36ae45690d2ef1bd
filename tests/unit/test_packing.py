"""Prefix sharing computes fewer tokens and the same gradients as padding."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learner_tables import MODEL, model_folder
from torch import Tensor, nn

from learners.batch import Item, split_groups
from learners.models.load import load_network
from learners.models.visibility import BLOCK, block_mask, dense_mask
from learners.packing import MicroBatch, pack
from learners.rows import Row, plan_rows
from learners.scorer import Scorer

VOCABULARY = 7


class TinyNetwork(nn.Module):
    """One attention layer in float64 with the interface of the real networks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.places = nn.Embedding(VOCABULARY, 8), nn.Embedding(64, 8)
        self.mix, self.head = nn.Linear(8, 24), nn.Linear(8, VOCABULARY)
        self.double()

    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.embed(tokens) + self.places(positions)
        query, key, value = self.mix(x).chunk(3, -1)
        return x + nn.functional.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden)


def item(tokens: list[int], targets: list[int], group: int = 0, temperature: float = 1.0) -> Item:
    return Item(np.array(tokens), np.array(targets), np.zeros(len(targets), np.float32), temperature, group)


def gradients(items: list[Item], micros: list[MicroBatch]) -> list[Tensor]:
    """Return the gradients of a loss that weighs every loss token differently, followed by its value."""
    network, total = TinyNetwork(), torch.zeros((), dtype=torch.float64)
    for micro in micros:
        grid = micro.grid(Scorer(network, 3)(micro)[0])
        for row, member in zip(grid, micro.members, strict=True):
            count = len(items[member].targets)
            total = total + (row[:count] * torch.arange(1, count + 1) * (member + 1)).sum()
    total.backward()
    return [p.grad for p in network.parameters()] + [total.detach()]


def assert_same(items: list[Item], **settings_) -> None:
    everyone = range(len(items))
    padded = gradients(items, pack(items, everyone, budget=10_000, share=False))
    for got, want in zip(gradients(items, pack(items, everyone, **settings_)), padded, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


EXAMPLE = [item([1, 2, 3, 4, 0], [2, 3, 4]), item([1, 2, 3, 5, 6, 0], [2, 3, 4, 5]), item([1, 2, 0, 6], [2, 3])]


def test_what_sequences_have_in_common_is_computed_once():
    (row,) = plan_rows(EXAMPLE, range(3))
    assert row.tokens == [1, 2, 3, 4, 5, 6, 0]
    assert row.depths == [0, 1, 2, 3, 3, 4, 2]
    assert row.paths[1].tolist() == [0, 1, 2, 4, 5]


def test_a_token_sees_its_ancestors_and_itself():
    (micro,) = pack(EXAMPLE, range(3), budget=100)
    seen = [np.flatnonzero(line).tolist() for line in micro.mask[0].numpy()]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 4], [0, 1, 2, 4, 5], [0, 1, 6]]


def test_equal_samples_cost_one_forward_pass_and_need_no_mask():
    items = [item([1, 2, 3, 4], [2, 3])] * 5
    (micro,) = pack(items, range(5), budget=100)
    assert micro.tokens.tolist() == [[1, 2, 3]] and micro.mask is None
    assert_same(items, budget=100)


def test_rows_in_one_follow_each_other_and_see_only_themselves():
    items = [*EXAMPLE, item([4, 5, 6], [2], group=1)]
    (micro,) = pack(items, range(4), budget=300, varlen=True)
    assert micro.tokens.shape == (1, 128) and micro.tokens[0, :9].tolist() == [4, 5, 1, 2, 3, 4, 5, 6, 0]
    assert micro.positions[0, :9].tolist() == [0, 1, 0, 1, 2, 3, 3, 4, 2]
    seen = [np.flatnonzero(line).tolist() for line in micro.mask[0].numpy()]
    assert seen[:4] == [[0], [0, 1], [2], [2, 3]] and seen[8:11] == [[2, 3, 8], [9], [10]]
    assert_same(items, budget=300, varlen=True)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # a CPU has no kernel to compile
@pytest.mark.parametrize("kind", ["native", "transformers"])
def test_attention_in_blocks_equals_the_dense_mask(tmp_path, kind):
    network = load_network(replace(MODEL, network=kind), model_folder(tmp_path / "model"))
    generator = np.random.default_rng(1)
    row = Row()
    for member in range(12):
        tokens = generator.integers(2, 4, 40).tolist()
        row.add(member, tokens, row.common(tokens))
    length = 4 * BLOCK
    assert 2 * BLOCK < len(row) < length and row.branches
    tokens, depths = torch.zeros(2, 1, length, dtype=torch.int64)
    tokens[0, : len(row)], depths[0, : len(row)] = torch.tensor(row.tokens), torch.tensor(row.depths)
    enter = torch.arange(length)[None].repeat(2, 1)
    enter[1] += 1
    enter[:, : len(row)] = torch.tensor(row.nesting())
    intervals = enter[:1], enter[1:]
    with torch.no_grad():
        dense, blocks = (network.forward(tokens, depths, mask(*intervals)) for mask in (dense_mask, block_mask))
        causal = network.forward(tokens, depths)
    torch.testing.assert_close(blocks, dense, rtol=1e-5, atol=1e-5)
    assert (causal - dense).abs().max() > 0.1


sequences = st.lists(
    st.tuples(
        st.lists(st.integers(0, 2), min_size=2, max_size=9),  # few tokens, so that prefixes often agree
        st.sets(st.integers(1, 8), min_size=1),
        st.integers(0, 1),
        st.sampled_from([1.0, 0.7]),
    ),
    min_size=1,
    max_size=7,
)


@settings(max_examples=60, deadline=None)
@given(sequences, st.sampled_from(["token", "group", "batch"]), st.integers(1, 60), st.booleans())
def test_gradients_equal_those_of_padding(rows, coupling, budget, varlen):
    items = []
    for tokens, targets, group, temperature in sorted(rows, key=lambda row: row[2]):
        inside = sorted(t for t in targets if t < len(tokens)) or [len(tokens) - 1]
        items.append(item(tokens, inside, group, temperature))
    assert_same(items, budget=budget, coupling=coupling, varlen=varlen)


def test_tool_tokens_inside_a_completion_are_context_without_loss():
    # Two turns: tokens 3 and 4 are a tool's answer. The second sample shares the tool call as well.
    assert_same([item([1, 2, 3, 4, 5], [1, 4]), item([1, 2, 3, 4, 6], [1, 4])], budget=100)


def test_rows_stop_growing_where_attention_would_cost_more_than_it_saves():
    unlike = [item([0] + [i] * 100, [100]) for i in range(1, 6)]
    assert [list(row.paths) for row in plan_rows(unlike, range(5))] == [[0, 1], [2, 3], [4]]


def test_a_long_common_prompt_is_worth_a_long_row():
    items = [item([0] * 200 + [i] * 50, [249]) for i in range(1, 6)]
    assert [list(row.paths) for row in plan_rows(items, range(5))] == [[0, 1, 2, 3], [4]]


def test_groups_do_not_share_rows():
    items = [item([1, 2, 3], [2], group=0), item([1, 2, 4], [2], group=1)]
    assert len(plan_rows(items, range(2))) == 2


def many() -> list[Item]:
    generator = np.random.default_rng(0)
    shapes = [(group, int(generator.integers(3, 9))) for group in range(6) for _ in range(3)]
    # Each sequence begins with a token of its own, so that nothing is shared.
    return [item([i % 7] * n, [n - 1], group) for i, (group, n) in enumerate(shapes)]


def test_micro_batches_stay_within_the_budget_and_hold_every_sequence_once():
    items = many()
    micros = pack(items, range(len(items)), budget=20)
    assert all(m.tokens.numel() <= 20 for m in micros)
    assert all(m.members == sorted(m.members) for m in micros)
    assert sorted(i for m in micros for i in m.members) == list(range(len(items)))
    assert len(micros) < len(items)


@pytest.mark.parametrize("coupling", ["group", "pair"])
def test_a_coupled_set_is_never_parted(coupling):
    items = many()
    micros = pack(items, range(len(items)), budget=1, coupling=coupling)
    assert [[items[i].group for i in m.members] for m in micros] == [[g] * 3 for g in by_length(items)]


def by_length(items: list[Item]) -> list[int]:
    """Return the groups, those with the shortest longest sequence first."""
    longest: dict[int, int] = {}
    for i in items:
        longest[i.group] = max(longest.get(i.group, 0), len(i.tokens))
    return sorted(longest, key=lambda group: longest[group])


def test_the_whole_batch_can_be_one_set():
    items = many()
    assert len(pack(items, range(len(items)), budget=1, coupling="batch")) == 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), max_size=30), st.integers(1, 4))
def test_shards_are_contiguous_and_never_part_a_group(rows, parts):
    groups = np.array(sorted(g for g, _ in rows), dtype=np.int64)
    cuts = split_groups(range(len(rows)), groups, [w for _, w in rows], parts)
    assert [i for cut in cuts for i in cut] == list(range(len(rows)))
    owners = [{int(groups[i]) for i in cut} for cut in cuts]
    assert all(not a & b for n, a in enumerate(owners) for b in owners[n + 1 :])


def test_shards_of_equal_groups_are_equal():
    groups = np.repeat(np.arange(8), 2)
    cuts = split_groups(range(16), groups, [1.0] * 16, 4)
    assert [len(cut) for cut in cuts] == [4] * 4
    assert all(a[-1] < b[0] for a, b in pairwise(cuts))
