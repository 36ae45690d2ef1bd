"""vLLM as an engine: its processes compute while the owner does something else.

    owner's thread: submit, step, load_weights, ... -> BackgroundLoop: VllmSession -> AsyncLLM
    -> vLLM's processes, which read new weights from shared memory

A step waits for completions and does not advance anything: requests in flight go on meanwhile, and
the token at which new weights take effect is vLLM's to choose. Every token says which version drew it.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from actors.engines.admission import end_tokens, unusable
from actors.engines.background import BackgroundLoop
from actors.engines.base import Completion, EngineStats, Request, ScoredSequence
from actors.engines.sampling import streams
from actors.engines.vllm_messages import sampling_params
from actors.engines.vllm_session import Outcome, VllmSession
from actors.engines.vllm_start import engine_arguments, start
from actors.engines.vllm_weights import SharedWeights
from configs.errors import RunError
from configs.language import ModelConfig
from learners.models.load import check_model_folder, weight_shapes

__all__ = ["VllmEngine"]

T = TypeVar("T")

STEP_S = 0.02
"""A step returns after this long even if nothing has finished, so that its owner can look for new weights."""
START_S = 600.0
CALL_S = 120.0
COLDEST, HOTTEST = 0.01, 2.0
"""vLLM raises lower temperatures to the first, and refuses higher ones than the second."""


class VllmEngine:
    """Implements `base.Engine`. `stats.steps` counts steps of the owner; `longest_gap_s` is the longest swap."""

    def __init__(
        self,
        folder: Path,
        model: ModelConfig,
        tokenizer: Any,
        *,
        slots: int,
        context_length: int,
        seed: int,
        version: int,
        log: Path,
        options: Mapping[str, Any],
    ) -> None:
        """Start vLLM with the weights of a model folder, which are called `version`.

        Args:
          slots: sequences decoded side by side.
          context_length: tokens of prompt and completion that a request may have.
          seed: mixed into every request's key.
          log: file for what vLLM says.
          options: further arguments of vLLM's `AsyncEngineArgs`.

        Raises:
          ConfigError: an option is unknown or not the user's to set.
          DataError: the folder cannot be used.
          RunError: vLLM did not start.
        """
        config = check_model_folder(model, folder, context_length)
        arguments = engine_arguments(folder, model, slots, context_length, seed, options)
        self.version, self.slots, self.context_length = version, slots, context_length
        self.stats = EngineStats()
        self._seed, self._vocabulary = seed, int(config.vocab_size)
        self._end_tokens = np.flatnonzero(end_tokens(tokenizer, config)).tolist()
        self._model, self._folder, self._shapes = model, folder, weight_shapes(folder)
        if config.tie_word_embeddings:
            self._shapes.pop("lm_head.weight", None)
        self._shared: SharedWeights | None = None
        self._ids: set[str] = set()
        self._seen_s = time.perf_counter()
        self._background = BackgroundLoop("vllm")
        try:
            llm = self._call(start(arguments, log, torch.get_num_threads()), f"start of vLLM, see {log}", START_S)
        except RunError:
            self._background.close()
            raise
        self._session = VllmSession(llm)
        self._call(self._session.label(version), "version label")

    @property
    def busy(self) -> bool:
        """True while a request is queued or in flight."""
        return bool(self._ids)

    @property
    def free_slots(self) -> int:
        """Requests that could start at the next step."""
        return max(0, self.slots - len(self._ids))

    def submit(self, request: Request) -> None:
        """Start a request; vLLM queues those that have no place yet.

        Raises:
          ValueError: the prompt is empty, has a token outside the vocabulary, or is too long for the
            context with its completion; the sampling parameters or the id cannot be used.
        """
        if request.id in self._ids:
            raise ValueError(f"request {request.id}: its id is already in flight; ids must be unique")
        if problem := unusable(request, self._vocabulary, self.context_length) or refused_by_vllm(request):
            raise ValueError(f"request {request.id}: {problem}")
        seed = int(streams(self._seed, np.array([request.key & 0xFFFFFFFFFFFFFFFF], np.uint64))[0] >> np.uint64(1))
        params = sampling_params(request, seed, self._end_tokens)
        self._count_time()
        self._ids.add(request.id)
        self._background.post(self._session.submit(request.id, request.tokens, params, self.version))

    async def step(self) -> list[Completion]:
        """Wait until a request finishes, or for 20 ms; return those that finished.

        Raises:
          RunError: vLLM's process died.
        """
        outcomes = await self._background.wait(self._session.outcomes(STEP_S))
        self.stats.steps += 1
        return self._count(outcomes)

    def load_weights(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Replace the weights; they sample the next token of every request, which keeps its cached keys and values.

        Raises:
          ValueError: a name or shape does not fit; nothing is changed then.
          DeadlineExceeded: vLLM did not take them in time.
        """
        began = time.perf_counter()
        if self._shared is None:
            self._shared = SharedWeights(self._shapes, self._model, self._folder)
        self._shared.install(version, tensors)
        swap = self._session.swap(version, self._shared.path, self._shared.layout)
        self._call(swap, f"swap to weights version {version}")
        self.version = version
        self.stats.weight_loads += 1
        self.stats.longest_gap_s = max(self.stats.longest_gap_s, time.perf_counter() - began)

    def abort(self, ids: Sequence[str]) -> list[Completion]:
        """End requests now; return what they had sampled. Ids that are not here are ignored."""
        wanted = [i for i in ids if i in self._ids]
        return self._count(self._call(self._session.abort(wanted), f"end of {len(wanted)} requests"))

    def score(
        self,
        sequences: Sequence[Sequence[int]],
        model: str = "current",
        want: Sequence[str] = ("logprobs",),
        topk: int = 0,
    ) -> list[ScoredSequence]:
        """Score sequences with the present weights, by the name `current` or their version number.

        Raises:
          ValueError: another model, `entropy` or `hidden`, or an empty or too long sequence.
        """
        if model not in ("current", str(self.version)):
            raise ValueError(f"model is {model!r}; vLLM holds current={self.version} only; use engine=torch for others")
        if beyond := set(want) - {"logprobs", "topk"}:
            raise ValueError(f"want has {sorted(beyond)}; vLLM gives logprobs and topk; use engine=torch for the rest")
        if "topk" in want and topk < 1:
            raise ValueError(f"topk is {topk}; with want=topk it must be >= 1")
        if not all(0 < len(s) <= self.context_length for s in sequences):
            raise ValueError(f"a sequence to score is empty or longer than context_length {self.context_length}")
        wanted = topk if "topk" in want else 0
        return self._call(self._session.score(sequences, wanted, self.version), f"scores of {len(sequences)} sequences")

    def close(self) -> None:
        """End vLLM's processes and free their memory."""
        self._call(self._session.close(), "end of vLLM")
        self._background.close()
        if self._shared is not None:
            self._shared.close()

    def _call(self, coroutine: Coroutine[Any, Any, T], awaiting: str, deadline_s: float = CALL_S) -> T:
        return self._background.call(coroutine, deadline_s, awaiting)

    def _count(self, outcomes: Sequence[Outcome]) -> list[Completion]:
        """Enter what ended into the books and return the completions."""
        self._count_time()
        completions = [outcome.completion for outcome in outcomes]
        self._ids.difference_update(c.id for c in completions)
        self.stats.prefill_tokens += sum(outcome.prefilled for outcome in outcomes)
        self.stats.sampled_tokens += sum(len(c.tokens) for c in completions)
        return completions

    def _count_time(self) -> None:
        """Count the time since the last look as busy if requests were in flight."""
        now = time.perf_counter()
        self.stats.busy_s += (now - self._seen_s) * bool(self._ids)
        self._seen_s = now


def refused_by_vllm(request: Request) -> str | None:
    """Return why vLLM would not draw from the distribution that was asked for; None where it would."""
    temperature = request.sampling.temperature
    if temperature and not COLDEST <= temperature <= HOTTEST:
        return f"its temperature is {temperature}; vLLM draws at 0 or in [{COLDEST}, {HOTTEST}]; choose one of these"
    return None
