"""The decision learner as a plain object: what an update changes, remembers and refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from decision_tables import CONTINUOUS, MIXED, VECTOR, configuration, random_fragment, random_observations, random_table

from buffers.environment_spec import ArraySpec
from buffers.fragment import fragments_to_table, read_fragments
from configs.errors import ConfigError, DataError, RunError
from learners.checkpoint import load_checkpoint, save_checkpoint
from learners.decision_batch import batch_of, starts_of
from learners.decision_learner import DecisionLearner
from learners.decision_plan import passes, plan_steps, share
from learners.decision_targets import Targets, estimate
from learners.decision_unroll import Unroll
from learners.models.decision import build_policy
from learners.models.decision.distributions import Categoricals
from learners.returns.base import Steps
from learners.returns.vtrace import VTrace, vtrace

PPO = (
    "learner.actor_critic.returns.target=gae",
    "learner.num_iterations=3",
    "learner.minibatches=2",
    "learner.actor_critic.value_clip=0.2",
)
IMPACT = ("learner.loss.target=impact", "learner.actor_critic.target_every=2")
MEMORY = ("policy={target: mlp, core: {target: gru, size: 8}}",)
EVERYTHING = (
    *PPO, *IMPACT, *MEMORY, "learner.actor_critic.normalise_observations=true",
    "learner.actor_critic.normalise_returns=true", "learner.actor_critic.burn_in=2",
)  # fmt: skip


def learner(*overrides: str, spec=VECTOR, **settings) -> DecisionLearner:
    return DecisionLearner(configuration("learner.learning_rate=0.01", *overrides), spec, total_updates=10, **settings)


def memory_of(found: DecisionLearner) -> int:
    return found.network.state_size


def train(found: DecisionLearner, updates: int, first: int = 0, spec=VECTOR) -> list[dict[str, float]]:
    seeds = range(first, first + updates)
    return [found.update(random_table(spec, seed=seed, state=memory_of(found))) for seed in seeds]


def distance(a: DecisionLearner, b: DecisionLearner) -> float:
    """Return the largest difference of two learners' weights."""
    return max(float((a.weights()[n] - b.weights()[n]).abs().max()) for n in a.network.state_dict() if "bound" not in n)


@pytest.mark.parametrize("settings", [(), PPO, EVERYTHING], ids=["vtrace", "ppo", "everything"])
def test_rows_in_another_order_give_the_same_bits(settings):
    a, b = learner(*settings), learner(*settings)
    table = random_table(VECTOR, state=memory_of(a))
    shuffled = table.take(np.random.default_rng(1).permutation(len(table)))
    assert a.update(table) == b.update(shuffled)
    assert a.digest() == b.digest() and a.progress == b.progress


@pytest.mark.parametrize("settings", [(), PPO, EVERYTHING], ids=["vtrace", "ppo", "everything"])
def test_a_checkpoint_goes_on_bit_for_bit(settings, tmp_path):
    straight, first = learner(*settings), learner(*settings)
    train(straight, 5), train(first, 3)
    (tmp_path / "model").mkdir()
    saved = save_checkpoint(tmp_path / "all", first.state(), tmp_path / "model")
    second = learner(*settings, seed=9)
    second.load(load_checkpoint(saved.path))
    assert second.digest() == first.digest() and second.version == 3
    second._seed = 0  # weights of another seed were overwritten; the shuffling is keyed by the run's own
    again = train(second, 2, first=3)
    assert second.digest() == straight.digest() and second.progress == straight.progress
    assert all(np.isfinite(list(metrics.values())).all() for metrics in again)


def test_a_checkpoint_of_another_policy_is_refused():
    with pytest.raises(DataError, match="model differs in"):
        learner("policy.hidden=[8]").load(learner().state())
    with pytest.raises(DataError, match="reference differs in"):
        learner(*IMPACT).load(learner().state())


@pytest.mark.parametrize("settings", [(), PPO, EVERYTHING], ids=["vtrace", "ppo", "everything"])
def test_passes_of_few_fragments_change_nothing_but_rounding(settings):
    a, b = learner(*settings), learner(*settings, "learner.micro_batch_tokens=64")
    b._config.micro_batch_tokens = 13  # two fragments of six steps
    metrics = [found.update(random_table(VECTOR, state=memory_of(a))) for found in (a, b)]
    assert distance(a, b) < 1e-5
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(("spec", "policy"), [(VECTOR, "mlp"), (MIXED, "cnn")], ids=["mlp", "cnn"])
def test_the_published_weights_are_the_acting_networks_state(spec, policy):
    found = learner("learner.actor_critic.normalise_observations=true", f"policy.target={policy}", spec=spec)
    train(found, 2, spec=spec)
    acting = build_policy(policy, spec, seed=5)
    acting.load_state_dict(found.weights())
    seen = {n: torch.from_numpy(a) for n, a in random_observations(spec, np.random.default_rng(0), 4).items()}
    for a, b in zip(acting.step(seen, torch.zeros(4, 0)), found.network.step(seen, torch.zeros(4, 0)), strict=True):
        assert torch.equal(a, b)
    (count,) = (tensor for name, tensor in found.weights().items() if name.endswith("normaliser.count"))
    assert float(count) == 2 * 8 * 6


def test_the_rewarded_action_becomes_likelier():
    found = learner("learner.actor_critic.entropy_coefficient=0")
    for update in range(20):
        fragments = [random_fragment(VECTOR, n, seed=update) for n in range(8)]
        rewarded = [
            replace(f, rewards=(f.actions[:, 0] == 2).astype(np.float32), logprobs=np.full(6, -np.log(4), np.float32))
            for f in fragments
        ]
        found.update(fragments_to_table(VECTOR, rewarded))
    seen = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    parameters, _, _ = found.network.step({"position": seen}, torch.zeros(50, 0))
    assert parameters.softmax(-1)[:, 2].mean() > 0.33


def blind(table_of, *settings: str) -> tuple[DecisionLearner, DecisionLearner]:
    """Return learners after an update each, on tables that must not differ to them."""
    a, b = learner(*settings), learner(*settings)
    a.update(table_of(0.0)), b.update(table_of(1e6))
    return a, b


@pytest.mark.parametrize("settings", [(), PPO, IMPACT], ids=["vtrace", "ppo", "impact"])
def test_what_was_recorded_at_steps_that_decided_nothing_is_not_learned_from(settings):
    def table_of(garbage: float):
        mask = np.array([True, True, True, False, True, True])
        ends = np.array([False, False, True, False, False, False])
        rng = np.random.default_rng(0)
        rewards, logprobs = rng.normal(size=(2, 6)).astype(np.float32)
        rewards[3], logprobs[3] = garbage, garbage
        fields = {
            "mask": mask,
            "rewards": rewards,
            "logprobs": -abs(logprobs),
            "terminated": ends,
            "truncated": ~mask & mask,
        }
        return fragments_to_table(VECTOR, [random_fragment(VECTOR, n, **fields) for n in range(4)])

    a, b = blind(table_of, *settings, "learner.actor_critic.normalise_returns=true")
    assert a.digest() == b.digest()


def test_an_episode_starts_after_an_end_and_after_a_backends_own_reset():
    ended = np.array([[False, True, False, False], [False, False, False, True]])
    decided = np.array([[True, True, False, True], [False, True, True, True]])
    assert starts_of(ended, decided).astype(int).tolist() == [[0, 0, 1, 1, 0], [0, 1, 0, 0, 1]]


def test_steps_of_the_burn_in_are_not_counted():
    found = learner(*MEMORY, "learner.actor_critic.burn_in=2")
    fragments = read_fragments(VECTOR, random_table(VECTOR, state=8))
    batch = batch_of(fragments, fragments.rewards, burn_in=2, device="cpu")
    assert batch.mask.sum(0).tolist() == [0, 0, 8, 8, 8, 8] and batch.decided.all()
    metrics = found.update(random_table(VECTOR, state=8))
    assert metrics["policy/entropy"] == pytest.approx(np.log(4), abs=1e-3)  # a mean over the steps that count


@pytest.mark.parametrize("settings", [("policy.target=mlp",), MEMORY], ids=["mlp", "gru"])
def test_a_truncated_step_is_followed_by_the_value_of_what_was_really_seen(settings):
    network = learner(*settings).network
    fragments = read_fragments(VECTOR, random_table(VECTOR, 6, state=network.state_size))
    batch = batch_of(fragments, fragments.rewards, burn_in=0, device="cpu")
    found = Unroll(network).final_values(batch)
    at = np.argwhere(fragments.truncated)
    assert len(found) == len(at) > 2
    for k, (b, t) in enumerate(at.tolist()):
        state, ended = batch.state[b : b + 1], fragments.terminated | fragments.truncated
        for s in range(t + 1):
            if s and ended[b, s - 1]:
                state = torch.zeros_like(state)
            _, _, state = network.step({n: v[b, s][None] for n, v in batch.observations.items()}, state)
        value = network.step({n: v[k][None] for n, v in batch.finals.items()}, state)[1]
        torch.testing.assert_close(found[k], value[0])
    picked = Unroll(network).final_values(batch.select([1, 4]))
    torch.testing.assert_close(picked, found[np.isin(at[:, 0], [1, 4])])


@pytest.mark.parametrize("slow", [False, True])
def test_targets_take_the_ratio_of_the_target_network_and_the_values_of_final_observations(slow):
    fragments = read_fragments(VECTOR, random_table(VECTOR, 5))
    batch = batch_of(fragments, fragments.rewards, burn_in=0, device="cpu")
    generator = torch.Generator().manual_seed(0)
    parameters, lagged = torch.randn(2, 5, 6, 4, generator=generator).unbind()
    values, finals = torch.randn(5, 7, generator=generator), torch.arange(float(fragments.truncated.sum()))
    found = estimate(
        batch, (parameters, values), finals, distribution=Categoricals([4]), returns=VTrace(rho_bar=3, c_bar=2),
        gamma=0.9, target=lagged if slow else None,
    )  # fmt: skip
    chosen = batch.actions.long()
    both = (parameters, lagged if slow else parameters)
    proximal, corrected = (p.log_softmax(-1).gather(-1, chosen)[..., 0] for p in both)
    ended = batch.terminated | batch.truncated
    following = values[:, 1:].clone()
    following[batch.truncated] = finals
    following[batch.terminated] = 0.0
    steps = Steps(
        log_ratios=corrected - batch.behaviour, rewards=batch.rewards, values=values[:, :-1], following=following,
        continues=~ended, mask=torch.ones_like(ended),
    )  # fmt: skip
    want = vtrace(steps, gamma=0.9, rho_bar=3, c_bar=2, lam=1)
    torch.testing.assert_close(found.returns, want.targets)
    torch.testing.assert_close(found.advantages, want.advantages)
    torch.testing.assert_close(found.proximal, proximal)
    torch.testing.assert_close(found.target, corrected)


def test_the_target_network_follows_every_few_updates():
    found = learner(*IMPACT)

    def lag() -> float:
        target = found.state().reference
        return max(float((target[n] - w).abs().max()) for n, w in found.weights().items() if "bound" not in n)

    lags = []
    for seed in range(4):
        train(found, 1, first=seed)
        lags.append(lag() > 0)
    assert lags == [True, False, True, False]


def test_intrinsic_rewards_are_trained_on_and_told_apart_in_the_metrics():
    table = random_table(VECTOR, 2)
    given = pa.array([[1.0] * 6, None], pa.list_(pa.float32()))
    scored = table.set_column(table.column_names.index("intrinsic_rewards"), "intrinsic_rewards", given)
    plain, rewarded = learner(), learner()
    a, b = plain.update(table), rewarded.update(scored)
    assert "reward/intrinsic_mean" not in a and a["reward/intrinsic_coverage"] == 0.0
    assert b["reward/intrinsic_mean"] == 1.0 and b["reward/intrinsic_coverage"] == 0.5
    assert b["reward/mean"] == pytest.approx(a["reward/mean"] + 0.1 / 2) and plain.digest() != rewarded.digest()


def test_normalised_returns_do_not_depend_on_the_scale_of_rewards():
    def table_of(scale: float, seed: int):
        fragments = [random_fragment(VECTOR, n, seed=seed) for n in range(8)]
        return fragments_to_table(VECTOR, [replace(f, rewards=f.rewards * scale) for f in fragments])

    a, b = (learner("learner.actor_critic.normalise_returns=true") for _ in range(2))
    for seed in range(3):
        one, large = a.update(table_of(1.0, seed)), b.update(table_of(1024.0, seed))
        assert large["reward/scale"] == pytest.approx(1024 * one["reward/scale"], rel=1e-4)
    assert distance(a, b) < 1e-3


def test_normalised_advantages_do_not_depend_on_their_level():
    mask = torch.tensor([[True, True, False], [True, True, False]])
    numbers = torch.tensor([[1.0, 2.0, 50.0], [3.0, 6.0, -50.0]])
    targets = Targets(proximal=numbers, target=numbers, values=numbers, returns=numbers, advantages=numbers)
    found = targets.normalised(mask).advantages
    spread = np.std([1, 2, 3, 6])
    assert found[mask].tolist() == pytest.approx(list((np.array([1, 2, 3, 6]) - 3) / spread))


def test_metrics_of_an_update_are_finite_and_named():
    (metrics,) = train(learner(*EVERYTHING), 1)
    assert np.isfinite(list(metrics.values())).all()
    assert {
        "advantage/std", "optim/grad_norm", "optim/lr", "optim/skipped", "policy/clip_frac", "policy/entropy",
        "policy/loss", "policy/ppo_kl", "returns/mean", "reward/extrinsic_mean", "reward/intrinsic_coverage",
        "reward/mean", "reward/scale", "rollout/ess", "rollout/is_ratio/mean", "rollout/mismatch_kl/mean",
        "value/explained_variance", "value/loss", "value/mean",
    } == set(metrics)  # fmt: skip


def test_the_critic_that_has_learned_explains_the_returns():
    found = learner("learner.num_iterations=10", "learner.actor_critic.gamma=0")
    for seed in range(15):
        fragments = [random_fragment(VECTOR, n, seed=seed) for n in range(8)]
        seen = [replace(f, rewards=f.observations["position"][:-1, 0]) for f in fragments]
        metrics = found.update(fragments_to_table(VECTOR, seen))
    assert metrics["value/explained_variance"] > 0.8


@pytest.mark.parametrize("spec", [MIXED, CONTINUOUS], ids=lambda spec: spec.name)
def test_other_actions_and_observations_are_learned_from(spec):
    found = learner("policy.target=cnn" if spec is MIXED else "policy.target=mlp", spec=spec)
    before = found.digest()
    metrics = train(found, 2, spec=spec)
    assert found.digest() != before and metrics[1]["optim/skipped"] == 0


def test_updates_that_keep_failing_end_the_run():
    found = learner("learner.max_nonfinite_updates=2")
    rewards = np.full(6, np.inf, np.float32)
    table = fragments_to_table(VECTOR, [random_fragment(VECTOR, n, rewards=rewards) for n in range(2)])
    before = found.digest()
    assert found.update(table)["optim/skipped"] == 1.0
    with pytest.raises(RunError, match="not finite in 2 updates in a row"):
        found.update(table)
    assert found.digest() == before


# Plans


def test_minibatches_are_cut_anew_in_each_pass_and_hold_every_fragment_once():
    plan = plan_steps(10, minibatches=3, iterations=2, key=(0, 7))
    assert len(plan) == 6 and plan == plan_steps(10, minibatches=3, iterations=2, key=(0, 7))
    for turn in (plan[:3], plan[3:]):
        assert sorted(row for rows in turn for row in rows) == list(range(10)) and all(
            rows == sorted(rows) for rows in turn
        )
    assert plan[:3] != plan[3:] and plan != plan_steps(10, minibatches=3, iterations=2, key=(0, 8))
    assert plan_steps(4, minibatches=1, iterations=2, key=(0,)) == [[0, 1, 2, 3]] * 2
    assert [len(rows) for rows in plan_steps(2, minibatches=3, iterations=1, key=(0,))] == [1, 1]


def test_shares_and_passes_hold_every_fragment_once():
    assert [share([3, 4, 7, 9, 11], rank, 2) for rank in (0, 1)] == [[3, 7, 11], [4, 9]]
    assert passes([3, 7, 11], 2) == [[3, 7], [11]] and passes([], 2) == []


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("learner.beta=0.1",), "learner.beta is 0.1; it must be 0 for a decision policy"),
        (("learner.actor_critic.burn_in=2",), "burn_in is 2; it must be 0 for a policy without memory"),
        ((*MEMORY, "learner.actor_critic.burn_in=6"), "burn_in is 6; it must be below environment.fragment_length=6"),
        (("learner.loss.target=clipped",), "learner.loss.target is 'clipped'"),
        (("learner.actor_critic.returns.target=td",), "learner.actor_critic.returns.target is 'td'"),
        (("learner.actor_critic.returns={target: gae, lam: 2}",), "returns.lam is 2"),
        (("learner.schedule=wild",), "learner.schedule"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        learner(*settings)


def test_normalising_what_is_no_float_is_refused():
    spec = replace(VECTOR, observations={"picture": ArraySpec((2, 2), "uint8")})
    with pytest.raises(ConfigError, match="normalise_observations is True; it must be false"):
        learner("learner.actor_critic.normalise_observations=true", spec=spec)
