"""What every engine must do. A new engine joins by one line in ENGINES.

A test that takes `stepwise` is for engines whose owner sets the pace; what it says of the others is in
`test_vllm_engine.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import (
    generate,
    hugging_face,
    native_engine,
    request,
    steps,
    tokenizer,
    transformers_engine,
    vllm_engine,
    weights,
)

from actors.engines.base import Engine

Build = Callable[..., Engine]


@dataclass(frozen=True)
class Subject:
    """An engine, and what it is."""

    build: Build
    """(kind, tied, slots=) -> engine at version 0 with the weights of seed 1"""
    stepwise: bool = True
    """A step draws one token for every request in flight, and nothing happens between two steps."""
    wants: tuple[str, ...] = ("logprobs", "topk", "entropy", "hidden")
    """What `score` gives."""
    models: tuple[tuple[str, bool], ...] = (("llama", False), ("qwen2", True), ("qwen3", True), ("qwen3", False))
    """(kind, tied embeddings) that are tried."""


ENGINES = {
    "native": Subject(native_engine),
    "transformers": Subject(transformers_engine),
    # Each model is a start of half a minute.
    "vllm": Subject(
        vllm_engine, stepwise=False, wants=("logprobs", "topk"), models=(("qwen3", True), ("qwen3", False))
    ),
}
MODELS = [(engine, kind, tied) for engine, subject in ENGINES.items() for kind, tied in subject.models]
PROMPTS = ["12+34=", "7*8=", "(1-2)*3=", "99-1=", "5", "1+2+3+4+5="]


@pytest.fixture(params=ENGINES)
def subject(request: pytest.FixtureRequest) -> Subject:
    torch.set_num_threads(1)
    if request.param == "vllm":
        request.getfixturevalue("vllm_installed")
    return ENGINES[request.param]


@pytest.fixture
def build(subject: Subject) -> Build:
    """Return `Subject.build` of every engine."""
    return subject.build


@pytest.fixture(params=[name for name, subject in ENGINES.items() if subject.stepwise])
def stepwise(request: pytest.FixtureRequest) -> Build:
    """Return `Subject.build` of the engines whose owner sets the pace."""
    torch.set_num_threads(1)
    return ENGINES[request.param].build


@pytest.mark.parametrize(("subject", "kind", "tied"), MODELS, indirect=["subject"])
def test_greedy_tokens_equal_those_of_hugging_face_generate(build: Build, kind: str, tied: bool) -> None:
    requests = [request(p, p, temperature=0.0) for p in PROMPTS]
    done = generate(build(kind, tied), requests)
    reference, eos = hugging_face(kind, tied), tokenizer().eos_token_id
    for item in requests:
        prompt = torch.tensor([item.tokens])
        output = reference.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False, eos_token_id=eos
        )
        assert done[item.id].tokens.tolist() == output[0, len(item.tokens) :].tolist()


@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize(("subject", "kind", "tied"), MODELS, indirect=["subject"])
def test_after_loading_weights_greedy_tokens_and_logprobs_are_those_of_the_new_model(
    build: Build, kind: str, tied: bool, seed: int
) -> None:
    engine = build(kind, tied)
    generate(engine, [request("warm", "1+1=")])
    engine.load_weights(1, weights(kind, tied, seed=seed))
    done = generate(engine, [request(p, p, temperature=0.0) for p in PROMPTS])
    reference = hugging_face(kind, tied, seed=seed)
    for p in PROMPTS:
        prompt = torch.tensor([request(p, p).tokens])
        output = reference.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False)
        sampled = output[0, prompt.shape[1] :].tolist()
        assert done[p].tokens.tolist() == sampled and done[p].versions.tolist() == [1] * len(sampled)
        with torch.no_grad():
            logp = reference(output).logits[0, prompt.shape[1] - 1 : -1].log_softmax(-1)
        np.testing.assert_allclose(done[p].logprobs, logp[torch.arange(len(sampled)), sampled].numpy(), atol=1e-4)


def test_weights_that_do_not_fit_are_refused_and_nothing_changes(build: Build) -> None:
    engine, new = build(), weights(seed=2)
    name = next(iter(new))
    without = {n: t for n, t in new.items() if n != name}
    for wrong in (without, {**new, name: new[name][:1]}, {**new, "more": new[name]}):
        with pytest.raises(ValueError, match="weights version 1 do not fit the network: "):
            engine.load_weights(1, wrong)
    done = generate(engine, [request("a", "12+34=", temperature=0.0)])["a"]
    same = generate(build(), [request("a", "12+34=", temperature=0.0)])["a"]
    assert done.tokens.tolist() == same.tokens.tolist() and set(done.versions.tolist()) == {0}


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_recorded_logprobs_equal_a_full_forward_pass_at_the_sampling_temperature(
    build: Build, temperature: float
) -> None:
    requests = [request(p, p, key=i, temperature=temperature) for i, p in enumerate(PROMPTS)]
    done, reference = generate(build(), requests), hugging_face()
    for item in requests:
        sampled = done[item.id].tokens.tolist()
        with torch.no_grad():
            logits = reference(torch.tensor([[*item.tokens, *sampled]])).logits[0, len(item.tokens) - 1 : -1]
        expected = (logits / (temperature or 1.0)).log_softmax(-1)[torch.arange(len(sampled)), sampled]
        np.testing.assert_allclose(done[item.id].logprobs, expected.numpy(), atol=1e-4)


def test_logprobs_under_top_k_and_top_p_are_of_the_filtered_distribution(build: Build) -> None:
    done = generate(build(), [request("k", "12+", top_k=1), request("p", "12+", top_p=1e-6)])
    assert np.abs(done["k"].logprobs).max() == 0 and np.abs(done["p"].logprobs).max() == 0


@pytest.mark.parametrize(("top_k", "top_p"), [(3, 1.0), (0, 0.6), (4, 0.5)])
def test_top_k_and_top_p_sample_exactly_the_support_that_they_define(build: Build, top_k: int, top_p: float) -> None:
    requests = [request(f"{i}", "1+", key=i, top_k=top_k, top_p=top_p, max_completion_length=1) for i in range(200)]
    seen = {int(c.tokens[0]) for c in generate(build(), requests).values()}
    with torch.no_grad():
        logits = hugging_face()(torch.tensor([requests[0].tokens])).logits[0, -1].double()
    order = logits.argsort(descending=True)[: top_k or None]
    mass = logits[order].softmax(0)
    support = {int(t) for t, before in zip(order, mass.cumsum(0) - mass, strict=True) if before < top_p}
    likely = {int(t) for t in order if mass[order == t] / mass[: len(support)].sum() > 0.05}
    assert likely & support <= seen <= support and len(support) > 1


def test_sampling_frequencies_follow_the_model(build: Build) -> None:
    requests = [request(f"{i}", "1+", key=i, max_completion_length=1) for i in range(1000)]
    drawn = np.array([c.tokens[0] for c in generate(build(slots=64), requests).values()])
    with torch.no_grad():
        p = hugging_face()(torch.tensor([requests[0].tokens])).logits[0, -1].softmax(-1).numpy()
    counts = np.bincount(drawn, minlength=len(p))
    # Five standard deviations of a binomial.
    assert (np.abs(counts - 1000 * p) <= 5 * np.sqrt(1000 * p * (1 - p)) + 1).all()


def test_tokens_are_stamped_with_the_version_that_sampled_them(stepwise: Build) -> None:
    engine = stepwise()
    item = request("a", "12+34=", key=3, temperature=2.0, max_completion_length=8, top_k=5)
    engine.submit(item)
    done = steps(engine, 3)
    engine.load_weights(7, weights(seed=2))
    done += steps(engine, 8)
    assert [c.id for c in done] == ["a"]
    assert done[0].versions.tolist() == [0] * 3 + [7] * 5
    assert engine.version == 7 and engine.stats.weight_loads == 1


def test_after_a_swap_in_flight_new_weights_read_the_cache_of_the_old_ones(stepwise: Build) -> None:
    engine, item = stepwise(), request("a", "12+34=", temperature=0.0)
    engine.submit(item)
    steps(engine, 1)
    engine.load_weights(1, weights(seed=2))
    steps(engine, 1)
    result = engine.abort(["a"])[0]
    with torch.no_grad():
        past = hugging_face()(torch.tensor([item.tokens]), use_cache=True).past_key_values
        first = torch.tensor([[int(result.tokens[0])]])
        logp = hugging_face(seed=2)(first, past_key_values=past).logits[0, -1].log_softmax(-1)
    assert result.tokens[1] == logp.argmax()
    np.testing.assert_allclose(result.logprobs[1], logp.max(), atol=1e-5)


def test_a_prompt_prefilled_by_older_weights_is_not_reused(build: Build) -> None:
    engine = build()
    generate(engine, [request("old", "12+34=", temperature=0.0)])
    engine.load_weights(1, weights(seed=2))
    again = generate(engine, [request("new", "12+34=", temperature=0.0)])["new"]
    fresh = build()
    fresh.load_weights(1, weights(seed=2))
    expected = generate(fresh, [request("new", "12+34=", temperature=0.0)])["new"]
    assert again.tokens.tolist() == expected.tokens.tolist()
    np.testing.assert_allclose(again.logprobs, expected.logprobs, atol=1e-5)


def test_the_same_key_draws_the_same_tokens_in_any_arrival_order(build: Build) -> None:
    requests = [request(f"{i}", PROMPTS[i % 6], key=i // 2, max_completion_length=1 + i % 8) for i in range(40)]
    forward, backward = generate(build(), requests), generate(build(), requests[::-1])
    assert all(forward[r.id].tokens.tolist() == backward[r.id].tokens.tolist() for r in requests)


def test_different_keys_draw_different_tokens(build: Build) -> None:
    done = generate(build(), [request(f"{i}", "1+", key=i, temperature=2.0) for i in range(16)])
    assert len({tuple(c.tokens.tolist()) for c in done.values()}) == 16


def test_an_aborted_request_returns_what_it_sampled_and_the_others_go_on(stepwise: Build) -> None:
    engine = stepwise()
    for i in range(60):
        engine.submit(request(f"{i}", "12+34=", key=i, top_k=8, max_completion_length=16))
    early = {c.id for c in steps(engine, 3)}
    running, queued = engine.abort(["0", "59", "never seen"])
    assert (running.id, running.finish_reason, len(running.tokens)) == ("0", "abort", 3)
    assert (queued.id, queued.finish_reason, len(queued.tokens)) == ("59", "abort", 0)
    rest = generate(engine, [])
    assert sorted(early | rest.keys(), key=int) == [str(i) for i in range(1, 59)]
    assert not engine.busy and engine.free_slots == engine.slots


def test_aborted_requests_have_a_prefix_of_what_they_would_have_sampled(build: Build) -> None:
    requests = [request(f"{i}", "12+34=", key=i, top_k=8, max_completion_length=16) for i in range(60)]
    whole = generate(build(), requests)
    engine = build()
    for item in requests:
        engine.submit(item)
    aborted = {c.id: c for c in engine.abort(["0", "59", "never seen"])}
    assert aborted.keys() <= {"0", "59"} and {c.finish_reason for c in aborted.values()} == {"abort"}
    done = generate(engine, []) | aborted
    assert sorted(done, key=int) == [str(i) for i in range(60)]
    for name, completion in done.items():
        sampled, count = completion.tokens.tolist(), len(completion.tokens)
        assert sampled == whole[name].tokens.tolist()[:count] and len(completion.logprobs) == count
        assert name in aborted or count == len(whole[name].tokens)
    assert not engine.busy and engine.free_slots == engine.slots


def test_a_request_that_cannot_fit_is_refused_with_the_numbers(build: Build) -> None:
    engine = build()
    most = engine.context_length - 6
    with pytest.raises(ValueError, match=rf"prompt 6 \+ max_completion_length {most + 1} .* context_length {most + 6}"):
        engine.submit(request("long", "12+34=", max_completion_length=most + 1))


def test_a_request_that_fits_exactly_is_completed(build: Build) -> None:
    engine = build()
    most = engine.context_length - 6
    done = generate(engine, [request("full", "12+34=", max_completion_length=most, temperature=0.0)])
    assert done["full"].finish_reason == "stop" or len(done["full"].tokens) == most


def test_an_end_token_ends_the_completion_and_is_recorded(build: Build) -> None:
    done = generate(
        build(), [request(f"{i}", "1+", key=i, temperature=2.0, max_completion_length=20) for i in range(16)]
    )
    eos = tokenizer().eos_token_id
    reasons = {c.finish_reason for c in done.values()}
    assert reasons == {"stop", "length"}
    for c in done.values():
        assert (c.finish_reason == "stop") == (c.tokens[-1] == eos) and eos not in c.tokens[:-1]


def test_a_stop_string_over_several_tokens_ends_the_completion_after_its_last_token(build: Build) -> None:
    requests = [request(f"{i}", "12+34=", key=i, temperature=2.0, max_completion_length=12) for i in range(16)]
    done = generate(build(), requests)
    plain = next(r for r in requests if done[r.id].finish_reason == "length")
    full = done[plain.id].tokens.tolist()
    stop = tokenizer().decode(full[3:6])
    stopped = replace(plain, sampling=replace(plain.sampling, stop=(stop, "((((")))
    shorter = generate(build(), [stopped])[plain.id]
    end = next(n for n in range(13) if stop in tokenizer().decode(full[:n]))
    assert shorter.tokens.tolist() == full[:end] and shorter.finish_reason == "stop"


def test_scores_equal_a_full_forward_pass(subject: Subject) -> None:
    sequences = [request("", p).tokens for p in PROMPTS]
    scored = subject.build().score(sequences, want=subject.wants, topk=3)
    reference = hugging_face()
    for tokens, result in zip(sequences, scored, strict=True):
        with torch.no_grad():
            output = reference(torch.tensor([tokens]), output_hidden_states=True)
        logp = output.logits[0].log_softmax(-1)[:-1]
        picked = logp[torch.arange(len(tokens) - 1), list(tokens[1:])]
        np.testing.assert_allclose(result.logprobs, [0.0, *picked.tolist()], atol=1e-5)
        assert result.topk_tokens[1:].tolist() == logp.topk(3).indices.tolist()
        np.testing.assert_allclose(result.topk_logprobs[1:], logp.topk(3).values.numpy(), atol=1e-5)
        expected = {"entropy": [0.0, *(-(logp.exp() * logp).sum(-1)).tolist()], "hidden": output.hidden_states[-1][0]}
        for want in {"entropy", "hidden"}.intersection(subject.wants):
            np.testing.assert_allclose(getattr(result, want), expected[want], atol=1e-4)


@pytest.mark.parametrize("arguments", [{"model": "reference"}, {"want": ("colour",)}, {"want": ("topk",)}])
def test_scores_that_the_engine_cannot_give_are_refused(build: Build, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"model is|want has|topk is"):
        build().score([[3, 4]], **arguments)


def test_a_whole_context_can_be_scored_and_one_token_too(build: Build) -> None:
    engine = build()
    long, short = engine.score([[3] * engine.context_length, [3]])
    assert len(long.logprobs) == engine.context_length and short.logprobs.tolist() == [0.0]


def test_statistics_count_sampled_tokens_loads_and_time(build: Build) -> None:
    engine = build()
    done = generate(engine, [request(f"{i}", "12+34=", key=i) for i in range(16)])
    assert engine.stats.sampled_tokens == sum(len(c.tokens) for c in done.values())
    assert engine.stats.steps > 0 and engine.stats.prefill_tokens > 0 and engine.stats.busy_s > 0


def test_statistics_count_steps_gaps_and_prefills(stepwise: Build) -> None:
    engine = stepwise()
    done = generate(engine, [request(f"{i}", "12+34=", key=i) for i in range(16)])
    assert engine.stats.prefill_tokens == 6, "sixteen requests with one prompt are prefilled once"
    assert engine.stats.steps == max(len(c.tokens) for c in done.values())
    assert 0 < engine.stats.longest_gap_s <= engine.stats.busy_s
