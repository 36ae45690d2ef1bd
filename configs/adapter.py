"""Settings of adapters: small matrices that are trained and published in place of the model's weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from configs.errors import require

__all__ = ["NO_ADAPTER", "AdapterConfig"]

EVERY_LAYER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EMBEDDINGS = ("embed_tokens", "lm_head")


@dataclass(kw_only=True)
class AdapterConfig:
    """LoRA, arXiv:2106.09685: a weight W [O, I] becomes W + alpha / rank * B A, with B [O, rank] and A [rank, I]."""

    rank: int = 0
    """0 trains all weights."""
    alpha: float = 32.0
    targets: list[str] = field(default_factory=lambda: list(EVERY_LAYER))
    """The linear layers that get one, by the last part of their names; the defaults are all of Llama and Qwen."""

    def __post_init__(self) -> None:
        require(self.rank >= 0, "model.adapter.rank", self.rank, "be >= 0", "16 is usual, 0 trains all weights")
        require(self.alpha > 0, "model.adapter.alpha", self.alpha, "be > 0", "32 is usual")
        require(bool(self.targets), "model.adapter.targets", self.targets, "name a layer", "leave it out for all")
        rule = "leave out embeddings, which share their weight or are read by row"
        odd = sorted(set(self.targets) & set(EMBEDDINGS))
        require(not odd, "model.adapter.targets", self.targets, rule, f"remove {', '.join(odd)}")

    @property
    def scale(self) -> float:
        """What the product B A is multiplied by."""
        return self.alpha / self.rank


NO_ADAPTER = AdapterConfig()
"""All weights are trained."""
