"""Who labels captions: rules, or a language model behind an HTTP endpoint.

An annotator is a plain class with `annotate(items)` and `close()`, see `rewards.intrinsic.labels`;
its constructor's arguments are the keys of its section. Those named `deadline_s` (of one `annotate`)
and `seed` are filled in. The `AnnotatorMember` that hosts it holds any annotator to the contract.

    annotation:
      annotator:
        target: scripted
        rules: [{match: "pick(ed)? up the .* key", value: 1}]
"""

from __future__ import annotations

from typing import cast

from configs.decision import AnnotationConfig
from configs.errors import require
from configs.registry import construct
from rewards.endpoints.models import NO_MODELS, Models
from rewards.intrinsic.labels import Annotator

__all__ = ["ANNOTATORS", "build_annotator"]

ANNOTATORS = {
    "endpoint": "rewards.intrinsic.annotators.endpoint:Endpoint",
    "scripted": "rewards.intrinsic.annotators.scripted:Scripted",
}


def build_annotator(
    section: AnnotationConfig, seed: int, asks: int | None = None, model_pools: Models = NO_MODELS
) -> Annotator:
    """Return the annotator of a section; starts nothing and opens no connection.

    Args:
      asks: captions of an item, of the intrinsic reward that learns from the labels; None: not known here.
      model_pools: of the run, by their names in `rewards.models`.

    Raises:
      ConfigError: an unknown target or argument, the annotator refused a value, or it asks about single
        captions where pairs are labelled, or the other way round.
    """
    deadline_s = section.deadline_s
    require(deadline_s > 0, "exploration.annotation.deadline_s", deadline_s, "be > 0", "60 suits a language model")
    # A tenth is left for the way back: a label that comes after its caller has gone is lost with its whole batch.
    own_s = 0.9 * deadline_s
    place = "exploration.annotation.annotator"
    annotator = construct(ANNOTATORS, section.annotator, place, deadline_s=own_s, seed=seed, model_pools=model_pools)
    able = getattr(annotator, "asks", asks)
    rule, remedy = f"label items of {asks} caption(s), not {able}", "choose a template, or another intrinsic reward"
    require(asks in (None, able), place, section.annotator, rule, remedy)
    return cast(Annotator, annotator)
