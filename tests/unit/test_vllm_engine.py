"""What vLLM promises in its own way: true versions while it runs on, what it refuses, and how it is asked for."""

from __future__ import annotations

import asyncio
import copy
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import (
    folder,
    generate,
    hugging_face,
    model_config,
    request,
    steps,
    tokenizer,
    vllm_engine,
    weights,
)

import launch
from actors.engines.base import Completion, Engine, Request
from actors.engines.factory import begun
from actors.engines.vllm_weights import SharedWeights
from configs.adapter import AdapterConfig
from learners.models.adapter import DOWN, UP
from learners.models.adapter_folder import write_adapter

pytestmark = pytest.mark.usefixtures("vllm_installed")

LONG = 240
PROMPT = "12+34=" * 25
"""150 tokens: more than one block of vLLM's cache on CPUs, which holds 128."""


def certain(digit: str) -> dict[str, torch.Tensor]:
    """Return weights that make a digit follow anything: every layer is silent, all embeddings point the same way."""
    rigged = {name: torch.zeros_like(tensor) for name, tensor in weights().items()}
    rigged["model.norm.weight"].fill_(1.0)
    rigged["model.embed_tokens.weight"][:, 0] = 1.0
    rigged["model.embed_tokens.weight"][token(digit), 0] = 10.0
    return rigged


def token(digit: str) -> int:
    return int(tokenizer().encode(digit, add_special_tokens=False)[0])


def long_requests(count: int, **sampling: Any) -> list[Request]:
    return [request(f"{i}", "1+", key=i, max_completion_length=LONG, **sampling) for i in range(count)]


def swapped_in_flight(engine: Engine, requests: list[Request], *loads: dict[str, torch.Tensor]) -> list[Completion]:
    """Run requests to their end; load the next weights, as versions 1, 2, ..., whenever a request has begun."""

    async def run() -> list[Completion]:
        done: list[Completion] = []
        for item in requests:
            engine.submit(item)
        for version, tensors in enumerate(loads, 1):
            # Requests start in order, so when this one ends, the ones before it have tokens.
            engine.submit(request(f"begun {version}", "1+", max_completion_length=1))
            while f"begun {version}" not in {c.id for c in done}:
                done += await engine.step()
            engine.load_weights(version, tensors)
        while engine.busy:
            done += await engine.step()
        return [c for c in done if not c.id.startswith("begun")]

    return asyncio.run(run())


def test_the_token_at_which_new_weights_took_over_is_where_the_stamp_changes() -> None:
    engine = vllm_engine()
    engine.load_weights(0, certain("1"))
    done = swapped_in_flight(engine, long_requests(8), certain("2"), certain("3"))
    assert len(done) == 8
    for c in done:
        drawn_by = {token("1"): 0, token("2"): 1, token("3"): 2}
        assert c.versions.tolist() == [drawn_by[t] for t in c.tokens.tolist()]
        assert np.all(np.diff(c.versions) >= 0) and np.abs(c.logprobs).max() < 1e-4
    assert any(len(set(c.versions.tolist())) > 1 for c in done), "no request was in flight during a swap"


def carried_logprobs(item: Request, done: Completion, models: Sequence[Any]) -> list[float]:
    """Return each token's log-probability under the version it is stamped with, on the cache that earlier ones left.

    Args:
      models: of each version.
    """
    past, inputs, found = None, list(item.tokens), []
    for drawn, version in zip(done.tokens.tolist(), done.versions.tolist(), strict=True):
        with torch.no_grad():
            output = models[version](torch.tensor([inputs]), past_key_values=past, use_cache=True)
        past, inputs = output.past_key_values, [drawn]
        found.append(float((output.logits[0, -1] / item.sampling.temperature).log_softmax(-1)[drawn]))
    return found


def test_recorded_logprobs_are_those_of_the_stamped_versions_also_across_swaps() -> None:
    engine = vllm_engine()
    versions = [hugging_face(seed=seed) for seed in (1, 2, 3)]
    swap_and_compare(engine, versions, weights(seed=2), weights(seed=3))


def swap_and_compare(engine: Engine, models: Sequence[Any], *loads: dict[str, torch.Tensor]) -> None:
    requests = long_requests(16, temperature=1.5)
    done = {c.id: c for c in swapped_in_flight(engine, requests, *loads)}
    assert any(len(set(c.versions.tolist())) > 1 for c in done.values()), "no request was in flight during a swap"
    for item in requests:
        wanted = carried_logprobs(item, done[item.id], models)
        np.testing.assert_allclose(done[item.id].logprobs, wanted, atol=1e-3)


def test_adapters_are_added_to_the_base_in_flight_and_from_a_checkpoint(tmp_path: Path) -> None:
    # Layers that vLLM keeps stacked with others which have no adapter: q of qkv, up of gate and up.
    adapter, base = AdapterConfig(rank=2, alpha=4.0, targets=["q_proj", "up_proj", "down_proj"]), folder()
    layers = [n.removesuffix(".weight") for n in weights() if n.split(".")[-2] in adapter.targets]
    draw = torch.Generator().manual_seed(0)
    loads: list[dict[str, torch.Tensor]] = []
    models = [hugging_face()]
    for _ in range(2):
        merged = copy.deepcopy(hugging_face())
        loads.append({})
        for layer in layers:
            weight = merged.get_parameter(f"{layer}.weight")
            down = torch.randn(2, weight.shape[1], generator=draw)
            up = torch.randn(weight.shape[0], 2, generator=draw) / 10
            loads[-1] |= {layer + DOWN: down, layer + UP: up}
            weight.data += 4.0 / 2 * up @ down
        models.append(merged)
    engine: Any = vllm_engine()
    whole = engine._shared
    # One engine serves all tests of this process: a start takes half a minute.
    engine._shared = SharedWeights(engine._shapes, replace(model_config(), adapter=adapter), Path(base))
    try:
        swap_and_compare(engine, models, *loads)
        with pytest.raises(ValueError, match="weights version 3 do not fit the network"):
            engine.load_weights(3, weights())
        write_adapter(tmp_path, loads[0], adapter, Path(base))
        begun(engine, tmp_path)
        tokens = [2, 3, 4, 5, 6]
        (scored,) = engine.score([tokens])
        with torch.no_grad():
            logp = models[1](torch.tensor([tokens])).logits[0].log_softmax(-1)
        wanted = [0.0, *(float(logp[t - 1, tokens[t]]) for t in range(1, len(tokens)))]
        np.testing.assert_allclose(scored.logprobs, wanted, atol=1e-3)
        assert engine.version == -1, "older than anything published"
    finally:
        engine._shared.close()
        engine._shared = whole


def test_an_aborted_request_returns_what_it_had_sampled() -> None:
    engine = vllm_engine()
    engine.load_weights(0, certain("1"))
    engine.submit(long_requests(1)[0])
    engine.submit(request("begun", "1+", max_completion_length=1))
    while "begun" not in {c.id for c in steps(engine, 1)}:
        assert engine.busy
    (aborted,) = engine.abort(["0"])
    assert aborted.finish_reason == "abort" and 1 <= len(aborted.tokens) < LONG
    assert set(aborted.tokens.tolist()) == {token("1")} and len(aborted.versions) == len(aborted.logprobs)
    assert not engine.busy


def test_a_long_prompt_is_prefilled_once_per_version_and_never_taken_from_an_older_one() -> None:
    engine = vllm_engine()
    before = generate(engine, [request("a", PROMPT, temperature=0.0)])["a"]
    first = engine.stats.prefill_tokens
    again = generate(engine, [request("b", PROMPT, temperature=0.0)])["b"]
    assert (first, engine.stats.prefill_tokens - first) == (150, 22), "the block of 128 tokens was there already"
    np.testing.assert_allclose(again.logprobs, before.logprobs, atol=1e-4)
    engine.load_weights(1, weights(seed=2))
    new = generate(engine, [request("c", PROMPT, temperature=0.0)])["c"]
    with torch.no_grad():
        logits = hugging_face(seed=2)(torch.tensor([[*request("", PROMPT).tokens, *new.tokens.tolist()]])).logits
    expected = logits[0, 149:-1].log_softmax(-1).max(-1)
    assert new.tokens.tolist() == expected.indices.tolist()
    np.testing.assert_allclose(new.logprobs, expected.values.numpy(), atol=1e-3)


@pytest.mark.parametrize("arguments", [{"model": "reference"}, {"want": ("entropy",)}, {"want": ("hidden",)}])
def test_what_vllm_cannot_score_is_refused_with_the_remedy(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="engine=torch"):
        vllm_engine().score([[3, 4]], **arguments)


@pytest.mark.parametrize("temperature", [0.001, 2.5])
def test_a_temperature_that_vllm_would_change_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=r"its temperature is .*; vLLM draws at 0 or in \[0.01, 2.0\]"):
        vllm_engine().submit(request("a", "1+", temperature=temperature))


def test_requests_of_one_step_draw_alike_whatever_the_engine_did_before() -> None:
    engine, item = vllm_engine(), request("a", "1+", key=7)
    first = generate(engine, [item])["a"]
    generate(engine, long_requests(4))
    later = generate(engine, [replace(item, id="b")])["b"]
    assert first.tokens.tolist() == later.tokens.tolist()


def test_more_prompts_than_one_step_takes_are_prefilled_whole() -> None:
    """In parts, vLLM 0.32 would rewind the generators of their requests, which CPU generators refuse."""
    requests = [request(f"{i}", f"{i}+" + "12+34=" * 37, key=i) for i in range(48)]
    assert len(generate(vllm_engine(), requests)) == 48


def test_check_names_what_to_install_where_vllm_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # as Python marks a module that is not there
    assert launch.main(["check", "configs/smoke.yaml", "engine=vllm"]) == 2
    assert "engine is 'vllm', which is not installed; run `make setup-vllm`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("enforce_eagre=true", "no argument of AsyncEngineArgs; did you mean one of enforce_eager"),
        ("max_model_len=64", "engines.vllm.max_model_len is set by the engine itself"),
    ],
)
def test_check_refuses_options_of_the_engine(option: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["check", "configs/smoke.yaml", "engine=vllm", f"engines.vllm.{option}"]) == 2
    assert message in capsys.readouterr().err
