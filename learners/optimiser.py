"""AdamW over named parameters: one guarded step, and its state as whole tensors.

Parameters may be cut over ranks (torch's DTensor); every rank must then make the same calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from configs.errors import DataError
from configs.learning import LearnerConfig

__all__ = ["MOMENTS", "Optimiser", "check_moments", "cut_like", "decay_groups", "whole"]

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""Of each parameter: running means of gradient and squared gradient, and the steps so far."""


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that may be cut over ranks in one piece, on every rank."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this rank's part of a whole tensor, cut as `like` is; every rank has the whole one."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def decay_groups(parameters: Mapping[str, Tensor], config: LearnerConfig) -> list[dict[str, object]]:
    """Return torch's parameter groups: weight decay applies to matrices only, not to norms and biases."""
    decayed = [p for p in parameters.values() if p.ndim > 1]
    plain = [p for p in parameters.values() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def check_moments(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    """Refuse optimiser state of another model; none at all is that of a model before its first step.

    Args:
      tensors: `<moment>/<parameter>` -> whole tensor.
      shapes: of the parameters.

    Raises:
      DataError: a tensor is missing, surplus or of another shape.
    """
    expected = {f"{moment}/{name}" for name in shapes for moment in MOMENTS} if tensors else set()
    if odd := expected ^ tensors.keys():
        raise DataError(f"optimiser state and model differ in {sorted(odd)[:3]}; resume with the model it is of")
    for name, shape in shapes.items() if tensors else ():
        if tensors[f"exp_avg/{name}"].shape != shape:
            raise DataError(f"optimiser state of {name} has another shape; resume with the model it is of")


class Optimiser:
    """torch's fused AdamW, which skips a step whose gradients are not finite."""

    def __init__(self, parameters: Mapping[str, Tensor], config: LearnerConfig) -> None:
        self._parameters = dict(parameters)
        self._max_grad_norm = config.max_grad_norm
        self._adam = torch.optim.AdamW(
            decay_groups(parameters, config),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            fused=True,
        )

    @property
    def gradients(self) -> list[Tensor]:
        """Gradients in the order of the parameters; zeros where a backward pass left none."""
        for parameter in self._parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [p.grad for p in self._parameters.values() if p.grad is not None]

    def clear(self) -> None:
        """Forget gradients."""
        self._adam.zero_grad(set_to_none=True)

    def reset(self) -> None:
        """Forget the moments."""
        self._adam.state.clear()

    def step(self, learning_rate: float) -> tuple[float, bool]:
        """Clip and apply the gradients, then clear them.

        Returns:
          (norm before clipping, whether it was finite and the step was taken).
        """
        norm = whole(torch.nn.utils.get_total_norm(self.gradients))
        taken = bool(norm.isfinite())
        if taken:
            if self._max_grad_norm > 0:
                torch.nn.utils.clip_grads_with_norm_(self._parameters.values(), self._max_grad_norm, norm)
            for group in self._adam.param_groups:
                group["lr"] = learning_rate
            self._adam.step()
        self.clear()
        return float(norm), taken

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield `<moment>/<parameter>` with whole tensors, one at a time; nothing before the first step."""
        held = ((name, self._adam.state[p]) for name, p in self._parameters.items() if p in self._adam.state)
        for name, state in held:
            for moment in MOMENTS:
                yield f"{moment}/{name}", whole(state[moment].detach())

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` yielded.

        Raises:
          DataError: a tensor is missing, surplus or of another shape.
        """
        check_moments(tensors, {name: p.shape for name, p in self._parameters.items()})
        self.reset()
        for name, parameter in self._parameters.items() if tensors else ():
            held = {moment: tensors[f"{moment}/{name}"].to(parameter.device, copy=True) for moment in MOMENTS}
            cut = {moment: held[moment] if moment == "step" else cut_like(held[moment], parameter) for moment in held}
            self._adam.state[parameter] = cut
