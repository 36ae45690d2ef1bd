"""Were the recorded behaviour log-probabilities those of the recorded weights?

While a replay makes one version after the other, every stored token is computed again with the weights
that its stamp names. What came before it is not: like the engine at a swap, the check keeps the keys and
values that older weights left in the cache. A token is fed at the version that samples the next one, and
a prompt at the version of the first one, so stamps that are off by one token or version do not fit.

Dimensions: R rows, C tokens of one call, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.engines.sampling import SamplingRows, drawn_logprobs
from buffers.schema import from_table
from buffers.trajectory import Trajectory
from configs.errors import DataError
from configs.schema import RunConfig
from learners.models.cache import Network
from learners.models.load import load_network

__all__ = ["GenerationCheck", "build"]

ROWS = 64
"""Completions that are computed side by side."""
TOLERANCE = 1e-5
"""Nats; float32 in other shapes of batch than the engine's."""


@dataclass(slots=True)
class Call:
    """One call of `generate`: tokens [start, end) of a trajectory were sampled after all those before."""

    trajectory: Trajectory
    end: int
    entries: Tensor | None = None
    """Keys and values of the tokens that were fed so far."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens [start, end) of a call, sampled by one version."""

    call: Call
    start: int
    end: int
    opens: bool
    """The call begins with it: the prompt is fed as well."""


class GenerationCheck:
    """Fed with every version in turn, it compares; `result` says what it found."""

    def __init__(self, network: Network, trajectories: Sequence[Trajectory]) -> None:
        self._network = network
        self._due: dict[int, list[Piece]] = defaultdict(list)
        self._tokens, self._worst = 0, 0.0
        self._differences: list[str] = []
        for trajectory in trajectories:
            for version, piece in pieces(trajectory):
                self._due[version].append(piece)

    @torch.inference_mode()
    def at(self, version: int, weights: Mapping[str, Tensor]) -> None:
        """Compute again what `weights` sampled; versions must come in ascending order."""
        due = sorted(self._due.pop(version, []), key=lambda piece: piece.end)
        if not due:
            return
        for name, own in self._network.named_weights().items():
            own.copy_(weights[name])
        for first in range(0, len(due), ROWS):
            self._compare(due[first : first + ROWS], version)

    def result(self) -> dict[str, Any]:
        """Return tokens compared, the largest difference in nats, and what differs by more than the tolerance."""
        unknown = [f"{p.call.trajectory.id}: version {v} never was" for v, left in self._due.items() for p in left]
        return {"tokens": self._tokens, "worst": self._worst, "differences": [*self._differences, *unknown]}

    def _compare(self, due: Sequence[Piece], version: int) -> None:
        lost = [p for p in due if not p.opens and p.call.entries is None]
        self._differences += [f"{p.call.trajectory.id}: the versions of its tokens do not ascend" for p in lost]
        due = [p for p in due if p.opens or p.call.entries is not None]
        if not due:
            return
        for piece, logprobs in zip(due, self._recompute(due), strict=True):
            stored = piece.call.trajectory.logprobs[piece.start : piece.end]
            worst = float(np.abs(logprobs - stored).max())
            self._tokens += piece.end - piece.start
            # Not `>`: a NaN differs too.
            if not worst <= TOLERANCE:
                place = f"{piece.call.trajectory.id}, tokens {piece.start} to {piece.end} of version {version}"
                self._differences.append(f"{place}: log-probabilities differ by {worst:.1e}")
            self._worst = max(self._worst, worst)

    def _recompute(self, due: Sequence[Piece]) -> list[NDArray[np.float64]]:
        """Return the log-probabilities of each piece's tokens."""
        hidden = self._feed(due)
        device, logits = hidden.device, self._network.logits(hidden)
        drawn = np.concatenate([p.call.trajectory.tokens[p.start : p.end] for p in due]).astype(np.int64)
        logprobs = drawn_logprobs(logits, sampling_rows(due, device), torch.from_numpy(drawn).to(device)).cpu().numpy()
        ends = [0, *accumulate(p.end - p.start for p in due)]
        return [logprobs[a:b] for a, b in pairwise(ends)]

    def _feed(self, due: Sequence[Piece]) -> Tensor:
        """Feed each piece all its tokens but the last; return the hidden states that predict its tokens, one by one."""
        begins = [0 if p.opens else p.start - 1 for p in due]
        counts = [p.end - 1 - begin for p, begin in zip(due, begins, strict=True)]
        width = max(counts)
        cache = self._network.new_cache(len(due), max(begins) + width)
        tokens = np.zeros((len(due), width), np.int64)
        for row, (piece, begin, count) in enumerate(zip(due, begins, counts, strict=True)):
            tokens[row, :count] = piece.call.trajectory.tokens[begin : begin + count]
            if piece.call.entries is not None:
                cache.entries[:, :, row, :, :begin] = piece.call.entries
        device = cache.entries.device
        positions = torch.tensor(begins)[:, None] + torch.arange(width)
        hidden = self._network.decode(torch.from_numpy(tokens).to(device), positions.to(device), cache)
        for row, piece in enumerate(due):
            goes_on = piece.end < piece.call.end
            piece.call.entries = cache.entries[:, :, row, :, : piece.end - 1].clone() if goes_on else None
        return torch.cat(
            [hidden[row, c - (p.end - p.start) : c] for row, (p, c) in enumerate(zip(due, counts, strict=True))]
        )


def pieces(trajectory: Trajectory) -> Iterator[tuple[int, Piece]]:
    """Yield (version, tokens of one call that it sampled), in order."""
    versions = iter([version for version, count in trajectory.versions for _ in range(count)])
    for span in (s for s in trajectory.spans if s.kind == "turn"):
        stamps = [next(versions) for _ in range(span.start, span.end)]
        call = Call(trajectory, span.end)
        edges = [at for at in range(1, len(stamps)) if stamps[at] != stamps[at - 1]]
        for a, b in pairwise([0, *edges, len(stamps)] if stamps else []):
            yield stamps[a], Piece(call, span.start + a, span.start + b, opens=a == 0)


def sampling_rows(due: Sequence[Piece], device: torch.device) -> SamplingRows:
    """Return how each token of some pieces was drawn."""
    drawn = [p.call.trajectory.sampling for p in due for _ in range(p.start, p.end)]
    return SamplingRows(
        temperature=torch.tensor([s.temperature for s in drawn], dtype=torch.float64, device=device),
        top_k=torch.tensor([s.top_k for s in drawn], device=device),
        top_p=torch.tensor([s.top_p for s in drawn], dtype=torch.float64, device=device),
        any_greedy=any(s.temperature == 0 for s in drawn),
        any_filter=any(s.top_k > 0 or s.top_p < 1 for s in drawn),
    )


def build(config: RunConfig, model_folder: Path, table: pa.Table) -> GenerationCheck:
    """Prepare the check of stored trajectories.

    Raises:
      DataError: another engine than the built-in one generated them, or not in float32.
    """
    if config.engine != "torch" or config.model.dtype != "float32":
        raise DataError(
            f"engine {config.engine} with {config.model.dtype} weights generated this run; only what the "
            "torch engine generates in float32 can be computed again; leave --verify-generation out"
        )
    network = load_network(config.model, model_folder)
    network.prepare_decoding()
    return GenerationCheck(network, from_table(table))
