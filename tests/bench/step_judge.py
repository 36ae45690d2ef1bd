"""A small model that learns to judge the lines of running sums: the process reward model of demonstrations.

It is told of every line whether it is true of its task, and nothing of whether the line is needed, as the labels of
real process reward models are. So it likes a true line as much the second time; a line that is cut off is not true.

    python -m tests.bench.step_judge START FOLDER [--updates 800] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from actors.tasks.running_sums import right_lines
from configs.language import ModelConfig
from learners.models.load import load_network
from learners.models.logprobs import token_logprobs
from learners.models.tokenizer import encode, load_tokenizer
from rewards.process.hosted import padded
from rewards.process.step_head import StepHead, save_head

__all__ = ["PRESET", "train_judge"]

PRESET = Path(__file__).parents[2] / "configs" / "process_hacking.yaml"
BATCH, RATE, WARMUP = 96, 4e-3, 20
LINES, TERMS, FINAL = 8, 3, "#"
RESTATED, WRONG, CUT = 0.5, 0.25, 0.1
"""Share of lines that say one again, that have a wrong digit, and of completions that are cut off."""

Lines = list[tuple[str, bool]]
"""Each with its line end, and whether it is true."""


def train_judge(start: Path, folder: Path, *, updates: int = 800, seed: int = 0) -> dict[str, float]:
    """Write a judge's model folder; return its accuracy on fresh lines, and the share of true ones among them.

    Args:
      start: model folder of a policy that writes such lines: who can add learns soon to tell who cannot.
    """
    model = ModelConfig(path=str(start))
    tokenizer = load_tokenizer(start)
    judge = StepHead(load_network(model, start))
    draw = random.Random(seed)
    optimiser = torch.optim.Adam(judge.parameters(), lr=RATE, betas=(0.9, 0.98))
    for update in range(updates):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (update + 1) / WARMUP, 2 * (1 - update / updates))
        optimiser.zero_grad()
        joint_loss(judge, *batch(tokenizer, draw, BATCH)).backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimiser.step()
    shutil.copytree(start, folder, ignore=shutil.ignore_patterns("*.safetensors", "manifest.json", "state.json"))
    weights = {name: tensor.detach().contiguous() for name, tensor in judge.network.named_weights().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    save_head(judge, folder)
    with torch.no_grad():
        sequences, places, labels = batch(tokenizer, draw, 8 * BATCH)
        found = judge.eval()(sequences, places).argmax(-1).bool()
    return {"accuracy": share(found == labels), "true": share(labels)}


def joint_loss(judge: StepHead, sequences: list[list[int]], places: list[list[int]], labels: Tensor) -> Tensor:
    """Return the loss of judging lines, plus that of predicting results: it shall not forget how to add."""
    tokens = padded(judge.network, sequences)
    hidden = judge.network.forward(tokens, torch.arange(tokens.shape[1]).expand(len(tokens), -1))
    rows = torch.tensor([i for i, where in enumerate(places) for _ in where])
    ends = torch.tensor([end for where in places for end in where])
    judged = F.cross_entropy(judge.head(hidden[rows, ends]), labels.long())
    rows, results = rows[labels], ends[labels] - 1
    logprobs, _ = token_logprobs(hidden[rows, results - 1][None], tokens[rows, results][None], judge.network.logits)
    return judged - logprobs.mean()


def share(chosen: Tensor) -> float:
    return round(float(chosen.double().mean()), 4)


def batch(tokenizer: Any, draw: random.Random, size: int) -> tuple[list[list[int]], list[list[int]], Tensor]:
    """Return tokens of fresh completions, where their lines end, and [lines] bool, whether each is true."""
    sequences, places, labels = [], [], []
    for _ in range(size):
        prompt, lines = completion(draw)
        tokens, ends = list(encode(tokenizer, prompt)), []
        for line, _ in lines:
            tokens += encode(tokenizer, line)
            if line[0] == FINAL and len(line) > 1:
                tokens.append(tokenizer.eos_token_id)  # an answer ends a completion, and that is where it is judged
            ends.append(len(tokens) - 1)
        sequences.append(tokens)
        places.append(ends)
        labels += [true for _, true in lines]
    return sequences, places, torch.tensor(labels)


def completion(draw: random.Random) -> tuple[str, Lines]:
    """Return a prompt with up to eight lines."""
    terms = [draw.randrange(10) for _ in range(TERMS)]
    known = right_lines(terms, 1)
    true = {*known, FINAL + known[-1][-1]}
    lines = [(line if line[0] == FINAL else f"{line}\n", line in true) for line in attempt(terms, draw)]
    if draw.random() < CUT:
        last = lines[-1][0]
        lines[-1] = (last[: draw.randint(1, max(1, len(last) - 2))], False)
    return "+".join(map(str, terms)) + "=", lines


def attempt(terms: list[int], draw: random.Random) -> Iterator[str]:
    """Yield the lines of someone who errs and restates; with an error they go on from what they have."""
    total, left, line = terms[0], terms[1:], ""
    for _ in range(draw.randint(1, LINES)):
        if not line or draw.random() >= RESTATED:
            if not left:
                yield FINAL + str(mistaken(total, draw))
                return
            result = mistaken((total + left[0]) % 10, draw)
            line, total, left = f"{total}+{left[0]}={result}", result, left[1:]
        yield line


def mistaken(digit: int, draw: random.Random) -> int:
    """Return a digit, or, now and then, another one."""
    return (digit + draw.randint(1, 9)) % 10 if draw.random() < WRONG else digit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--updates", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(train_judge(options.start, options.folder, updates=options.updates, seed=options.seed)))


if __name__ == "__main__":
    main()
