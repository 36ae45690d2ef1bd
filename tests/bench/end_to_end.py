"""Trained samples per second: headrace on Ray against a plain synchronous loop with two threads.

The loop is what a careful user writes in one file: Hugging Face's model with a dynamic cache, sampling and
learning in turns, two threads. Same preset, tasks, model, batch and optimiser; both start from random
weights, so that completions have their longest length. Ray, rewards, ledger and files are included
on our side, evaluations and starting up on neither.

    python -m tests.bench.end_to_end [--updates 60] [--trl]

`--trl` adds TRL's GRPOTrainer (see `trl_trainer.py`; pip install '.[bench]'), which gets two threads as well.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import launch
from actors.tasks import training_stream
from buffers.records.query import query
from buffers.trajectory import Task
from configs.load import load_config
from configs.schema import RunConfig
from learners.models.load import create_model_folder
from learners.models.tokenizer import encode, load_tokenizer

PRESET = Path(launch.__file__).parent / "configs" / "quickstart.yaml"
SKIPPED = 10
"""First updates, which do not count."""


class SyncLoop:
    """Synchronous GRPO, one process."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self._config = config
        self._model = AutoModelForCausalLM.from_pretrained(folder)
        self._tokenizer = load_tokenizer(folder)
        self._tasks = training_stream(config.tasks, config.seed)
        self._optimiser = torch.optim.AdamW(self._model.parameters(), lr=config.learner.learning_rate)

    def update(self) -> None:
        """Sample a batch, score it, and take one step of the clipped surrogate."""
        batch = self._config.batch
        tasks = [self._tasks.next_group()[2] for _ in range(batch.prompts_per_update)]
        tasks = [task for task in tasks for _ in range(batch.num_generations)]
        prompts, padding = self._pad(tasks)
        sampled, behaviour = self._generate(prompts, padding)
        groups = self._score(sampled, tasks).view(-1, batch.num_generations)
        spread = groups.std(1, keepdim=True) + 1e-4
        self._learn(prompts, padding, sampled, behaviour, ((groups - groups.mean(1, keepdim=True)) / spread).view(-1))

    def _pad(self, tasks: list[Task]) -> tuple[Tensor, Tensor]:
        texts = [encode(self._tokenizer, task.prompt) for task in tasks]
        longest = max(map(len, texts))
        rows = [[0] * (longest - len(text)) + list(text) for text in texts]
        return torch.tensor(rows), torch.tensor([[0] * (longest - len(t)) + [1] * len(t) for t in texts])

    @torch.no_grad()
    def _generate(self, prompts: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        tokens, mask, cache = prompts, padding, None
        done = torch.zeros(len(prompts), dtype=torch.bool)
        sampled, logprobs = [], []
        for _ in range(self._config.rollout.max_completion_length):
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
            output = self._model(tokens, attention_mask=mask, position_ids=positions, past_key_values=cache)
            cache, logits = output.past_key_values, output.logits[:, -1].log_softmax(-1)
            token = torch.where(done, self._tokenizer.eos_token_id, logits.exp().multinomial(1)[:, 0])
            sampled.append(token)
            logprobs.append(logits.gather(1, token[:, None])[:, 0])
            done |= token == self._tokenizer.eos_token_id
            if done.all():
                break
            tokens, mask = token[:, None], torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        return torch.stack(sampled, 1), torch.stack(logprobs, 1)

    def _score(self, sampled: Tensor, tasks: list[Task]) -> Tensor:
        texts = self._tokenizer.batch_decode(sampled, skip_special_tokens=True)
        return torch.tensor([float(text == task.answer) for text, task in zip(texts, tasks, strict=True)])

    def _learn(self, prompts: Tensor, padding: Tensor, sampled: Tensor, behaviour: Tensor, advantages: Tensor) -> None:
        ended = (sampled == self._tokenizer.eos_token_id).int()
        mask = (ended.cumsum(1) - ended == 0).float()
        tokens, seen = torch.cat([prompts, sampled], 1), torch.cat([padding, torch.ones_like(sampled)], 1)
        positions = (seen.cumsum(1) - 1).clamp(min=0)
        logits = self._model(tokens, attention_mask=seen, position_ids=positions).logits
        logprobs = logits[:, prompts.shape[1] - 1 : -1].log_softmax(-1).gather(2, sampled[:, :, None])[:, :, 0]
        ratio, weight = (logprobs - behaviour).exp(), advantages[:, None]
        loss = -(torch.minimum(ratio * weight, ratio.clamp(0.8, 1.2) * weight) * mask).sum() / mask.sum()
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._config.learner.max_grad_norm)
        self._optimiser.step()


def settings(folder: Path, updates: int) -> list[str]:
    return [
        f"updates={updates}", f"runs_folder={folder}", "name=bench", "warm_start.updates=0", "eval.tasks=0",
        "logging.report=false", "logging.view=quiet", "logging.tensorboard=false", "checkpoint.every=0",
    ]  # fmt: skip


def measure_loop(updates: int) -> float:
    """Return samples/s of the loop, from the median update."""
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        config = load_config([PRESET], settings(Path(folder), updates))
        loop = SyncLoop(config, create_model_folder(config.model, Path(folder) / "model", config.seed))
        times = []
        for _ in range(updates):
            began = time.perf_counter()
            loop.update()
            times.append(time.perf_counter() - began)
    return config.batch.samples / statistics.median(times[SKIPPED:])


def measure_headrace(updates: int) -> tuple[float, float]:
    """Return (samples/s between the version rows of two updates, mean staleness) of a run on Ray."""
    with tempfile.TemporaryDirectory() as folder:
        assert launch.main(["run", str(PRESET), *settings(Path(folder), updates)]) == 0
        run = Path(folder) / "bench"
        rows = query(run, "SELECT version, num_trained, time FROM versions ORDER BY version").to_pylist()
        staleness = json.loads((run / "summary.json").read_text())["staleness"]["mean"]
    counted = rows[SKIPPED:]
    samples = sum(row["num_trained"] for row in counted[1:])
    return samples / (counted[-1]["time"] - counted[0]["time"]), staleness


def measure_trl(updates: int) -> float:
    """Return samples/s of TRL's trainer, in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.trl_trainer", "--updates", str(updates)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode:
        sys.exit(f"TRL: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["trl_samples_per_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--trl", action="store_true")
    options = parser.parse_args()
    updates = options.updates
    loop = measure_loop(updates // 2)
    ours, staleness = measure_headrace(updates)
    found = {
        "headrace_samples_per_s": round(ours),
        "sync_loop_samples_per_s": round(loop),
        "ratio": round(ours / loop, 2),
        "mean_staleness": staleness,
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    if options.trl:
        trl = measure_trl(updates // 2)
        found |= {"trl_samples_per_s": trl, "ratio_to_trl": round(ours / trl, 2)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
