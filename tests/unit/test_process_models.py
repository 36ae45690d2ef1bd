"""Models that reward components host, against slow computations with the same weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from buffers.scores import Sample, ScoreStatus
from buffers.trajectory import Span
from configs.errors import ConfigError, DataError
from configs.registry import construct
from learners.models.load import create_model_folder
from rewards import REWARDS
from rewards.policy import PolicyLogprobs
from rewards.process.continuations import continuations
from rewards.process.hosted import HostedModel
from rewards.process.step_head import StepHead, save_head
from tests.unit.engine_models import folder, model_config

PROMPT = 3


def sample(name: str, tokens: Sequence[int], **fields: object) -> Sample:
    turn = Span("turn", PROMPT, len(tokens))
    given = {"id": name, "group": "g", "prompt": "", "completion": "", "spans": (turn,), **fields}
    return Sample(tokens=tuple(tokens), num_tokens=len(tokens) - PROMPT, **given)


def token(text: str, path: str) -> int:
    return int(HostedModel(path).tokenizer.encode(text, add_special_tokens=False)[0])


def slow_logprobs(path: str, tokens: Sequence[int]) -> torch.Tensor:
    """log p of each token but the first, by transformers, one sequence at a time."""
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(path)(torch.tensor([list(tokens)])).logits[0].double()
    chosen = torch.tensor(list(tokens[1:]))
    return logits.log_softmax(-1)[:-1].gather(1, chosen[:, None])[:, 0]


@pytest.fixture(scope="module")
def lined(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose alphabet has a line end."""
    config = model_config(initializer_range=0.3)
    config.characters = "0123456789+=\n"
    return str(create_model_folder(config, tmp_path_factory.mktemp("models") / "lined", 5))


def test_logprobs_are_those_of_each_sequence_alone():
    sequences = [(3, 4, 5, 6), (7, 8), (9, 3, 3, 4, 5, 6, 7)]
    for tokens, found in zip(sequences, HostedModel(folder()).logprobs(sequences), strict=True):
        assert found[0] == 0.0 and len(found) == len(tokens)
        torch.testing.assert_close(found[1:].double(), slow_logprobs(folder(), tokens), atol=1e-4, rtol=0)


def test_an_implicit_reward_is_beta_times_the_log_ratio_of_each_step(lined: str, tmp_path: Path):
    config = model_config(initializer_range=0.3)
    config.characters = "0123456789+=\n"
    other = str(create_model_folder(config, tmp_path / "other", 6))
    section = {"target": "implicit_prm", "model": lined, "reference": other, "aggregate": "last"}
    line = token("\n", lined)
    tokens = (3, 4, 5, 6, line, 7, 8)
    [score] = construct(REWARDS, section, "test").score([sample("s", tokens)])
    ratios = 0.05 * (slow_logprobs(lined, tokens) - slow_logprobs(other, tokens))
    first, second = float(ratios[2:4].sum()), float(ratios[4:6].sum())
    assert [(s.start, s.end) for s in score.spans] == [(3, 5), (5, 7)]
    assert score.span_values == pytest.approx([first, second], abs=1e-5) and score.value == score.span_values[-1]
    section["rewards"] = "accumulated"
    [score] = construct(REWARDS, section, "test").score([sample("s", tokens)])
    assert score.span_values == pytest.approx([first, first + second], abs=1e-5)


def judged_folder(lined: str) -> HostedModel:
    model = HostedModel(lined)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        head = StepHead(model.network)
        torch.nn.init.normal_(head.head.weight)
    save_head(head, lined)
    return model


def slow_judgement(lined: str, tokens: Sequence[int]) -> float:
    """P(right) at the last of these tokens, by transformers."""
    head = load_file(Path(lined) / "step_head.safetensors")
    with torch.no_grad():
        hidden = (
            AutoModelForCausalLM.from_pretrained(lined).model(torch.tensor([list(tokens)])).last_hidden_state[0, -1]
        )
    return float((head["weight"] @ hidden + head["bias"]).softmax(0)[1])


def test_a_discriminative_model_judges_each_step_where_it_ends(lined: str):
    judged_folder(lined)
    line = token("\n", lined)
    one, two = (3, 4, 5, 6, line, 7, 8), (3, 4, 5, 9, line)
    component = construct(REWARDS, {"target": "discriminative_prm", "model": lined}, "test")
    first, second = component.score([sample("s", one), sample("t", two)])
    assert first.span_values == pytest.approx([slow_judgement(lined, one[:5]), slow_judgement(lined, one)], abs=1e-4)
    assert second.span_values == pytest.approx([slow_judgement(lined, two)], abs=1e-4)
    assert first.value == min(first.span_values)


def test_marks_part_steps_and_merged_steps_have_none_between_them(lined: str):
    judged_folder(lined)
    line, mark = token("\n", lined), 0
    tokens = (3, 4, 5, 6, line, 7, line, 8)
    section = {"target": "discriminative_prm", "model": lined, "mark": "<pad>", "scale": "difference"}
    [fine] = construct(REWARDS, section, "test").score([sample("s", tokens)])
    marked = [(3, 4, 5, 6, line, mark)]
    marked += [(*marked[0], 7, line, mark)]
    marked += [(*marked[1], 8, mark)]
    alone = [2 * slow_judgement(lined, sequence) - 1 for sequence in marked]
    assert fine.span_values == pytest.approx(alone, abs=1e-4)
    merged = [(3, 4, 5, 6, line, 7, line, mark), (3, 4, 5, 6, line, mark, 7, line, 8, mark)]
    together = [2 * slow_judgement(lined, sequence) - 1 for sequence in merged]
    expected = [alone[0], (alone[1] + together[0]) / 2, (alone[2] + together[1]) / 2]
    [both] = construct(REWARDS, {**section, "merged": True}, "test").score([sample("s", tokens)])
    assert both.span_values == pytest.approx(expected, abs=1e-4)


class Reader:
    """A policy that is a model folder; version 7."""

    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> PolicyLogprobs:
        return PolicyLogprobs(7, [row.numpy() for row in HostedModel(folder()).logprobs(sequences)])


async def test_information_gain_is_the_gain_in_the_answers_mean_probability():
    tokens = (3, 4, 5, 6, 7, 8, 9)
    turns = (Span("turn", 3, 4), Span("tool", 4, 5), Span("turn", 5, 7))
    section = {"target": "information_gain", "tokenizer": folder(), "before": "="}
    answer = HostedModel(folder()).tokenizer.encode("12", add_special_tokens=False)
    equals = token("=", folder())

    def before(place: int) -> float:
        return math.exp(float(slow_logprobs(folder(), [*tokens[:place], equals, *answer])[-2:].mean()))

    component = construct(REWARDS, section, "test", policy=Reader())
    given = [sample("s", tokens, answer="12", spans=turns), sample("t", tokens), sample("u", tokens, answer="12")]
    first, second, third = await component.score(given)
    assert first.span_values == pytest.approx([before(5) - before(3)], abs=1e-6)
    assert [(s.start, s.end) for s in first.spans] == [(3, 4)] and first.version == 7
    assert second.status is ScoreStatus.ABSTAINED and "t has no reference answer" in second.detail
    assert (third.value, third.span_values) == (0.0, ()), "the only turn is judged by the outcome"
    [nothing] = await component.score([Sample(id="v", group="g", prompt="", completion="", tokens=(3,), answer="1")])
    assert "v has no sampled token" in nothing.detail


def test_continuations_are_drawn_from_the_model_and_repeat():
    model, prefix = HostedModel(folder()), (3, 4, 5)
    drawn = continuations(model, prefix, count=4000, max_tokens=1, temperature=1.0, seed=0)
    assert drawn == continuations(model, prefix, count=4000, max_tokens=1, temperature=1.0, seed=0)
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(folder())(torch.tensor([list(prefix)])).logits[0, -1]
    favourite = int(logits.softmax(-1).topk(2).indices[0])
    wanted = float(logits.softmax(-1)[favourite])
    share = sum(row == [favourite] for row in drawn) / len(drawn)
    assert share == pytest.approx(wanted, abs=4 * math.sqrt(wanted * (1 - wanted) / 4000) + 1e-3)


def test_a_cached_continuation_is_the_likeliest_of_the_whole_prefix():
    model, prefix = HostedModel(folder()), [3, 4, 5]
    [greedy] = continuations(model, prefix, count=1, max_tokens=5, temperature=1e-4, seed=0)
    network = AutoModelForCausalLM.from_pretrained(folder())
    for written in greedy:
        with torch.no_grad():
            assert written == int(network(torch.tensor([prefix])).logits[0, -1].argmax())
        prefix.append(written)


def test_progress_is_the_gain_in_the_provers_chance(monkeypatch: pytest.MonkeyPatch, lined: str):
    answers = {4: ["=1", "=2", "=2", "=2"], 6: ["=1", "=1", "=2", "=2"]}  # by length of prefix
    encode = HostedModel(lined).tokenizer.encode

    def scripted(model: object, prefix: Sequence[int], **_: object) -> list[list[int]]:
        return [encode(text, add_special_tokens=False) for text in answers[len(prefix)]]

    monkeypatch.setattr("rewards.process.prover.continuations", scripted)
    line, eos = token("\n", lined), HostedModel(lined).tokenizer.eos_token_id
    tokens = (3, 4, 5, 6, 7, line, token("1", lined), eos)
    section = {"target": "prover_progress", "model": lined, "verifier": "numeric", "best_of": 2, "rollouts": 4}
    turn = (Span("turn", 4, 8),)
    [score] = construct(REWARDS, section, "test").score([sample("s", tokens, answer="1", spans=turn)])
    chances = [1 - 0.75**2, 1 - 0.5**2, 1.0]  # the last one is finished, and right
    assert score.span_values == pytest.approx([chances[1] - chances[0], chances[2] - chances[1]])
    assert score.value == pytest.approx(chances[-1] - chances[0])
    [unknown] = construct(REWARDS, section, "test").score([sample("s", tokens, spans=turn)])
    assert unknown.status is ScoreStatus.ABSTAINED, "what the verifier cannot judge has no progress"


@pytest.mark.parametrize("target", ["discriminative_prm", "implicit_prm", "prover_progress"])
def test_a_sample_without_a_sampled_token_abstains(target: str, lined: str):
    judged_folder(lined)
    more = {"implicit_prm": {"reference": lined}, "prover_progress": {"verifier": "numeric"}}.get(target, {})
    component = construct(REWARDS, {"target": target, "model": lined, **more}, "test")
    empty = Sample(id="s", group="g", prompt="", completion="", tokens=(3, 4), answer="1")
    [score] = component.score([empty])
    assert score.status is ScoreStatus.ABSTAINED and "s has no sampled token" in score.detail


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"target": "discriminative_prm", "model": "m", "merged": True}, "without a mark"),
        ({"target": "discriminative_prm", "model": "m", "steps": "line"}, r"steps.target is 'line'.*lines"),
        ({"target": "discriminative_prm", "model": "m", "aggregate": "min"}, r"aggregate.target is 'min'"),
        ({"target": "implicit_prm", "model": "m", "reference": "m", "rewards": "both"}, "single"),
        ({"target": "prover_progress", "model": "m", "verifier": "numeric", "rollouts": 0}, "rollouts is 0"),
        ({"target": "prime", "after": "correct"}, r"\[correct\]"),
        ({"target": "prime", "after": ["a"], "batch_size": 0}, "batch_size is 0"),
    ],
)
def test_a_wrong_setting_is_refused(section: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        construct(REWARDS, section, "test")


def test_a_folder_without_a_head_says_so():
    component = construct(REWARDS, {"target": "discriminative_prm", "model": folder(), "steps": "turns"}, "test")
    with pytest.raises(DataError, match=r"step_head.safetensors is no head"):
        component.score([sample("s", (3, 4, 5, 6))])
