"""AdamW over named parameters: one guarded step, and its state as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from configs.errors import DataError
from configs.schema import LearnerConfig

__all__ = ["Optimiser"]

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Optimiser:
    """torch's fused AdamW, which skips a step whose gradients are not finite.

    Weight decay applies to matrices only, not to norms and biases.
    """

    def __init__(self, parameters: Mapping[str, Tensor], config: LearnerConfig) -> None:
        self._parameters = dict(parameters)
        self._max_grad_norm = config.max_grad_norm
        decayed = [p for p in self._parameters.values() if p.ndim > 1]
        plain = [p for p in self._parameters.values() if p.ndim <= 1]
        self._adam = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
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

    def step(self, learning_rate: float) -> tuple[float, bool]:
        """Clip and apply the gradients, then clear them.

        Returns:
          (norm before clipping, whether it was finite and the step was taken).
        """
        norm = torch.nn.utils.get_total_norm(self.gradients)
        taken = bool(norm.isfinite())
        if taken:
            if self._max_grad_norm > 0:
                torch.nn.utils.clip_grads_with_norm_(self._parameters.values(), self._max_grad_norm, norm)
            for group in self._adam.param_groups:
                group["lr"] = learning_rate
            self._adam.step()
        self.clear()
        return float(norm), taken

    def state(self) -> dict[str, Tensor]:
        """Return `<moment>/<parameter>` tensors; empty before the first step."""
        held = ((name, self._adam.state[p]) for name, p in self._parameters.items() if p in self._adam.state)
        return {f"{moment}/{name}": state[moment].detach() for name, state in held for moment in MOMENTS}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned.

        Raises:
          DataError: a tensor is missing, surplus or of another shape.
        """
        self._adam.state.clear()
        expected = {f"{moment}/{name}" for name in self._parameters for moment in MOMENTS} if tensors else set()
        if odd := expected ^ tensors.keys():
            raise DataError(f"optimiser state and model differ in {sorted(odd)[:3]}; resume with the model it is of")
        for name, parameter in self._parameters.items() if tensors else ():
            state = {moment: tensors[f"{moment}/{name}"].clone() for moment in MOMENTS}
            if state["exp_avg"].shape != parameter.shape:
                raise DataError(f"optimiser state of {name} has another shape; resume with the model it is of")
            self._adam.state[parameter] = state
