"""Rewards of steps on their way from a trajectory table to the loss tokens of a batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from learner_tables import MODEL, model_folder, trajectory, with_rewards

from buffers.scores import StepRewards
from buffers.trajectory import Kind
from configs.errors import DataError
from configs.learning import LearnerConfig
from learners.batch import read_batch
from learners.feedback import read_feedback
from learners.policy_learner import PolicyLearner

# Positions                     0  1  2  3  4  5  6
TURNS = trajectory(0, 0, [2, 3, 4, 5, 6, 7, 8], [0, 0, 1, 1, 2, 2, 1])  # prompt, sampled, tool, sampled
PLAIN = trajectory(0, 1, [2, 3, 4, 5], [0, 0, 1, 1])


def test_a_step_is_worth_something_at_its_last_loss_token():
    steps = [StepRewards((3, 6, 7), (1.0, 2.0, 4.0)), StepRewards((4,), (-1.0,))]
    feedback = read_feedback(read_batch(with_rewards([TURNS, PLAIN], [1.0, 0.0], steps)))
    # Sampled tokens are at 2, 3 and 6; the step that ends at 6, inside the tool's reply, began with token 3.
    assert feedback.steps.tolist() == [[1.0, 2.0, 4.0], [0.0, -1.0, 0.0]]
    assert feedback.step_mask.tolist() == [[True, True, True], [False, True, False]]
    assert feedback.mask.tolist() == [[True, True, True], [True, True, False]]
    assert feedback.outcome.tolist() == [1.0, 0.0] and feedback.steps.dtype == torch.float64


def test_steps_that_share_a_token_add_up_and_those_of_the_prompt_are_left_out():
    steps = [StepRewards((1, 2, 5, 6), (9.0, 9.0, 1.0, 2.0)), StepRewards((3,), (0.0,))]
    feedback = read_feedback(read_batch(with_rewards([TURNS, PLAIN], [1.0, 0.0], steps)))
    assert feedback.steps.tolist() == [[0.0, 3.0, 0.0], [0.0, 0.0, 0.0]]
    assert feedback.step_mask.tolist() == [[False, True, False], [True, False, False]], "0 is a reward, too"


def test_steps_follow_their_sequence_into_the_order_of_identity():
    table = with_rewards([PLAIN, TURNS], [0.0, 1.0], [StepRewards((3,), (5.0,)), StepRewards((7,), (7.0,))])
    feedback = read_feedback(read_batch(table))
    assert feedback.steps.tolist() == [[0.0, 0.0, 7.0], [5.0, 0.0, 0.0]]


@pytest.mark.parametrize("steps", [(), [None, StepRewards((), ())]])
def test_without_rewards_of_steps_there_are_none(steps):
    feedback = read_feedback(read_batch(with_rewards([TURNS, PLAIN], [1.0, 0.0], steps)))
    assert not feedback.steps.any() and not feedback.step_mask.any()


def test_a_table_that_lost_its_steps_is_refused():
    with pytest.raises(DataError, match="lacks columns step_rewards"):
        read_batch(with_rewards([PLAIN], [1.0]).drop_columns("step_rewards"))


def test_a_step_moves_the_tokens_up_to_its_end_and_none_behind(tmp_path: Path):
    """Two answers with equal outcomes that differ in their first step alone."""
    rows = [trajectory(0, i, [2, 3, 4 + i, 6 + i], [Kind.PROMPT] * 2 + [Kind.SAMPLED] * 2) for i in range(2)]
    steps = [StepRewards((3, 4), (1.0, 0.5)), StepRewards((3, 4), (0.0, 0.5))]
    learner = PolicyLearner(
        LearnerConfig(advantage={"target": "process_return", "whiten": False, "scale_steps": False}),
        MODEL,
        model_folder(tmp_path / "model"),
    )
    batch = read_batch(with_rewards(rows, [1.0, 1.0], steps))
    ((parts, _),) = ((m.parts, m.denominators) for m in learner._plan(batch))
    ((advantages,),) = ([part.advantages.tolist()] for part in parts)
    # Means .75 and .25: the rewards 1, .5 | 0, .5 become 1, 0 | -1, 0 (n = 2), and are summed to go.
    assert advantages == [[1.0, 0.0], [-1.0, 0.0]]
