"""Chat completions in the terms of an engine: a JSON body becomes a request, a completion becomes JSON.

What is understood is what judges and annotators send to any endpoint; what is not is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from actors.engines.base import Completion, ScoredSequence
from buffers.trajectory import Sampling

__all__ = ["Asked", "answer", "read"]

PATHS = ("/chat/completions", "/completions")
IGNORED = frozenset({"model", "n", "stream", "seed"})
"""Fields that change nothing: one model, one choice, never a stream; the seed is read by whoever draws."""
READ = frozenset({"messages", "prompt", "temperature", "top_p", "top_k", "max_tokens", "stop", "logprobs"})
DEFAULT_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request, as far as an engine is concerned."""

    tokens: tuple[int, ...]
    sampling: Sampling
    top_logprobs: int
    """Likeliest tokens that are wanted for each token of the reply; 0: none."""


def read(path: str, body: Mapping[str, Any], tokenizer: Any) -> Asked:
    """Return what a body asks for.

    Raises:
      ValueError: the path is unknown, or the body lacks something, or has a field that the engine cannot honour.
    """
    if path not in PATHS:
        raise ValueError(f"path is {path!r}; it must be one of {', '.join(PATHS)}")
    if unknown := sorted(set(body) - READ - IGNORED - {"top_logprobs"}):
        raise ValueError(f"the torch engine does not take {', '.join(unknown)}; use engine: vllm, or leave them out")
    if body.get("n", 1) != 1 or body.get("stream"):
        raise ValueError("n must be 1 and stream false; ask once for each answer")
    stop = body.get("stop") or ()
    sampling = Sampling(
        temperature=float(body.get("temperature", 1.0)),
        top_p=float(body.get("top_p", 1.0)),
        top_k=int(body.get("top_k", 0)),
        max_completion_length=int(body.get("max_tokens", DEFAULT_TOKENS)),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
    )
    tokens = tokenizer.encode(_prompt(path, body, tokenizer), add_special_tokens=path == "/completions")
    top = int(body.get("top_logprobs", 1)) if body.get("logprobs") else 0
    return Asked(tokens=tuple(tokens), sampling=sampling, top_logprobs=top)


def answer(
    path: str, name: str, asked: Asked, completion: Completion, scored: ScoredSequence | None, tokenizer: Any
) -> dict[str, Any]:
    """Return the JSON of a completion.

    Args:
      name: of the model.
      scored: prompt and reply [T], with the likeliest tokens, where log-probabilities were asked for.
    """
    text = tokenizer.decode(completion.tokens.tolist(), skip_special_tokens=True)
    said = {"message": {"role": "assistant", "content": text}} if path == "/chat/completions" else {"text": text}
    choice = {"index": 0, "finish_reason": completion.finish_reason, **said}
    if scored is not None:
        choice["logprobs"] = {"content": _logprobs(scored, asked, completion, tokenizer)}
    used = {"prompt_tokens": len(asked.tokens), "completion_tokens": len(completion.tokens)}
    usage = {**used, "total_tokens": sum(used.values())}
    return {"id": completion.id, "object": "chat.completion", "model": name, "choices": [choice], "usage": usage}


def _prompt(path: str, body: Mapping[str, Any], tokenizer: Any) -> str:
    if path == "/completions":
        if not isinstance(body.get("prompt"), str):
            raise ValueError(f"prompt is {body.get('prompt')!r}; it must be a text")
        return str(body["prompt"])
    if tokenizer.chat_template is None:
        raise ValueError("the model has no chat template; give the endpoint api: completions, or add a template")
    if not isinstance(body.get("messages"), list):
        raise ValueError(f"messages is {body.get('messages')!r}; it must be a list of messages")
    return str(tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True))


def _logprobs(scored: ScoredSequence, asked: Asked, completion: Completion, tokenizer: Any) -> list[dict[str, Any]]:
    assert scored.topk_tokens is not None and scored.topk_logprobs is not None
    entries = []
    for place, token in enumerate(completion.tokens.tolist(), len(asked.tokens)):
        listed = zip(scored.topk_tokens[place].tolist(), scored.topk_logprobs[place].tolist(), strict=True)
        top = [{"token": tokenizer.decode([one]), "logprob": p} for one, p in islice(listed, asked.top_logprobs)]
        own = float(scored.logprobs[place])
        entries.append({"token": tokenizer.decode([token]), "logprob": own, "top_logprobs": top})
    return entries
