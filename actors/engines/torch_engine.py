"""The built-in engine: continuous batching over fixed slots, on CPU or CUDA.

    submit -> queue -> prefill distinct prompts -> slots -> sample -> Completion
                                                     ^         |
                                                     |__ decode [S, 1]

Dimensions: S slots, V vocabulary.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.engines.admission import end_tokens, nothing_sampled, unusable
from actors.engines.base import Completion, EngineStats, Request, ScoredSequence
from actors.engines.prefix import ROWS, PrefixCache
from actors.engines.sampling import sample, uniforms
from actors.engines.scoring import score_sequences
from actors.engines.slots import SlotTable
from actors.engines.stopping import StopStrings
from configs.adapter import NO_ADAPTER, AdapterConfig
from learners.models.adapter import Installer
from learners.models.cache import Network

__all__ = ["LogitsProcessor", "TorchEngine"]

LogitsProcessor = Callable[[Tensor, SlotTable], Tensor]
"""(logits [S, V], slots) -> new logits [S, V]; row s belongs to `slots.requests[s]` and may depend on
`slots.tokens[s, :slots.counts[s]]`, what that request has sampled so far. Idle rows (None) are ignored."""


class TorchEngine:
    """Implements `base.Engine`. A request's result depends on the weights and on nothing else in flight."""

    def __init__(
        self,
        network: Network,
        tokenizer: Any,
        *,
        slots: int,
        context_length: int,
        prefill_chunk: int,
        device: str = "cpu",
        seed: int = 0,
        adapter: AdapterConfig = NO_ADAPTER,
    ) -> None:
        """Take ownership of a network that lies on `device`.

        Args:
          network: its weights change in place with `load_weights`.
          tokenizer: gives the end token, and the text of tokens for stop strings.
          slots: sequences decoded side by side, >= 1; at least 16 for float32 determinism.
          context_length: tokens of prompt and completion that a slot holds.
          prefill_chunk: prompt tokens that one prefill call processes per sequence.
          device: "cpu", "cuda" or "cuda:0".
          seed: mixed into every request's key.
          adapter: what is published where its rank is not 0; the network begins as its base.
        """
        self.version = 0
        self.slots = slots
        self.context_length = context_length
        self.stats = EngineStats()
        self.logits_processors: list[LogitsProcessor] = []
        self._network = network
        self._models: dict[str, tuple[Network, int]] = {}
        self._device = torch.device(device)
        self._seed = seed
        self._vocabulary = int(network.config.vocab_size)
        network.prepare_decoding()
        self._installer = Installer(network.named_weights(), adapter)
        # Whole prefill chunks must fit, padding included.
        length = -(-context_length // prefill_chunk) * prefill_chunk
        self._cache = network.new_cache(slots, length)
        self._logits = torch.zeros(slots, self._vocabulary, device=self._device)
        self._prefixes = PrefixCache(network, length, prefill_chunk, self._device)
        self._table = SlotTable(
            slots, context_length, end_tokens(tokenizer, network.config), StopStrings(tokenizer, self._vocabulary)
        )
        self._queue: deque[Request] = deque()
        self._ids: set[str] = set()
        self._last_draw_s: float | None = None

    @property
    def busy(self) -> bool:
        """True while a request is queued or in flight."""
        return bool(self._ids)

    @property
    def free_slots(self) -> int:
        """Requests that could start at the next step."""
        return max(0, self.slots - len(self._ids))

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises:
          ValueError: the prompt is empty, has a token outside the vocabulary, or is too long for the
            context with its completion; the sampling parameters or the id cannot be used.
        """
        if request.id in self._ids:
            raise ValueError(f"request {request.id}: its id is already in flight; ids must be unique")
        if problem := unusable(request, self._vocabulary, self.context_length):
            raise ValueError(f"request {request.id}: {problem}")
        self._ids.add(request.id)
        self._queue.append(request)

    async def step(self) -> list[Completion]:
        """Advance every request in flight by one token; return those that finished.

        Raises:
          ValueError: the weights gave logits that are not finite.
        """
        started = time.perf_counter()
        completions = self._advance()
        self._ids.difference_update(c.id for c in completions)
        self.stats.busy_s += time.perf_counter() - started
        await asyncio.sleep(0)
        return completions

    def load_weights(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Replace the weights from the next step on; requests in flight keep their cached keys and values.

        Raises:
          ValueError: a name or shape does not fit; nothing is changed then.
        """
        self._installer.install(version, tensors)
        # New requests never reuse a prompt prefilled by older weights.
        self._prefixes.clear()
        self.version = version
        self.stats.weight_loads += 1

    def abort(self, ids: Sequence[str]) -> list[Completion]:
        """End requests now; return what they had sampled. Ids that are not here are ignored."""
        wanted = self._ids.intersection(ids)
        queued = [r for r in self._queue if r.id in wanted]
        self._queue = deque(r for r in self._queue if r.id not in wanted)
        running = [s for s, r in enumerate(self._table.requests) if r is not None and r.id in wanted]
        self._ids -= wanted
        return [self._table.release(slot, "abort") for slot in running] + [nothing_sampled(r.id) for r in queued]

    def add_model(self, alias: str, network: Network, version: int = 0) -> None:
        """Let `score` use another network (reference, teacher, ...) under `alias`."""
        self._models[alias] = (network, version)

    def score(
        self,
        sequences: Sequence[Sequence[int]],
        model: str = "current",
        want: Sequence[str] = ("logprobs",),
        topk: int = 0,
    ) -> list[ScoredSequence]:
        """Score sequences with the weights named by an alias, or by the current version number.

        Raises:
          ValueError: an unknown model or `want`, or an empty sequence.
        """
        known = {"current": (self._network, self.version), str(self.version): (self._network, self.version)}
        known.update(self._models)
        if model not in known:
            raise ValueError(f"model is {model!r}; it must be one of {', '.join(sorted(known))}; see add_model")
        network, version = known[model]
        return score_sequences(network, version, sequences, want, topk, self._device)

    def close(self) -> None:
        """Abort everything; the engine holds no threads or processes."""
        self.abort(list(self._ids))

    @torch.inference_mode()
    def _advance(self) -> list[Completion]:
        table = self._table
        running = table.active.copy()
        completions = []
        if running.any():
            inputs = torch.from_numpy(table.inputs).to(self._device)[:, None]
            positions = torch.from_numpy(table.positions).to(self._device)[:, None]
            self._logits.copy_(self._network.logits(self._network.decode(inputs, positions, self._cache)[:, 0]))
            completions = self._draw(running)
        # The places that were just freed are taken at once: a new request draws its first token from
        # the logits of its prefill, so that no slot idles through a decode call while requests wait.
        started = self._admit()
        if started.any():
            completions += self._draw(started)
        self._count_step(int(running.sum() + started.sum()))
        return completions

    def _draw(self, rows: NDArray[np.bool_]) -> list[Completion]:
        """Sample one token for each slot in `rows` [S]; return the completions that end."""
        table, logits = self._table, self._logits
        for processor in self.logits_processors:
            logits = processor(logits, table)
        uniform = torch.from_numpy(uniforms(self._seed, table.keys, table.counts)).to(self._device)
        tokens, logprobs = (x.cpu().numpy() for x in sample(logits, table.sampling_rows(self._device), uniform))
        if np.isnan(logprobs[rows]).any():
            # Their keys and values are in the cache by now, so no later weights can repair this engine.
            raise ValueError(f"weights version {self.version} give non-finite logits; rebuild the engine with others")
        return table.record(rows, tokens, logprobs, self.version)

    def _admit(self) -> NDArray[np.bool_]:
        """Move queued requests into free slots, in order, prefilling missing prompts; return the slots taken [S]."""
        free = deque(self._table.free.tolist())
        taken = np.zeros(self.slots, np.bool_)
        while free and self._queue:
            if self._queue[0].tokens not in self._prefixes:
                self.stats.prefill_tokens += self._prefixes.prefill(self._missing_prompts())
            placements = []
            while free and self._queue and self._queue[0].tokens in self._prefixes:
                slot, request = free.popleft(), self._queue.popleft()
                placements.append((slot, request.tokens))
                self._table.start(slot, request)
                taken[slot] = True
            self._prefixes.copy(placements, self._cache, self._logits)
        return taken

    def _missing_prompts(self) -> list[tuple[int, ...]]:
        """Return the next ROWS distinct prompts of the queue that need a prefill, looking past the free slots."""
        missing: dict[tuple[int, ...], None] = {}
        for request in self._queue:
            if request.tokens not in self._prefixes:
                missing[request.tokens] = None
                if len(missing) == ROWS:
                    break
        return list(missing)

    def _count_step(self, sampled: int) -> None:
        now = time.perf_counter()
        if not sampled:
            self._last_draw_s = None
            return
        if self._last_draw_s is not None:
            self.stats.longest_gap_s = max(self.stats.longest_gap_s, now - self._last_draw_s)
        self._last_draw_s = now
        self.stats.steps += 1
        self.stats.sampled_tokens += sampled
