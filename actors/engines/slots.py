"""What is in flight, as arrays over slots, so that a decode step does no Python work per slot.

Dimensions: S slots, L context length, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from actors.engines.base import Completion, Request
from actors.engines.sampling import SamplingRows
from actors.engines.stopping import StopStrings

__all__ = ["SlotTable"]


class SlotTable:
    """S places for requests. Idle ones are computed along with the last token they held, and ignored."""

    def __init__(self, slots: int, context_length: int, eos: NDArray[np.bool_], stop_strings: StopStrings) -> None:
        """`eos` [V] bool marks the tokens that end a completion."""
        self.requests: list[Request | None] = [None] * slots
        self.active = np.zeros(slots, np.bool_)
        self.inputs = np.zeros(slots, np.int64)
        """[S] token to feed next"""
        self.positions = np.zeros(slots, np.int64)
        """[S] where it goes"""
        self.counts = np.zeros(slots, np.int64)
        """[S] tokens sampled so far"""
        self.keys = np.zeros(slots, np.uint64)
        self.tokens = np.zeros((slots, context_length), np.int32)
        """[S, L] sampled tokens"""
        self._logprobs = np.zeros((slots, context_length), np.float32)
        self._versions = np.zeros((slots, context_length), np.int64)
        self._limits = np.zeros(slots, np.int64)
        self._temperature = np.ones(slots)
        self._top_k = np.zeros(slots, np.int64)
        self._top_p = np.ones(slots)
        self._eos = eos
        self._stop_strings = stop_strings
        self._stopping: dict[int, tuple[str, ...]] = {}
        self._rows: SamplingRows | None = None

    @property
    def free(self) -> NDArray[np.int64]:
        """Indices of idle slots, ascending."""
        return np.flatnonzero(~self.active)

    def start(self, slot: int, request: Request) -> None:
        """Put a request whose prompt is prefilled into an idle slot."""
        sampling = request.sampling
        self.requests[slot] = request
        self.active[slot] = True
        self.positions[slot] = len(request.tokens) - 1
        self.counts[slot] = 0
        self.keys[slot] = request.key & 0xFFFFFFFFFFFFFFFF
        self._limits[slot] = sampling.max_completion_length
        self._temperature[slot] = sampling.temperature
        self._top_k[slot] = sampling.top_k
        self._top_p[slot] = sampling.top_p
        if sampling.stop:
            self._stopping[slot] = sampling.stop
        self._rows = None

    def sampling_rows(self, device: torch.device) -> SamplingRows:
        """Return how each slot draws; rebuilt only after requests came or went."""
        if self._rows is None:
            self._rows = SamplingRows(
                temperature=torch.tensor(self._temperature, device=device),
                top_k=torch.tensor(self._top_k, device=device),
                top_p=torch.tensor(self._top_p, device=device),
                any_greedy=bool((self._temperature == 0).any()),
                any_filter=bool((self._top_k > 0).any() or (self._top_p < 1).any()),
            )
        return self._rows

    def record(
        self, rows: NDArray[np.bool_], tokens: NDArray[np.int64], logprobs: NDArray[np.float64], version: int
    ) -> list[Completion]:
        """Store the drawn tokens [S] of `rows` [S]; return the completions that they end."""
        index = np.flatnonzero(rows)
        counts = self.counts[index]
        self.tokens[index, counts] = self.inputs[index] = tokens[index]
        self._logprobs[index, counts] = logprobs[index]
        self._versions[index, counts] = version
        self.counts[index] += 1
        self.positions[index] += 1
        stopped = self._eos[tokens]
        for slot, stop in self._stopping.items():
            if self._stop_strings.may_complete(stop)[tokens[slot]]:
                stopped[slot] |= self._stop_strings.completed(self.tokens[slot, : self.counts[slot]], stop)
        ended = np.flatnonzero(rows & (stopped | (self.counts >= self._limits)))
        return [self.release(slot, "stop" if stopped[slot] else "length") for slot in ended.tolist()]

    def release(self, slot: int, reason: str) -> Completion:
        """Empty a slot and return what its request had sampled."""
        request, count = self.requests[slot], int(self.counts[slot])
        assert request is not None, f"slot {slot} is idle"
        completion = Completion(
            id=request.id,
            tokens=self.tokens[slot, :count].copy(),
            logprobs=self._logprobs[slot, :count].copy(),
            versions=self._versions[slot, :count].copy(),
            finish_reason=reason,
        )
        self.requests[slot] = None
        self.active[slot] = False
        self._temperature[slot], self._top_k[slot], self._top_p[slot] = 1.0, 0, 1.0
        self._stopping.pop(slot, None)
        return completion
