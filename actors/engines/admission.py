"""What an engine accepts, and what ends a completion.

Dimensions: V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.engines.base import Completion, Request

__all__ = ["end_tokens", "nothing_sampled", "unusable"]


def unusable(request: Request, vocabulary: int, context_length: int) -> str | None:
    """Return why a request cannot be run, with the numbers and the remedy, or None where it can."""
    prompt, sampling = len(request.tokens), request.sampling
    if not prompt:
        return "its prompt is empty; it must have at least one token"
    if min(request.tokens) < 0 or max(request.tokens) >= vocabulary:
        return f"its prompt has tokens outside [0, {vocabulary}); use the model's own tokenizer"
    if sampling.max_completion_length < 1 or prompt + sampling.max_completion_length > context_length:
        return (
            f"prompt {prompt} + max_completion_length {sampling.max_completion_length} tokens must lie within"
            f" context_length {context_length}; raise rollout.context_length or shorten the prompt"
        )
    if sampling.temperature < 0 or sampling.top_k < 0 or not 0 < sampling.top_p <= 1 or "" in sampling.stop:
        return f"{sampling} is out of range; temperature, top_k >= 0, top_p in (0, 1], stop strings not empty"
    return None


def end_tokens(tokenizer: Any, config: Any) -> NDArray[np.bool_]:
    """Return [V] bool: the tokenizer's end token, and those that the model's config names."""
    configured = config.eos_token_id
    ids = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
    marks = np.zeros(config.vocab_size, np.bool_)
    marks[[i for i in ids if i is not None and i < config.vocab_size]] = True
    return marks


def nothing_sampled(request_id: str) -> Completion:
    """Return the completion of a request that was aborted in the queue."""
    return Completion(
        id=request_id,
        tokens=np.zeros(0, np.int32),
        logprobs=np.zeros(0, np.float32),
        versions=np.zeros(0, np.int64),
        finish_reason="abort",
    )
