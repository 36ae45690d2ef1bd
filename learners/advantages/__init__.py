"""Advantage estimators: frozen dataclasses whose fields are YAML keys, around pure functions.

An estimator takes the `Feedback` of a whole batch and returns [B, T] advantages, 0 on padding and on
sequences without a valid reward. Those of `outcome` look at totals alone; the others also at the rewards
of steps, which components with `credit: steps` give, and baseline the two sources apart.
"""

ADVANTAGES: dict[str, str] = {
    "group_normalised": "learners.advantages.outcome:GroupNormalised",
    "group_centred": "learners.advantages.outcome:GroupCentred",
    "leave_one_out": "learners.advantages.outcome:LeaveOneOut",
    "process_normalised": "learners.advantages.process_normalised:ProcessNormalised",
    "process_return": "learners.advantages.process_return:ProcessReturn",
    "process_minimum": "learners.advantages.process_minimum:ProcessMinimum",
    "process_sum": "learners.advantages.process_sum:ProcessSum",
}
"""GRPO, Dr. GRPO and RLOO; GRPO with process supervision, PRIME, PURE and the sum it is compared with."""
