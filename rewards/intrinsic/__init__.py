"""Rewards that are learned online from what agents just did.

    annotators --labels--> learner --versions--> scorers --captions met--> learner
                                                   ^
                              fragments, texts ----'

The learner owns the queue of captions that wait for a label, the labels and the model in training.
Scorers hold one published version and never wait for anyone. An intrinsic reward is a class of
`rewards.intrinsic.base`; the options of the one in use stand under its name:

    intrinsic: retrieval
    intrinsics:
      retrieval: {unlabelled: 0.0}

To add one, subclass `IntrinsicModel` and name it here, or write `intrinsic: my_package:MyModel`.
"""

from __future__ import annotations

from buffers.environment_spec import EnvironmentSpec
from configs.errors import ConfigError
from configs.registry import construct
from configs.schema import RunConfig
from rewards.intrinsic.base import IntrinsicModel

__all__ = ["INTRINSICS", "build_model"]

INTRINSICS = {
    "classification": "rewards.intrinsic.classification:Classification",
    "counts": "rewards.intrinsic.counts:Counts",
    "ranking": "rewards.intrinsic.ranking:Ranking",
    "retrieval": "rewards.intrinsic.retrieval:Retrieval",
    "rnd": "rewards.intrinsic.rnd:RandomNetworkDistillation",
    "script": "rewards.intrinsic.script:Script",
    "similarity": "rewards.intrinsic.similarity:Similarity",
}


def build_model(config: RunConfig, spec: EnvironmentSpec | None = None) -> IntrinsicModel:
    """Return version 0 of the intrinsic reward of a run: the same in every process.

    Args:
      spec: of the environment; None for language policies, which have captions alone.

    Raises:
      ConfigError: an unknown target or argument, or observations are needed where there are none.
    """
    section, place = config.intrinsics.get(config.intrinsic, {}), f"intrinsics.{config.intrinsic}"
    model = construct(INTRINSICS, {**section, "target": config.intrinsic}, place, seed=config.seed, spec=spec)
    if not isinstance(model, IntrinsicModel):
        raise ConfigError(f"{place} is a {type(model).__name__}; it must be a rewards.intrinsic.base.IntrinsicModel")
    return model
