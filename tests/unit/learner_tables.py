"""Learner batches for tests: random groups in the real trajectory schema, and a tiny model folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from buffers.identity import Slot
from buffers.schema import to_table
from buffers.schema import with_rewards as rewarded
from buffers.scores import StepRewards
from buffers.trajectory import Kind, Trajectory
from configs.language import ModelConfig
from learners.models.load import create_model_folder

VOCABULARY = 12
MODEL = ModelConfig(
    architecture={
        "model_type": "qwen3",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "tie_word_embeddings": True,
        "max_position_embeddings": 64,
    },
    characters="0123456789",
)


def model_folder(folder: Path, seed: int = 0) -> Path:
    return create_model_folder(MODEL, folder, seed=seed)


def trajectory(
    task: int, sample: int, tokens: Sequence[int], kinds: Sequence[int], logprob: float = -2.0
) -> Trajectory:
    kind = np.array(kinds, np.uint8)
    sampled = kind == Kind.SAMPLED
    return Trajectory(
        slot=Slot("test", 0, task, sample),
        attempt=0,
        tokens=np.array(tokens, np.int32),
        kinds=kind,
        logprobs=np.where(sampled, logprob, 0.0).astype(np.float32),
        versions=[(0, int(sampled.sum()))],
        prompt="",
        completion="",
    )


def with_rewards(
    trajectories: Sequence[Trajectory], rewards: Sequence[float | None], steps: Sequence[StepRewards | None] = ()
) -> pa.Table:
    return rewarded(to_table(trajectories), rewards, steps=steps)


def random_table(seed: int = 0, groups: int = 4, size: int = 3, invalid: Sequence[int] = ()) -> pa.Table:
    """Return groups of `size` samples with prompts of 3 to 5 and completions of 1 to 4 tokens."""
    generator = np.random.default_rng(seed)
    rows = []
    for task in range(groups):
        prompt = generator.integers(2, VOCABULARY, generator.integers(3, 6)).tolist()
        for sample in range(size):
            completion = generator.integers(2, VOCABULARY, generator.integers(1, 5)).tolist()
            kinds = [Kind.PROMPT] * len(prompt) + [Kind.SAMPLED] * len(completion)
            rows.append(trajectory(task, sample, prompt + completion, kinds))
    rewards = generator.random(len(rows)).tolist()
    return with_rewards(rows, [None if i in invalid else r for i, r in enumerate(rewards)])
