"""How a task becomes trajectories: rollout programs and the policy they talk to.

A program is a plain class with `async rollout(task, policy, rng) -> list[Trajectory]`. It asks the
policy for tokens and hands a `TrajectoryBuilder` everything that enters the context, in order; it
knows nothing of slots, engines, weights or other rollouts. Sampled tokens are never re-tokenised.
To add a program, write the class and name it in `PROGRAMS` or in the configuration
(`target: my_package:MyProgram`); its constructor's arguments are the YAML keys.
"""

from __future__ import annotations

from actors.programs.policy import Policy, Rollout
from configs.registry import construct
from configs.schema import Component

__all__ = ["PROGRAMS", "Policy", "Rollout", "build"]

PROGRAMS: dict[str, str] = {
    "calculator": "actors.programs.calculator:Calculator",
    "single_turn": "actors.programs.single_turn:SingleTurn",
}


def build(section: Component) -> Rollout:
    """Return the program of the `rollout.program` section.

    Raises:
      ConfigError: unknown program or argument, or a refused value.
    """
    program: Rollout = construct(PROGRAMS, section, "rollout.program")
    return program
