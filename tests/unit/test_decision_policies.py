"""Networks of decision policies: acting and learning agree, and wrong settings are refused."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from decision_tables import CONTINUOUS, MIXED, NETHACK, VECTOR, random_observations

from buffers.environment_spec import ActionSpec, ArraySpec, EnvironmentSpec
from configs.errors import ConfigError
from learners.models.decision import build_policy
from learners.models.decision.cores import GRU as GRUCore
from learners.models.decision.cores import LSTM as LSTMCore
from learners.models.decision.distributions import Categoricals, Gaussian, distribution_of
from learners.models.decision.images import CellEmbedding
from learners.models.decision.inputs import FlatInputs, Normaliser
from learners.models.decision.messages import HashedMessage, MessageConvolutions

GRU = {"target": "gru", "size": 8}
LSTM = {"target": "lstm", "size": 8}
CONV = {"target": "conv"}
GLYPHS = EnvironmentSpec("dumb", {"glyphs": ArraySpec((9, 9), "int16")}, ActionSpec("discrete", (3,)))
POLICIES = [
    (VECTOR, {"target": "mlp"}),
    (VECTOR, {"target": "mlp", "value": "shared", "hidden": [16], "activation": "relu"}),
    (VECTOR, {"target": "mlp", "core": GRU}),
    (MIXED, {"target": "mlp", "core": LSTM}),
    (CONTINUOUS, {"target": "mlp"}),
    (CONTINUOUS, {"target": "mlp", "value": "shared"}),
    (MIXED, {"target": "cnn"}),
    (MIXED, {"target": "cnn", "value": "separate", "cells": "scaled"}),
    (MIXED, {"target": "cnn", "core": GRU}),
    (NETHACK, {"target": "nethack"}),
    (NETHACK, {"target": "nethack", "core": LSTM, "hidden": [32, 16]}),
    (NETHACK, {"target": "nethack", "messages": "conv"}),
    (NETHACK, {"target": "nethack", "messages": {"target": "none"}, "core": GRU}),
]
NAMES = [f"{spec.name}-{'-'.join(str(v) for v in section.values())}" for spec, section in POLICIES]


def tensors(spec: EnvironmentSpec, *leading: int) -> dict[str, torch.Tensor]:
    found = random_observations(spec, np.random.default_rng(0), *leading)
    return {name: torch.from_numpy(array) for name, array in found.items()}


@pytest.mark.parametrize(("spec", "section"), POLICIES, ids=NAMES)
def test_acting_step_by_step_is_what_learning_unrolls(spec, section):
    network = build_policy(section, spec, seed=1)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():  # the heads' small gains would hide differences
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    seen, starts = tensors(spec, 3, 5), torch.zeros(3, 5, dtype=torch.bool)
    starts[0, 2] = starts[2, 1] = starts[2, 4] = True
    state = torch.randn(3, network.state_size, generator=generator)
    parameters, values = network.unroll(seen, state, starts)
    assert parameters.shape == (3, 5, network.distribution.parameters) and values.shape == (3, 5)
    with torch.inference_mode():
        for t in range(5):
            state = torch.where(starts[:, t, None], 0.0, state)
            here, value, state = network.step({name: array[:, t] for name, array in seen.items()}, state)
            torch.testing.assert_close(here, parameters[:, t], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(value, values[:, t], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("spec", "section"), POLICIES, ids=NAMES)
def test_every_weight_gets_a_gradient(spec, section):
    network = build_policy(section, spec, seed=1)
    starts = torch.zeros(3, 5, dtype=torch.bool)
    parameters, values = network.unroll(tensors(spec, 3, 5), torch.zeros(3, network.state_size), starts)
    (network.distribution.entropy(parameters).sum() + parameters.square().sum() + values.square().sum()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("core", [GRU, LSTM])
def test_a_memory_tells_pasts_apart_and_forgets_at_a_start(core):
    network = build_policy({"target": "mlp", "core": core}, VECTOR, seed=0)
    a = tensors(VECTOR, 1, 4)
    b = {name: array.clone() for name, array in a.items()}
    b["position"][:, 0] += 1
    states, starts = torch.zeros(1, network.state_size), torch.zeros(1, 4, dtype=torch.bool)
    assert (network.unroll(a, states, starts)[1] != network.unroll(b, states, starts)[1]).all()
    starts[:, 2] = True
    same = network.unroll(a, states, starts)[1] == network.unroll(b, states + 1, starts)[1]
    assert same.tolist() == [[False, False, True, True]]


def test_the_gru_is_torchs():
    ours, cell = GRUCore(5, size=8), torch.nn.GRUCell(5, 8)
    with torch.no_grad():
        for layer, names in ((ours.inputs, ("weight_ih", "bias_ih")), (ours.recurrent, ("weight_hh", "bias_hh"))):
            layer.weight.copy_(getattr(cell, names[0]))
            layer.bias.copy_(getattr(cell, names[1]))
    inputs, state = torch.randn(3, 5), torch.randn(3, 8)
    torch.testing.assert_close(ours.advance(ours.project(inputs), state)[0], cell(inputs, state))


def test_the_lstm_is_torchs():
    ours, cell = LSTMCore(5, size=8), torch.nn.LSTMCell(5, 8)
    with torch.no_grad():
        # torch orders the gates input, forget, cell, output; ours has the cell last.
        order = torch.cat([torch.arange(16), torch.arange(24, 32), torch.arange(16, 24)])
        for layer, names in ((ours.inputs, ("weight_ih", "bias_ih")), (ours.recurrent, ("weight_hh", "bias_hh"))):
            layer.weight.copy_(getattr(cell, names[0])[order])
            layer.bias.copy_(getattr(cell, names[1])[order])
    inputs, output, memory = torch.randn(3, 5), torch.randn(3, 8), torch.randn(3, 8)
    found = ours.advance(ours.project(inputs), torch.cat([output, memory], 1))[1]
    torch.testing.assert_close(found, torch.cat(cell(inputs, (output, memory)), 1))


def test_the_same_seed_makes_the_same_weights_and_leaves_torchs_generator_alone():
    before = torch.get_rng_state()
    a, b, c = (build_policy("mlp", VECTOR, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["encoder.trunk.first.weight"], c["encoder.trunk.first.weight"])


def test_actor_and_critic_with_trunks_of_their_own_share_nothing():
    network = build_policy({"target": "mlp", "hidden": [8, 8, 8]}, VECTOR, seed=0)
    starts = torch.zeros(2, 3, dtype=torch.bool)
    network.unroll(tensors(VECTOR, 2, 3), torch.zeros(2, 0), starts)[1].sum().backward()
    moved = {name: p.grad for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved["encoder.trunk.weights.0"][0].any().item() is False
    assert moved["encoder.trunk.weights.0"][1].any() and "heads.first.weight" not in moved


def test_a_policy_starts_out_nearly_uniform():
    network = build_policy("mlp", VECTOR, seed=0)
    parameters, _, _ = network.step(tensors(VECTOR, 64), torch.zeros(64, 0))
    assert network.distribution.entropy(parameters).min() > np.log(4) - 1e-3


# Distributions


def test_choices_follow_their_probabilities_exactly():
    logits = torch.tensor([[0.1, 0.0, 0.6, 0.3]]).log()
    uniform = (torch.arange(10_000) + 0.5)[:, None] / 10_000
    drawn = Categoricals([4]).sample(logits.expand(10_000, 4), uniform)[:, 0]
    assert torch.bincount(drawn.long(), minlength=4).tolist() == [1000, 0, 6000, 3000]


@pytest.mark.parametrize("noise", [0.0, float(np.nextafter(np.float32(1), np.float32(0)))])
@pytest.mark.parametrize("seed", range(20))
def test_no_noise_finds_an_impossible_choice(noise, seed):
    logits = 3 * torch.randn(200, 7, generator=torch.Generator().manual_seed(seed))
    logits[:, [0, -1]] = -torch.inf
    drawn = Categoricals([7]).sample(logits, torch.full((200, 1), noise))[:, 0]
    assert ((drawn >= 1) & (drawn <= 5)).all()


def test_categoricals_are_torchs():
    logits, ours = torch.randn(9, 5), Categoricals([3, 2])
    theirs = [torch.distributions.Categorical(logits=part) for part in logits.split([3, 2], 1)]
    actions = ours.sample(logits, torch.rand(9, 2))
    both = sum(d.log_prob(actions[:, i]) for i, d in enumerate(theirs))
    torch.testing.assert_close(ours.logprobs(logits, actions), both)
    torch.testing.assert_close(ours.entropy(logits), sum(d.entropy() for d in theirs))
    assert ours.greedy(logits).tolist() == torch.stack([d.probs.argmax(1) for d in theirs], 1).tolist()


def test_gaussians_are_torchs_and_their_samples_have_the_moments():
    parameters = torch.tensor([[1.0, -2.0, 0.5, -1.0]])
    ours, theirs = Gaussian(2), torch.distributions.Normal(parameters[:, :2], parameters[:, 2:].exp())
    noise = np.random.default_rng(0).random((200_000, 4), np.float32)
    drawn = ours.sample(parameters.expand(200_000, 4), torch.from_numpy(noise))
    assert drawn.mean(0).tolist() == pytest.approx([1.0, -2.0], abs=0.02)
    assert drawn.std(0).tolist() == pytest.approx([np.exp(0.5), np.exp(-1)], rel=0.01)
    assert abs(float(torch.corrcoef(drawn.T)[0, 1])) < 0.01
    torch.testing.assert_close(ours.logprobs(parameters, drawn[:5]), theirs.log_prob(drawn[:5]).sum(1))
    torch.testing.assert_close(ours.entropy(parameters), theirs.entropy().sum(1))
    assert ours.greedy(parameters).tolist() == [[1.0, -2.0]]
    assert ours.sample(parameters, torch.zeros(1, 4)).isfinite().all()


def test_actions_of_another_kind_are_refused():
    with pytest.raises(ConfigError, match="actions are 'text'"):
        distribution_of(ActionSpec("text", ()))


# Inputs


def test_the_normaliser_knows_the_moments_of_all_it_saw():
    rows = torch.randn(500, 3, dtype=torch.float64) * torch.tensor([1.0, 20.0, 1e-3]) + torch.tensor([5.0, -100.0, 0.0])
    normaliser = Normaliser(3)
    values = rows.float()
    assert torch.equal(normaliser(values * 1e6), values * 1e6)  # the identity, without a bound
    for part in values.split([1, 9, 200, 290]):
        normaliser.observe(part)
    whole = normaliser(values)
    torch.testing.assert_close(whole.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(whole.std(0, correction=0), torch.ones(3), atol=0.01, rtol=0)
    assert normaliser(values * 1e6).abs().max() == 10.0 and float(normaliser.count) == 500


def test_a_constant_observation_stays_finite():
    normaliser = Normaliser(1)
    normaliser.observe(torch.full((10, 1), 3.0))
    normaliser.observe(torch.full((10, 1), 3.0))
    assert normaliser(torch.tensor([[3.0]])).tolist() == [[0.0]]


def test_bytes_are_scaled_and_other_integers_are_not():
    inputs = FlatInputs(MIXED.observations, byte_scale=10.0)
    seen = {"speed": torch.ones(1, 2), "picture": torch.full((1, 7, 7, 3), 5, dtype=torch.uint8)}
    row = inputs(seen | {"way": torch.tensor([3])})[0].tolist()
    assert row[:3] == [1.0, 1.0, 0.5] and row[-1] == 3.0 and len(row) == inputs.features == 2 + 147 + 1


def test_cells_are_the_sum_of_a_vector_per_channel():
    embed = CellEmbedding(channels=2, choices=4, size=3)
    cells = torch.tensor([[[[1, 3], [9, 0]]]])  # 9 counts as 3
    found = embed(cells)
    assert found.shape == (1, 3, 1, 2)
    torch.testing.assert_close(found[0, :, 0, 0], embed.table[1] + embed.table[4 + 3])
    torch.testing.assert_close(found[0, :, 0, 1], embed.table[3] + embed.table[4 + 0])


torch.manual_seed(0)
READERS = [HashedMessage(buckets=512, size=16), MessageConvolutions(available=256, size=16)]


def line(text: str) -> torch.Tensor:
    """Return the bytes of one message, [1, 256]."""
    return torch.from_numpy(np.frombuffer(text.encode().ljust(256, b"\0"), np.uint8).copy())[None]


@pytest.mark.parametrize("reader", READERS, ids=["hashed", "conv"])
def test_messages_are_told_apart_by_what_they_say_on_the_line(reader):
    key, bee = reader(line("You see here a key.")), reader(line("You see here a bee."))
    assert key.shape == (1, 16) and not torch.equal(key, bee)
    assert torch.equal(key, reader(line("You see here a key." + "\0" * 70 + "beyond the line")))


def test_a_hashed_message_that_says_nothing_is_zero():
    assert not READERS[0](line("")).any()


def test_convolutions_do_not_read_what_follows_the_end_of_a_message():
    reader = READERS[1]
    short = line("It hits!")
    assert torch.equal(reader(short), reader(line("It hits!" + "\0" + "rubbish")))
    assert torch.equal(reader(line("")), reader(line("\0rubbish")))
    # A shorter array of the same text: what is behind it counts as zeros.
    assert reader(short[:, :80]).tolist() == reader(short).tolist()


def test_convolutions_over_a_message_are_those_written_out():
    torch.manual_seed(0)
    reader = MessageConvolutions(available=9, bytes=9, embedding=2, stages=[(3, 2, 2)], size=16)
    text = b"ab#d"
    vectors = [reader.table.weight[c] for c in text] + [torch.zeros(2)] * 5
    weight, bias = reader.layers[0].weight, reader.layers[0].bias
    seen = [(weight[:, :, 0] @ a + weight[:, :, 1] @ b + bias).relu() for a, b in pairwise(vectors)]
    pooled = [torch.maximum(a, b) for a, b in zip(seen[::2], seen[1::2], strict=True)]
    wanted = reader.last(torch.stack(pooled, 1).flatten()).relu()
    torch.testing.assert_close(reader(torch.tensor([[*text, 0, 0, 0, 0, 0]], dtype=torch.uint8))[0], wanted)


@pytest.mark.parametrize("messages", [None, "none"])
def test_nethack_without_a_message_is_read_without_one(messages):
    section = {"target": "nethack"} | ({"messages": messages} if messages else {})
    assert build_policy(section, GLYPHS, seed=0).encoder.message is None


@pytest.mark.parametrize("messages", ["hashed", "conv", "none"])
def test_a_policy_reads_the_message_unless_it_is_told_not_to(messages):
    network = build_policy({"target": "nethack", "messages": messages}, NETHACK, seed=0)
    seen = tensors(NETHACK, 1)
    said = [seen | {"message": line(text)} for text in ("You hear a door open.", "You die...")]
    one, other = (network.step(shown, torch.zeros(1, 0))[1] for shown in said)
    assert torch.equal(one, other) == (messages == "none")


# Refusals


@pytest.mark.parametrize(
    ("spec", "section", "message"),
    [
        (VECTOR, {"target": "mpl"}, "policy.target is 'mpl'.*did you mean 'mlp'"),
        (VECTOR, {"target": "mlp", "hiden": [3]}, "policy.hiden is not an argument"),
        (VECTOR, {"target": "mlp", "hidden": []}, r"policy.hidden is \[\]"),
        (VECTOR, {"target": "mlp", "activation": "sine"}, "policy.activation is 'sine'"),
        (VECTOR, {"target": "mlp", "value": "both"}, "policy.value is 'both'"),
        (VECTOR, {"target": "mlp", "value": "separate", "core": GRU}, "be shared with a core"),
        (VECTOR, {"target": "mlp", "core": {"target": "gru", "size": 0}}, "policy.core.size is 0"),
        (VECTOR, {"target": "mlp", "core": {"target": "transformer"}}, "policy.core.target is 'transformer'"),
        (VECTOR, {"target": "mlp", "byte_scale": 0}, "policy.byte_scale is 0"),
        (VECTOR, {"target": "cnn"}, "wants one observation of 3 dimensions"),
        (MIXED, {"target": "cnn", "cells": "seen"}, "policy.cells is 'seen'"),
        (MIXED, {"target": "cnn", "filters": [[8, 5, 1], [8, 4, 1]]}, r"filters\[1\].*fit into the 3 x 3 cells"),
        (MIXED, {"target": "cnn", "filters": [[8, 5]]}, r"filters\[0\] is \[8, 5\]"),
        (VECTOR, {"target": "nethack"}, "reads `glyphs`"),
        (NETHACK, {"target": "nethack", "messages": {"target": "hashed", "bytes": 2}}, "policy.messages.bytes is 2"),
        (NETHACK, {"target": "nethack", "messages": "convolved"}, "policy.messages.target is 'convolved'"),
        (NETHACK, {"target": "nethack", "messages": CONV | {"bytes": 40}}, r"stages\[2\].*fit into the 1 positions"),
        (NETHACK, {"target": "nethack", "messages": CONV | {"stages": [[8, 5]]}}, r"stages\[0\] is \[8, 5\]"),
        (NETHACK, {"target": "nethack", "messages": CONV | {"buckets": 9}}, "policy.messages.buckets is not an arg"),
        (GLYPHS, {"target": "nethack", "messages": "conv"}, "policy.messages is 'conv', but dumb shows no `message`"),
    ],
)
def test_wrong_settings_are_refused(spec, section, message):
    with pytest.raises(ConfigError, match=message):
        build_policy(section, spec, seed=0)


def test_channels_may_come_first():
    spec = EnvironmentSpec("atari", {"screen": ArraySpec((4, 20, 24), "uint8")}, ActionSpec("discrete", (3,)))
    section = {"target": "cnn", "cells": "scaled", "layout": "channels_first", "filters": [[8, 8, 4], [8, 3, 1]]}
    network = build_policy(section, spec, seed=0)
    assert network.step(tensors(spec, 5), torch.zeros(5, 0))[0].shape == (5, 3)
