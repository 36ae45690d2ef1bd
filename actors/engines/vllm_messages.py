"""Between the engine contract and vLLM's messages.

Dimensions: N sampled tokens, T tokens of a scored sequence, K top-k.
"""

from __future__ import annotations

import numpy as np
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from actors.engines.base import Completion, Request, ScoredSequence

__all__ = ["completion", "sampling_params", "scored", "scoring_params"]


def sampling_params(request: Request, seed: int, end_tokens: list[int]) -> SamplingParams:
    """Return vLLM's parameters of a request whose random numbers start at `seed`, in [0, 2^63)."""
    sampling = request.sampling
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_completion_length,
        seed=seed,
        # Every end token is recorded, whichever the tokenizer names.
        ignore_eos=True,
        stop_token_ids=end_tokens,
        stop=list(sampling.stop),
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        detokenize=bool(sampling.stop),
        logprobs=0,  # the sampled token's alone
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def scoring_params(topk: int) -> SamplingParams:
    """Return parameters that ask for the prompt's log-probabilities, and its `topk` likeliest tokens."""
    return SamplingParams(
        max_tokens=1,  # vLLM samples at least one
        prompt_logprobs=topk,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def completion(name: str, output: RequestOutput) -> Completion:
    """Return what vLLM sampled for the request `name`, finished or aborted."""
    sampled = output.outputs[0]
    tokens = np.array(sampled.token_ids, np.int32)
    versions = np.zeros(len(tokens), np.int64)
    for span in sampled.weight_versions or ():
        versions[span.start : span.end] = int(span.version)
    # A stop string may leave log-probabilities of tokens sampled after it.
    logprobs = sampled.logprobs.logprobs[: len(tokens)] if sampled.logprobs else []
    return Completion(
        id=name,
        tokens=tokens,
        logprobs=np.array(logprobs, np.float32),
        versions=versions,
        finish_reason=str(sampled.finish_reason),
    )


def scored(output: RequestOutput, topk: int, version: int) -> ScoredSequence:
    """Return the score of a prompt of T tokens; position 0 has no distribution.

    vLLM gives 1 + K numbers per later position: the token's own, then the likeliest ones.
    """
    flat, count = output.prompt_logprobs, len(output.prompt_token_ids or ())
    shape = (count - 1, 1 + topk)
    logprobs, tokens = np.zeros((count, 1 + topk), np.float32), np.full((count, 1 + topk), -1, np.int32)
    logprobs[1:] = np.array(flat.logprobs, np.float32).reshape(shape)
    tokens[1:] = np.array(flat.token_ids, np.int32).reshape(shape)
    return ScoredSequence(
        logprobs=logprobs[:, 0],
        topk_tokens=tokens[:, 1:] if topk else None,
        topk_logprobs=logprobs[:, 1:] if topk else None,
        version=version,
    )
