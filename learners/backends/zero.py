"""DeepSpeed ZeRO: moments (stage 1), gradients too (2) or weights too (3) are cut over the ranks.

What DeepSpeed holds in flat pieces is read and written by its functions for whole tensors, so that
checkpoints are the same as those of the other backends. Source: arXiv:1910.02054.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from configs.errors import ConfigError, require
from configs.learning import LearnerConfig
from learners.backends import broadcast_weights
from learners.collective import Collective
from learners.optimiser import MOMENTS, check_moments, decay_groups

__all__ = ["Zero"]


class Zero:
    """Implements `Backend`."""

    lockstep = True

    def __init__(
        self,
        module: nn.Module,
        network: nn.Module,
        group: Collective,
        config: LearnerConfig,
        stage: int = 2,
        **options: Any,
    ) -> None:
        """Hand the module to DeepSpeed.

        Args:
          stage: 1, 2 or 3.
          options: further keys of DeepSpeed's `zero_optimization`.

        Raises:
          ConfigError: there is no such stage, or DeepSpeed is not installed.
        """
        require(stage in (1, 2, 3), "learner.backend.stage", stage, "be 1, 2 or 3", "2 is usual")
        self._group, self._stage = group, stage
        self._parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._shapes = {name: p.shape for name, p in self._parameters.items()}
        broadcast_weights(module, group)
        self._adam = torch.optim.AdamW(
            decay_groups(self._parameters, config),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            fused=True,
        )
        device = next(module.parameters()).device.type
        self._deepspeed = load_deepspeed(device)
        with group.expecting("DeepSpeed"):
            self.module, self._zero, *_ = self._deepspeed.initialize(
                model=module, optimizer=self._adam, config=settings(config, stage=stage, **options)
            )
        self._allocate_moments()

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        self.module.set_gradient_accumulation_boundary(last)
        with self._group.expecting("weights and gradient sum"):
            yield

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed divides by the number of ranks.
        self.module.backward(loss * self._group.size)

    def step(self, learning_rate: float) -> tuple[float, bool]:
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        with self._group.expecting("optimiser step"):
            self.module.step()
        return float(self.module.get_global_grad_norm()), not self._zero.overflow

    def reset(self) -> None:
        for state in self._adam.state.values():
            for moment in MOMENTS:
                state[moment].zero_()

    def gather(self, names: Sequence[str]) -> dict[str, Tensor]:
        with self._group.expecting("shards of weights"), self._whole(names):
            weights = {name: self._parameters[name].detach() for name in names}
            return {name: w.clone() for name, w in weights.items()} if self._stage == 3 else weights

    @torch.no_grad()
    def fill(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in weights.items():
            held = self._parameters[name]
            with self._whole([name], written=True):
                held.copy_(weight)
            self._write(held, weight)

    def optimiser_state(self) -> Iterator[tuple[str, Tensor]]:
        steps = [state["step"] for state in self._adam.state.values()]
        if not any(map(bool, steps)):
            return
        read = self._deepspeed.utils.safe_get_full_optimizer_state
        for name, parameter in self._parameters.items():
            with self._group.expecting("shards of moments"):
                yield from ((f"{moment}/{name}", read(parameter, moment)) for moment in MOMENTS if moment != "step")
            yield f"step/{name}", steps[0].clone()

    def load_optimiser(self, tensors: Mapping[str, Tensor]) -> None:
        check_moments(tensors, self._shapes)
        self.reset()
        for name, parameter in self._parameters.items() if tensors else ():
            for moment in ("exp_avg", "exp_avg_sq"):
                self._write(parameter, tensors[f"{moment}/{name}"], moment)
            for state in self._adam.state.values():
                state["step"].copy_(tensors[f"step/{name}"])

    def _write(self, parameter: Tensor, value: Tensor, *moment: str) -> None:
        """Overwrite what the optimiser holds of a parameter: the weight that it steps, or a moment."""
        public, value = self._deepspeed.utils, value.to(parameter.device, torch.float32)
        if self._stage < 3:
            write = public.safe_set_full_optimizer_state if moment else public.safe_set_full_fp32_param
            write(parameter, value, *moment)
            return
        # In stage 3 those fail where the number of ranks does not divide a weight (0.19.8).
        write = public.safe_set_local_optimizer_state if moment else public.safe_set_local_fp32_param
        write(parameter, self._part(parameter, value), *moment)

    def _part(self, parameter: Any, value: Tensor) -> Tensor:
        """Return this rank's part of a whole tensor: flat, and padded to equal lengths."""
        size = parameter.ds_tensor.numel()
        padded = nn.functional.pad(value.flatten(), (0, size * self._group.size - value.numel()))
        return padded[self._group.rank * size :][:size]

    def _whole(self, names: Sequence[str], *, written: bool = False) -> Any:
        """Return the context in which some weights are whole on every rank."""
        held = [self._parameters[name] for name in names]
        return self._deepspeed.zero.GatheredParameters(
            held, modifier_rank=0 if written else None, enabled=self._stage == 3
        )

    def _allocate_moments(self) -> None:
        """Make the moments that AdamW would make at its first step: DeepSpeed looks for them once."""
        flat = (
            self._zero.fp32_partitioned_groups_flat if self._stage == 3 else self._zero.single_partition_of_fp32_groups
        )
        for piece in flat:
            zeros = {moment: torch.zeros_like(piece) for moment in ("exp_avg", "exp_avg_sq")}
            self._adam.state[piece] = {"step": torch.zeros((), device=piece.device), **zeros}
        if self._stage < 3:
            self._zero._lazy_init_hp_params_optimizer_state()


def settings(config: LearnerConfig, **zero: Any) -> dict[str, Any]:
    """Return DeepSpeed's configuration."""
    return {
        "train_micro_batch_size_per_gpu": 1,  # of no effect: micro-batches are ours, and their last one is announced
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max(config.max_grad_norm, 0.0),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
    }


def load_deepspeed(device: str) -> Any:
    """Import DeepSpeed for a device, without compiling anything.

    Raises:
      ConfigError: it is not installed.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError("learner.backend.target is 'zero', which needs DeepSpeed; install headrace[deepspeed]")
    os.environ.setdefault("DS_ACCELERATOR", device)
    os.environ.setdefault("LOCAL_RANK", "0")  # each rank sees its own device alone
    import deepspeed

    # Its shared-memory collective for ranks of one host would be compiled for minutes; gloo does the same.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel("WARNING")
    return deepspeed
