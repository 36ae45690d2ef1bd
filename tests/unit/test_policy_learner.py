"""What an update does to weights, metrics and records."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch
from learner_tables import MODEL, model_folder, random_table, trajectory, with_rewards

from buffers.digest import chain_digest
from buffers.trajectory import Kind
from configs.errors import ConfigError, DataError, RunError
from configs.language import WarmStartConfig
from configs.learning import LearnerConfig
from learners.batch import Item, read_batch
from learners.models.tokenizer import character_tokenizer
from learners.policy_learner import PolicyLearner
from learners.rank import LearnerRank
from learners.schedule import learning_rate
from learners.warm_start import supervised_batches, supervised_items

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def learner(folder):
    def build(**settings) -> PolicyLearner:
        return PolicyLearner(LearnerConfig(**{"learning_rate": 1e-2} | settings), MODEL, folder, total_updates=10)

    return build


def distance(a: PolicyLearner, b: PolicyLearner) -> float:
    """Return the largest difference of two learners' weights."""
    return max((a.weights()[n] - b.weights()[n]).abs().max().item() for n in a.weights())


def pair(rewards: tuple[float | None, float | None], **fields) -> pa.Table:
    """Return one group: prompt 2 3, answers 4 and 5."""
    kinds = [Kind.PROMPT, Kind.PROMPT, Kind.SAMPLED]
    rows = [trajectory(0, i, [2, 3, answer], kinds, **fields) for i, answer in enumerate((4, 5))]
    return with_rewards(rows, rewards)


def test_the_rewarded_answer_becomes_likelier(learner):
    policy = learner()

    @torch.no_grad()
    def advantage_of_four() -> float:
        hidden = policy.network.forward(torch.tensor([[2, 3]]), torch.arange(2)[None], None)
        logits = policy.network.logits(hidden[0, -1])
        return float(logits[4] - logits[5])

    before = advantage_of_four()
    for _ in range(3):
        policy.update(pair((1.0, 0.0)))
    assert advantage_of_four() > before + 0.01


def test_rows_in_another_order_give_the_same_bits(learner):
    table = random_table()
    shuffled = table.take(np.random.default_rng(1).permutation(len(table)))
    a, b = learner(), learner()
    a.update(table), b.update(shuffled)
    assert a.digest() == b.digest() and a.progress == b.progress


def test_micro_batches_change_nothing_but_rounding(learner):
    a, b = learner(), learner(micro_batch_tokens=8, logits_chunk=3)
    metrics = [policy.update(random_table()) for policy in (a, b)]
    assert distance(a, b) < 1e-5
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-4, abs=1e-6)


def test_an_invalid_reward_is_as_if_the_sample_were_not_there(learner):
    table = random_table(invalid=(1, 5))
    without = table.take([i for i in range(len(table)) if i not in (1, 5)])
    a, b = learner(), learner()
    a.update(table), b.update(without)
    assert a.digest() == b.digest()
    assert a.progress.trained_count == b.progress.trained_count + 2


def test_a_batch_without_any_valid_reward_changes_no_weight(learner):
    policy = learner()
    before = policy.digest()
    metrics = policy.update(pair((None, None)))
    assert policy.digest() == before and policy.version == 1 and metrics["optim/skipped"] == 0


def test_the_loss_mask_decides_which_sampled_tokens_learn(learner):
    def table(**fields) -> pa.Table:
        rows = [trajectory(0, i, [2, 3, 4 + i, 6], [0, 0, 1, 1]) for i in range(2)]
        for row in rows:
            for name, value in fields.items():
                setattr(row, name, np.array(value))
        return with_rewards(rows, [1.0, 0.0])

    masked, tool = learner(), learner()
    masked.update(table(loss_mask=[False, False, True, False]))
    tool.update(table(kinds=np.array([0, 0, 1, 2], np.uint8)))
    assert masked.digest() == tool.digest()
    everything = learner()
    everything.update(table())
    assert everything.digest() != masked.digest()


def test_later_steps_are_measured_against_the_weights_at_the_start(learner):
    one, several = learner(), learner(num_iterations=2, minibatches=2)
    assert one.update(random_table())["policy/ppo_kl"] == 0
    assert several.update(random_table())["policy/ppo_kl"] > 0


def test_the_decoupled_loss_needs_no_second_pass_for_a_single_step(learner):
    decoupled = learner(loss={"target": "decoupled_surrogate", "cap": 1.5})
    weighted = learner(loss={"target": "truncated_importance", "cap": 1.5})
    decoupled.update(random_table()), weighted.update(random_table())
    # At ratio 1 its gradient is the truncated-importance policy gradient.
    assert distance(decoupled, weighted) < 1e-6


def test_the_reference_holds_the_policy_back(learner):
    free, held = learner(), learner(beta=5.0)
    metrics = [held.update(random_table(seed)) for seed in range(3)]
    for seed in range(3):
        assert "policy/kl_ref" not in free.update(random_table(seed))
    assert metrics[0]["policy/kl_ref"] == pytest.approx(0, abs=1e-9)
    assert metrics[2]["policy/kl_ref"] > 0
    start = learner()
    assert distance(held, start) < distance(free, start)


def test_fresh_behaviour_gives_ratio_one_and_full_effective_sample_size(learner):
    policy = learner()
    with torch.no_grad():
        hidden = policy.network.forward(torch.tensor([[2, 3]]), torch.arange(2)[None], None)
        logprobs = policy.network.logits(hidden[0, -1]).log_softmax(-1)
    rows = [trajectory(0, i, [2, 3, t], [0, 0, 1], float(logprobs[t])) for i, t in enumerate((4, 5))]
    metrics = policy.update(with_rewards(rows, [1.0, 0.0]))
    assert metrics["rollout/is_ratio/mean"] == pytest.approx(1, abs=1e-6)
    assert metrics["rollout/ess"] == pytest.approx(1, abs=1e-6)
    assert metrics["rollout/mismatch_kl/mean"] == pytest.approx(0, abs=1e-6)


def test_temperature_is_part_of_the_policy(learner):
    hot = random_table()
    index = hot.schema.get_field_index("temperature")
    hot = hot.set_column(index, "temperature", pa.array([3.0] * len(hot), pa.float32()))
    assert learner().update(hot)["policy/entropy"] > learner().update(random_table())["policy/entropy"]


def test_a_step_that_is_not_finite_is_skipped_counted_and_ends_the_run_at_last(learner):
    policy = learner(max_nonfinite_updates=2)
    before = policy.digest()
    poison = pair((1.0, 0.0), logprob=-float("inf"))
    assert policy.update(poison)["optim/skipped"] == 1
    assert policy.digest() == before and policy.version == 1
    assert policy.update(pair((1.0, 0.0)))["optim/skipped"] == 0
    policy.update(poison)
    with pytest.raises(RunError, match="2 updates in a row"):
        policy.update(poison)


def test_progress_chains_the_ids_of_every_update(learner):
    policy, table = learner(), random_table()
    policy.update(table), policy.update(table)
    ids = table["id"].to_pylist()
    assert policy.progress.trained_digest == chain_digest(chain_digest("", ids), reversed(ids))
    assert (policy.version, policy.progress.trained_count) == (2, 2 * len(ids))


def test_gradients_are_clipped_to_the_norm_that_is_asked_for(learner):
    # With such a huge epsilon Adam's step is proportional to the gradient.
    a, b = (learner(max_grad_norm=n, adam_epsilon=1e6, learning_rate=1e6) for n in (1e-3, 2e-3))
    start = learner()
    norms = [policy.update(random_table())["optim/grad_norm"] for policy in (a, b)]
    assert norms[0] == norms[1] > 2e-3
    assert distance(b, start) == pytest.approx(2 * distance(a, start), rel=0.05)


def test_greedy_samples_and_missing_columns_are_refused_by_name(learner):
    table = random_table()
    index = table.schema.get_field_index("temperature")
    greedy = table.set_column(index, "temperature", pa.array([0.0] * len(table), pa.float32()))
    with pytest.raises(DataError, match=r"test:0:0:0\.0\.0: temperature is 0\.0"):
        learner().update(greedy)
    with pytest.raises(DataError, match="lacks columns kinds"):
        learner().update(table.drop_columns(["kinds"]))


@pytest.mark.parametrize("settings", [{"loss": {"target": "cliped"}}, {"advantage": {"target": "grpo"}}])
def test_unknown_components_are_refused(learner, settings):
    with pytest.raises(ConfigError, match="which is not known"):
        learner(**settings)


@dataclass(frozen=True)
class NeedsValues:
    """A user's loss, named by module and class, that wants a critic."""

    inputs: ClassVar[frozenset[str]] = frozenset({"current", "values"})
    coupling: ClassVar[str] = "token"


def test_a_loss_that_asks_for_more_than_a_policy_learner_has_is_refused(learner):
    with pytest.raises(ConfigError, match=r"learner\.loss asks for values"):
        learner(loss={"target": "test_policy_learner:NeedsValues"})


def test_rates_warm_up_and_then_follow_their_shape():
    def rates(shape: str) -> list[float]:
        return [round(learning_rate(1.0, u, shape=shape, warmup=2, total=6), 3) for u in range(7)]

    assert rates("constant") == [0.5, 1, 1, 1, 1, 1, 1]
    assert rates("linear") == [0.5, 1, 1, 0.75, 0.5, 0.25, 0]
    assert rates("cosine") == [0.5, 1, 1, 0.854, 0.5, 0.146, 0]
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        rates("cosin")


def test_a_batch_is_in_identity_order():
    batch = read_batch(random_table().take([5, 0, 3, 4, 2, 1]))
    assert batch.ids == sorted(batch.ids) and batch.groups.tolist() == [0, 0, 0, 1, 1, 1]


def examples() -> list[tuple[str, str]]:
    return [(str(a), str(9 - a)) for a in range(10)]


def digits() -> list[Item]:
    return supervised_items(character_tokenizer("0123456789"), examples())


def test_supervised_batches_visit_every_example_before_any_twice():
    items = digits()
    batches = list(supervised_batches(items, updates=5, batch_size=4, seed=0))
    firsts = [int(item.tokens[0]) for batch in batches for item in batch]
    assert sorted(firsts[:10]) == sorted(firsts[10:]) == list(range(2, 12))


def test_answers_are_learnt_with_their_end_of_sequence():
    first = digits()[0]
    assert first.tokens.tolist() == [2, 11, 1] and first.targets.tolist() == [1, 2]


async def test_a_warm_start_learns_the_answers_and_leaves_no_trace_in_the_optimiser(folder):
    host = LearnerRank(LearnerConfig(beta=0.1), MODEL, folder)
    phase = WarmStartConfig(updates=80, batch_size=10, learning_rate=2e-2, threads=1)
    _, first = await host.warm_start(examples(), replace(phase, updates=1))
    updates, last = await host.warm_start(examples(), phase)
    assert last < 0.3 < first and updates == 80
    assert (await host.warm_start(examples(), replace(phase, target_loss=0.3)))[0] < 80
    assert host.status()["version"] == 0
    state = await host.apply(lambda policy: policy.state())
    assert not state.optimiser and all(torch.equal(state.reference[n], w) for n, w in state.model.items())
    await host.close()


async def test_a_host_answers_while_it_learns_and_repeats_no_update(folder):
    host = LearnerRank(LearnerConfig(num_iterations=10), MODEL, folder)
    table = random_table()
    update = asyncio.ensure_future(host.update(table, 1))
    await asyncio.sleep(0.01)
    assert not update.done() and host.ping() and host.status()["version"] == 0
    metrics = await update
    assert await host.update(table, 1) == metrics and host.status()["version"] == 1
    with pytest.raises(RunError, match="cannot make version 3"):
        await host.update(table, 3)
    await host.close()
