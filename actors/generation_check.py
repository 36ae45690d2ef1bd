"""Were the recorded behaviour log-probabilities those of the recorded weights?

While a replay makes one version after the other, every stored token is computed again with the weights
that its stamp names. What came before it is not: like the engine at a swap, the check keeps the keys and
values that older weights left in the cache. A token is fed at the version that samples the next one, and
a prompt at the version of the first one, so stamps that are off by one token or version do not fit. The
network is called with the engine's own shapes, on which float32 results depend.

Dimensions: S slots, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from actors.engines.prefix import ROWS, PrefixCache
from actors.engines.sampling import SamplingRows, drawn_logprobs
from actors.fragment_check import FragmentCheck
from actors.fragment_check import build as build_fragment_check
from buffers.schema import from_table
from buffers.trajectory import Trajectory
from configs.adapter import NO_ADAPTER, AdapterConfig
from configs.errors import DataError
from configs.schema import RunConfig
from learners.models.adapter import Installer
from learners.models.cache import Network
from learners.models.load import load_network

__all__ = ["GenerationCheck", "build"]

TOLERANCE = 1e-5
"""Nats, float32."""


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

    @property
    def tokens(self) -> list[int]:
        """All tokens up to its end."""
        tokens: list[int] = self.call.trajectory.tokens[: self.end].tolist()
        return tokens


class GenerationCheck:
    """Fed with every version in turn, it compares; `result` says what it found."""

    def __init__(
        self,
        network: Network,
        trajectories: Sequence[Trajectory],
        *,
        slots: int,
        context_length: int,
        prefill_chunk: int,
        threads: int,
        adapter: AdapterConfig = NO_ADAPTER,
    ) -> None:
        """Prepare to compute `trajectories` again; the settings are those of the engine that sampled them."""
        network.prepare_decoding()
        self._installer = Installer(network.named_weights(), adapter)
        length = -(-context_length // prefill_chunk) * prefill_chunk
        self._network, self._slots, self._threads = network, slots, threads
        self._cache = network.new_cache(slots, length)
        self._device = self._cache.entries.device
        self._prefixes = PrefixCache(network, length, prefill_chunk, self._device)
        self._due: dict[int, list[Piece]] = defaultdict(list)
        self._tokens, self._worst = 0, 0.0
        self._differences: list[str] = []
        for trajectory in trajectories:
            for version, piece in pieces(trajectory):
                self._due[version].append(piece)

    def at(self, version: int, weights: Mapping[str, Tensor]) -> None:
        """Compute again what `weights` sampled; versions must come in ascending order."""
        if version not in self._due:
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            self._compute_again(version, weights)
        finally:
            torch.set_num_threads(threads)

    def result(self) -> dict[str, Any]:
        """Return tokens compared, the largest difference in nats, and what differs by more than the tolerance."""
        unknown = [f"{p.call.trajectory.id}: version {v} never was" for v, left in self._due.items() for p in left]
        return {"tokens": self._tokens, "worst": self._worst, "differences": [*self._differences, *unknown]}

    @torch.inference_mode()
    def _compute_again(self, version: int, weights: Mapping[str, Tensor]) -> None:
        self._installer.install(version, weights)
        self._prefixes.clear()
        due = self._due.pop(version)
        lost = [p for p in due if not p.opens and p.call.entries is None]
        self._differences += [f"{p.call.trajectory.id}: the versions of its tokens do not ascend" for p in lost]
        # Pieces of about equal length side by side: all slots step as often as the longest one.
        due = sorted((p for p in due if p.opens or p.call.entries is not None), key=lambda p: p.end - p.start)
        for first in range(0, len(due), self._slots):
            wave = due[first : first + self._slots]
            for piece, found in zip(wave, self._force(wave), strict=True):
                self._compare(piece, found, version)

    def _force(self, wave: Sequence[Piece]) -> list[list[float]]:
        """Step the slots through the recorded tokens of each piece; return their log-probabilities."""
        logits = self._begin(wave)
        rows = sampling_rows(wave, self._slots, self._device)
        found: list[list[float]] = [[] for _ in wave]
        tokens = [piece.tokens for piece in wave]
        at = [piece.start for piece in wave]
        # The first token of a call is drawn from the logits of its prompt, before any step.
        drawing = [row for row, piece in enumerate(wave) if piece.opens]
        while True:
            targets = torch.zeros(self._slots, dtype=torch.long)
            for row in drawing:
                targets[row] = tokens[row][at[row]]
            logprobs = drawn_logprobs(logits, rows, targets.to(self._device)).tolist()
            for row in drawing:
                found[row].append(logprobs[row])
                at[row] += 1
            drawing = [row for row, piece in enumerate(wave) if at[row] < piece.end]
            if not drawing:
                break
            inputs, positions = torch.zeros(2, self._slots, 1, dtype=torch.long)
            for row in range(len(wave)):
                # A finished row repeats its last step, like the engine's idle slots.
                place = min(at[row], wave[row].end - 1) - 1
                inputs[row], positions[row] = tokens[row][place], place
            hidden = self._network.decode(inputs.to(self._device), positions.to(self._device), self._cache)
            logits = self._network.logits(hidden[:, 0])
        self._keep(wave)
        return found

    def _begin(self, wave: Sequence[Piece]) -> Tensor:
        """Put what each piece continues into its slot; return the logits [S, V] after prompts."""
        logits = torch.zeros(self._slots, int(self._network.config.vocab_size), device=self._device)
        for row, piece in enumerate(wave):
            if piece.call.entries is not None:
                self._cache.entries[:, :, row, :, : piece.start - 1] = piece.call.entries
        prompts = {row: tuple(p.tokens[: p.start]) for row, p in enumerate(wave) if p.opens}
        distinct = list(dict.fromkeys(prompts.values()))
        for first in range(0, len(distinct), ROWS):
            block = distinct[first : first + ROWS]
            self._prefixes.prefill(block)
            placed = [(row, prompt) for row, prompt in prompts.items() if prompt in block]
            self._prefixes.copy(placed, self._cache, logits)
        return logits

    def _keep(self, wave: Sequence[Piece]) -> None:
        """Store the cache of calls that go on under a later version; the last token is not fed yet."""
        for row, piece in enumerate(wave):
            entries = self._cache.entries[:, :, row, :, : piece.end - 1]
            piece.call.entries = entries.clone() if piece.end < piece.call.end else None

    def _compare(self, piece: Piece, found: Sequence[float], version: int) -> None:
        trajectory = piece.call.trajectory
        worst = float(np.abs(np.array(found, np.float32) - trajectory.logprobs[piece.start : piece.end]).max())
        self._tokens += len(found)
        self._worst = max(self._worst, worst)
        # Not `>`: a NaN differs too.
        if not worst <= TOLERANCE:
            place = f"{trajectory.id}, tokens {piece.start} to {piece.end} of version {version}"
            self._differences.append(f"{place}: log-probabilities differ by {worst:.1e}")


def pieces(trajectory: Trajectory) -> Iterator[tuple[int, Piece]]:
    """Yield (version, tokens of one call that it sampled), in order."""
    versions = iter([version for version, count in trajectory.versions for _ in range(count)])
    for span in (s for s in trajectory.spans if s.kind == "turn"):
        stamps = [next(versions) for _ in range(span.start, span.end)]
        call = Call(trajectory, span.end)
        edges = [at for at in range(1, len(stamps)) if stamps[at] != stamps[at - 1]]
        for a, b in pairwise([0, *edges, len(stamps)] if stamps else []):
            yield stamps[a], Piece(call, span.start + a, span.start + b, opens=a == 0)


def sampling_rows(wave: Sequence[Piece], slots: int, device: torch.device) -> SamplingRows:
    """Return how each slot draws; idle ones as the first."""
    drawn = [piece.call.trajectory.sampling for piece in wave]
    drawn += drawn[:1] * (slots - len(drawn))
    return SamplingRows(
        temperature=torch.tensor([s.temperature for s in drawn], dtype=torch.float64, device=device),
        top_k=torch.tensor([s.top_k for s in drawn], device=device),
        top_p=torch.tensor([s.top_p for s in drawn], dtype=torch.float64, device=device),
        any_greedy=any(s.temperature == 0 for s in drawn),
        any_filter=any(s.top_k > 0 or s.top_p < 1 for s in drawn),
    )


def build(config: RunConfig, model_folder: Path, table: pa.Table) -> GenerationCheck | FragmentCheck:
    """Prepare the check of stored trajectories, of either kind.

    Raises:
      DataError: another engine than the built-in one generated them, or not in float32.
    """
    if config.is_decision:
        return build_fragment_check(config, model_folder, table)
    if config.engine != "torch" or config.model.dtype != "float32":
        raise DataError(
            f"engine {config.engine} with {config.model.dtype} weights generated this run; only what the "
            "torch engine generates in float32 can be computed again; leave --verify-generation out"
        )
    rollout = config.rollout
    return GenerationCheck(
        load_network(config.model, model_folder),
        from_table(table),
        slots=rollout.slots,
        context_length=rollout.context_length,
        prefill_chunk=rollout.prefill_chunk,
        threads=rollout.threads,
        adapter=config.model.adapter,
    )
