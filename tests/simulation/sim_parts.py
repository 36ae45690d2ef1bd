"""Stand-ins for the engine and for the learner's maths: tiny, exact, behind their contracts.

A sampled token is a hash of the request's key, its place and the weights; new weights are a hash of the old
ones and of all that was trained. So any token, order or version that is not as it should be changes the end.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
import xxhash
from sim_network import current_process
from sim_witness import Lineage, Witness, slot_of

from actors.engines.base import Completion, EngineStats, Request
from actors.rollouts import request_key
from actors.tasks.split import Split
from actors.tasks.stream import TaskStream
from buffers.digest import chain_digest
from buffers.identity import Slot
from buffers.scores import Sample, Score, ScoreStatus
from buffers.trajectory import Task
from configs.errors import RunError
from learners.collective import Alone, Collective
from learners.models.tokenizer import character_tokenizer, encode
from learners.models.weights import Layout
from learners.progress import LearnerState, Progress
from learners.publish import Buckets, Publisher, PublishStats
from learners.rank import LearnerRank
from rewards.base import Component

__all__ = [
    "HashEngine",
    "HashGroupReward",
    "HashRank",
    "HashReward",
    "WitnessedPublisher",
    "sampled_tokens",
    "task_stream",
    "tokenizer",
]

ALPHABET = "0123456789+= "
CONTEXT = 32


@functools.cache
def tokenizer() -> Any:
    return character_tokenizer(ALPHABET)


def fingerprint(weights: Mapping[str, torch.Tensor]) -> int:
    return int(weights["w"][0])


def length_of(key: int, limit: int) -> int:
    """Heavy-tailed: most completions are short, some take the whole budget."""
    return min(limit, 1 + int(2 * random.Random(key).paretovariate(1.2) - 2))


def token_at(key: int, place: int, weights: int) -> int:
    return xxhash.xxh3_64_intdigest(f"{key}/{place}/{weights}".encode()) % len(ALPHABET)


def sampled_tokens(seed: int, row: Mapping[str, Any], weights: Mapping[int, int]) -> list[int]:
    """Return the tokens that a trajectory row should hold, given the weights of each version."""
    key = request_key(seed, Slot(row["source"], row["epoch"], row["task"], row["sample"]), 0, 0)
    stamps = [v for v, n in zip(row["version_values"], row["version_counts"], strict=True) for _ in range(n)]
    sampled = [token_at(key, place, weights.get(version, -1)) for place, version in enumerate(stamps)]
    return [*encode(tokenizer(), row["prompt"]), *sampled]


class HashEngine:
    """Decodes one token of every request per step, in lognormal virtual time."""

    def __init__(
        self, rng: random.Random, witness: Witness, *, step_s: float, broken_share: float, poison_share: float = 0.0,
        silence_s: float = 0.0,
    ) -> None:  # fmt: skip
        self.version, self.slots, self.context_length, self.stats = 0, 4, CONTEXT, EngineStats()
        self._rng, self._witness, self._step_s, self._broken_share = rng, witness, step_s, broken_share
        self._poison_share, self._silence_s = poison_share, silence_s
        self._weights = 0  # what no publisher ever sent
        self._requests: dict[str, tuple[Request, int, list[int], list[int]]] = {}

    @property
    def busy(self) -> bool:
        return bool(self._requests)

    @property
    def free_slots(self) -> int:
        return max(0, self.slots - len(self._requests))

    def submit(self, request: Request) -> None:
        if random.Random(f"poison {request.key}").random() < self._poison_share and (worker := current_process()):
            self._witness.killed[slot_of(request.id.split("/")[0] + ".0")] += 1
            worker.kill()
        if random.Random(request.key).random() < self._broken_share:
            raise RunError("no attempt at this task can succeed")
        if self._rng.random() < self._broken_share:
            raise ValueError("the engine hiccups")
        length = length_of(request.key, request.sampling.max_completion_length)
        if request.id in self._requests:
            self._witness.refuse(f"{request.id} is generated twice at a time")
        self._requests[request.id] = (request, length, [], [])

    async def step(self) -> list[Completion]:
        weights, version = self._weights, self.version
        silent = bool(self._silence_s) and self._rng.random() < 0.002
        await asyncio.sleep(self._silence_s if silent else self._step_s * self._rng.lognormvariate(0.0, 0.8))
        finished = []
        for request, length, tokens, versions in list(self._requests.values())[: self.slots]:
            tokens.append(token_at(request.key, len(tokens), weights))
            versions.append(version)
            if len(tokens) == length:
                del self._requests[request.id]
                finished.append(_completion(request.id, tokens, versions))
        return finished

    def load_weights(self, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
        self._witness.loaded(version, fingerprint(tensors))
        self.version, self._weights = version, fingerprint(tensors)

    def close(self) -> None:
        self._requests.clear()


def _completion(request: str, tokens: list[int], versions: list[int]) -> Completion:
    size = len(tokens)
    return Completion(
        id=request, tokens=np.array(tokens, np.int32), logprobs=np.zeros(size, np.float32),
        versions=np.array(versions, np.int64), finish_reason="stop",
    )  # fmt: skip


class HashLearner:
    """What `LearnerRank` asks of a `PolicyLearner`; a witness looks at every batch."""

    def __init__(self, lineage: Lineage) -> None:
        self.progress, self._lineage = Progress(), lineage
        self._weights = torch.tensor([1], dtype=torch.int64)

    @property
    def version(self) -> int:
        return self.progress.version

    @property
    def layout(self) -> Layout:
        return Layout.of(self.weights())

    def weights(self) -> dict[str, torch.Tensor]:
        return {"w": self._weights}

    def buckets(self, limit: int) -> list[dict[str, torch.Tensor]]:
        return [self.weights()]

    def update(self, table: pa.Table) -> dict[str, float]:
        ids = self._lineage.trains(self.version, table)
        slots = [slot_of(i) for i in ids]  # attempts differ with the faults, slots do not
        columns = table.select(["tokens", "reward"]).to_pylist()
        made = xxhash.xxh3_64_intdigest(f"{fingerprint(self.weights())}/{slots}/{columns}".encode()) >> 1
        self._weights = torch.tensor([made], dtype=torch.int64)
        self.progress.advance(chain_digest(self.progress.trained_digest, ids), len(ids))
        return {"policy/loss": 0.0}

    def state(self) -> LearnerState:
        return LearnerState(
            progress=copy.copy(self.progress), model=self.weights(), optimiser={}, reference={},
            rng=torch.zeros(8, dtype=torch.uint8),
        )  # fmt: skip

    def load(self, state: LearnerState) -> None:
        self._weights, self.progress = state.model["w"], copy.copy(state.progress)
        self._lineage.resumes(self.version)


class HashRank(LearnerRank):
    """The real rank around a `HashLearner`."""

    def __init__(self, lineage: Lineage, *arguments: Any, **named: Any) -> None:
        self._lineage = lineage
        super().__init__(*arguments, **named)

    def first_weights(self) -> dict[str, torch.Tensor]:
        return self._learner.weights()

    def _open(self) -> Any:
        self._collective: Collective = Alone()
        return HashLearner(self._lineage)


class WitnessedPublisher:
    """A publisher whose every version is noted."""

    def __init__(self, publisher: Publisher, lineage: Lineage) -> None:
        self._publisher, self._lineage = publisher, lineage
        self.receiver, self.close, self.waiting = publisher.receiver, publisher.close, publisher.waiting

    def publish(self, version: int, buckets: Buckets) -> PublishStats:
        (tensors,) = buckets
        self._lineage.published(version, fingerprint(tensors))
        return self._publisher.publish(version, [tensors])


LONGEST_S = 1.0
"""Well within the deadline of a call: one in 50,000 would take longer, and a time-out changes what is trained."""


@dataclass(frozen=True, kw_only=True)
class HashReward(Component):
    """A value that the completion determines, after a while; some completions never get one."""

    seed: int
    typical_s: float = 0.05
    failing_share: float = 0.0
    when: str = "arrival"

    async def score(self, samples: Sequence[Sample]) -> list[Score]:
        rng = random.Random(f"{self.seed}/{samples[0].id}/{len(samples)}")
        await asyncio.sleep(min(self.typical_s * rng.lognormvariate(0.0, 1.0), LONGEST_S))
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> Score:
        draw = random.Random(f"{self.seed}/{sample.prompt}/{sample.completion}")
        if draw.random() < self.failing_share:
            return Score.invalid(ScoreStatus.ABSTAINED, "cannot tell")
        return Score(value=draw.choice([0.0, 0.5, 1.0]))


@dataclass(frozen=True, kw_only=True)
class HashGroupReward(HashReward):
    """The same for whole groups: the buffer holds their samples back until all have come."""

    scope: ClassVar[str] = "group"


class Sums:
    """A listed task source."""

    name, fingerprint, listed = "sums", "0" * 64, True

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def task(self, index: int) -> Task:
        return Task(source=self.name, index=index, prompt=f"{index}+1=", answer=str(index + 1))


def task_stream(count: int, seed: int) -> TaskStream:
    return TaskStream(Sums(count), Split(0.0), seed=seed)
