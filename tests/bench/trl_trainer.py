"""Samples per second of TRL's GRPOTrainer on a preset's model, tasks, group and batch sizes; two threads.

    python -m tests.bench.trl_trainer [--updates 30]

Prints one JSON line; `tests.bench.end_to_end` puts it beside ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from actors.tasks import training_stream
from configs.load import load_config
from configs.schema import RunConfig
from learners.models.load import create_model_folder
from learners.models.tokenizer import load_tokenizer

PRESET = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
SKIPPED = 5
"""First updates, which do not count."""


class Stopwatch(TrainerCallback):
    """Keeps the time at the end of each update."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ends.append(time.perf_counter())


def correct(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    return [float(completion == want) for completion, want in zip(completions, answer, strict=True)]


def dataset(config: RunConfig, rows: int) -> Dataset:
    tasks = training_stream(config.tasks, config.seed)
    chosen = [tasks.next_group()[2] for _ in range(rows)]
    return Dataset.from_list([{"prompt": task.prompt, "answer": task.answer} for task in chosen])


def settings(config: RunConfig, folder: str, updates: int) -> GRPOConfig:
    learner, batch = config.learner, config.batch
    return GRPOConfig(
        output_dir=folder, per_device_train_batch_size=batch.samples, num_generations=batch.num_generations,
        gradient_accumulation_steps=1, max_completion_length=config.rollout.max_completion_length,
        learning_rate=learner.learning_rate, max_grad_norm=learner.max_grad_norm, max_steps=updates, beta=learner.beta,
        temperature=config.rollout.temperature, report_to=[], save_strategy="no", use_cpu=True, bf16=False,
        disable_tqdm=True, logging_steps=updates,
    )  # fmt: skip


def measure(updates: int) -> float:
    """Return samples/s, from the median update."""
    torch.set_num_threads(2)
    config = load_config([PRESET], [])
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        model = create_model_folder(config.model, Path(folder) / "model", config.seed)
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(model),
            reward_funcs=correct,
            args=settings(config, folder, updates),
            train_dataset=dataset(config, updates * config.batch.prompts_per_update),
            processing_class=load_tokenizer(model),
            callbacks=[watch],
        )
        trainer.train()
    times = [after - before for before, after in zip(watch.ends, watch.ends[1:], strict=False)]
    return config.batch.samples / statistics.median(times[SKIPPED:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=30)
    print(json.dumps({"trl_samples_per_s": round(measure(parser.parse_args().updates))}))


if __name__ == "__main__":
    main()
