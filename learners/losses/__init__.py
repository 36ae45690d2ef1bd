"""Policy losses: frozen dataclasses whose fields are YAML keys, around pure functions.

A loss declares `inputs` (what of `LossInputs` it reads, so that the learner computes nothing in
vain) and `coupling` (what must be in one micro-batch). It returns a scalar and metrics that are
both already divided by the global denominators: the sum over micro-batches and ranks is the value
over the whole minibatch.
"""

LOSSES: dict[str, str] = {
    "clipped_surrogate": "learners.losses.clipped_surrogate:ClippedSurrogate",
    "decoupled_surrogate": "learners.losses.decoupled_surrogate:DecoupledSurrogate",
    "impact": "learners.losses.target_surrogate:TargetSurrogate",
    "sequence_surrogate": "learners.losses.sequence_surrogate:SequenceSurrogate",
    "truncated_importance": "learners.losses.importance:TruncatedImportance",
}
