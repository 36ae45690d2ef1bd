"""Who learns. Turns batches of finished, scored trajectories into new weights.

    table (rows by identity) -> batch -> advantages -> packing -> network -> loss -> one optimiser step
            batch.py            advantages/    packing.py  models/   losses/   optimiser.py

`policy_learner.PolicyLearner` is that line as a plain object. `rank.LearnerRank` hosts it in an
actor: one thread computes, the event loop keeps answering. `checkpoint` writes folders that any
Hugging Face loader reads and that resume bit for bit; `warm_start` is the supervised phase before RL.

What this package never does: import Ray, know an actor, wait for a queue, choose which rows form
a batch. Every rank of a group is handed the same table and takes its own groups out of it, so that
denominators need no communication; ranks sum gradients, once per optimiser step.

One more loss is one file in `losses/` and one line in `losses.LOSSES`; one more advantage estimator
is one file in `advantages/` and one line in `ADVANTAGES`; or neither, with `target: package:Class`.
"""
