"""Ranks in processes of their own that train the same batches under every backend."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parent.parent / "unit"))
from learner_tables import MODEL, random_table

from buffers.transport import free_address
from configs.adapter import NO_ADAPTER, AdapterConfig
from configs.learning import LearnerConfig
from learners.checkpoint import load_checkpoint, save_checkpoint
from learners.collective import Alone, Collective, RankGroup
from learners.policy_learner import PolicyLearner

BACKENDS: dict[str, dict[str, Any]] = {
    "ddp": {"target": "ddp"},
    "fsdp2": {"target": "fsdp2"},
    "fsdp2 kept": {"target": "fsdp2", "reshard_after_forward": False},
    "zero 1": {"target": "zero", "stage": 1},
    "zero 2": {"target": "zero", "stage": 2},
    # So that no weight is small enough to stay whole.
    "zero 3": {"target": "zero", "stage": 3, "stage3_param_persistence_threshold": 0},
}
# So few tokens per micro-batch that ranks accumulate over several, and over different numbers of them. Clipping
# bites, decay differs between matrices and norms, and several steps per update need proximal log-probabilities.
CONFIG = LearnerConfig(
    beta=0.1, minibatches=2, micro_batch_tokens=16, learning_rate=1e-2, max_grad_norm=0.02, weight_decay=0.1
)
# Without clipping, which hides how large the gradients were from the moments.
ADAPTED: dict[str, Any] = {"adapter": AdapterConfig(rank=2, alpha=4.0), "max_grad_norm": 1e6}
LONG: dict[str, dict[str, Any]] = {"long": {}, "adapter": ADAPTED}
"""What is trained, for four updates: all weights, or an adapter."""
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "recomputed": {"activation_checkpointing": True},
    "bf16": {"bf16": True},
    "bf16 adapter": {**ADAPTED, "bf16": True},
}
"""Changes of the learner's or the model's settings that every backend must take alike."""
GROUPS = (5, 4, 1, 6)
"""Groups of each update; with a single one all ranks but the first have nothing."""
BUCKET = 2000
"""Bytes: several tensors in some buckets, one alone in others."""

Job = Callable[[Collective, Path, Path], Mapping[str, Any]]


def learner(
    folder: Path, backend: str, group: Collective, adapter: AdapterConfig = NO_ADAPTER, **changes: Any
) -> PolicyLearner:
    config = replace(CONFIG, backend=BACKENDS[backend], ranks=group.size, **changes)
    return PolicyLearner(config, replace(MODEL, adapter=adapter), folder, collective=group, seed=3)


def updates(policy: PolicyLearner, *numbers: int) -> list[dict[str, float]]:
    return [policy.update(random_table(number, GROUPS[number])) for number in numbers]


def equality(*names: str) -> Job:
    """Return a job that makes four updates under each backend, and two of each variant."""

    def train(group: Collective, folder: Path, out: Path) -> dict[str, Any]:
        return {
            name: {
                **{kind: trained(learner(folder, name, group, **c), 0, 1, 2, 3) for kind, c in LONG.items()},
                # Of several groups, and of a single one.
                **{kind: trained(learner(folder, name, group, **changes), 0, 2) for kind, changes in VARIANTS.items()},
            }
            for name in names
        }

    return train


def trained(policy: PolicyLearner, *numbers: int) -> dict[str, Any]:
    """Return what some updates left behind, and how often a layer was computed for their gradients."""
    passes = Counter[bool]()
    policy.network.model.layers[0].mlp.register_forward_pre_hook(lambda *_: passes.update([torch.is_grad_enabled()]))
    metrics, published = [], []
    for number in numbers:
        metrics += updates(policy, number)
        # Cloned bucket by bucket, as a publisher copies them.
        published.append({n: w.clone() for bucket in policy.buckets(BUCKET) for n, w in bucket.items()})
    state = policy.state()
    kept = {"optimiser": dict(state.optimiser), "model": dict(state.model)}
    return {"metrics": metrics, "published": published, **kept, "passes": passes[True]}


def chain(*names: str) -> Job:
    """Return a job that continues the newest checkpoint of each kind in `LONG`, an update for each backend."""

    def go_on(group: Collective, folder: Path, out: Path) -> dict[str, Any]:
        return {kind: [m for name in names for m in gone_on(kind, name, group, folder, out / kind)] for kind in LONG}

    return go_on


def gone_on(kind: str, name: str, group: Collective, folder: Path, root: Path) -> list[dict[str, float]]:
    """Return the metrics of the update behind the newest checkpoint under `root`, which gets the next one."""
    policy = learner(folder, name, group, **LONG[kind])
    if saved := sorted(root.glob("v*")):
        policy.load(load_checkpoint(saved[-1]))
    metrics = updates(policy, policy.version)
    state = policy.state()
    if group.rank == 0:
        save_checkpoint(root, state, folder, adapter=LONG[kind].get("adapter", NO_ADAPTER))
    group.most(0)  # the others may read it from here on
    return metrics


def together(size: int, job: str, arguments: tuple[Any, ...], folder: Path, out: Path) -> list[Any]:
    """Run a job on `size` ranks, by its name here; return what each of them found."""
    address = free_address()
    torch.multiprocessing.spawn(
        member, (size, address, job, arguments, folder, out), nprocs=size, join=True, daemon=True
    )
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(size)]


def member(rank: int, size: int, address: str, job: str, arguments: tuple[Any, ...], folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    group: Collective = RankGroup(address, rank, size, 120.0) if size > 1 else Alone()
    work: Job = globals()[job](*arguments)
    torch.save(work(group, folder, out), out / f"{rank}.pt")
    group.close()
    os._exit(0)
