"""Collects what enters a context, token by token, and yields the trajectory.

Dimensions: T tokens of one trajectory (prompt, tool output and completions together).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from actors.engines.base import Completion
from actors.programs.policy import Policy
from buffers.trajectory import Kind, Span, Status, Task, Trajectory, run_lengths
from configs.errors import ConfigError, RunError
from learners.models.tokenizer import encode

__all__ = ["TrajectoryBuilder", "encode_prompt"]

STATUS = {"stop": Status.FINISHED, "length": Status.TRUNCATED, "abort": Status.ABORTED}


def encode_prompt(policy: Policy, task: Task, *, chat: bool = False) -> list[int]:
    """Return the tokens of a task's prompt, through the tokenizer's chat template when `chat`.

    Raises:
      ConfigError: `chat` with a tokenizer that has no template.
      DataError: the prompt has a character that a character tokenizer does not know.
    """
    tokenizer = policy.tokenizer
    if not chat:
        return list(encode(tokenizer, task.prompt))
    if not tokenizer.chat_template:
        raise ConfigError("rollout.program.chat is true; the tokenizer must have a chat template; set chat: false")
    message = [{"role": "user", "content": task.prompt}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    # The template writes the special tokens itself.
    return list(encode(tokenizer, text))


class TrajectoryBuilder:
    """Accumulates one trajectory; `tokens` is the context for the next `generate`."""

    def __init__(self, task: Task, policy: Policy, prompt: list[int]) -> None:
        """Begin with the prompt's tokens.

        Raises:
          RunError: the prompt is empty, or leaves no room for the completion.
        """
        wanted = policy.sampling.max_completion_length
        if not prompt or len(prompt) + wanted > policy.context_length:
            raise RunError(
                f"task {task.source}:{task.index} has a prompt of {len(prompt)} tokens; with "
                f"rollout.max_completion_length={wanted} it must have 1 to {policy.context_length - wanted} to fit "
                f"rollout.context_length={policy.context_length}; raise that, or leave such tasks out"
            )
        self.tokens: list[int] = list(prompt)
        self._task = task
        self._policy = policy
        self._prompt_length = len(prompt)
        self._kinds = [Kind.PROMPT] * len(prompt)
        self._logprobs = [0.0] * len(prompt)
        self._versions: list[int] = []
        self._spans: list[Span] = []
        self._finish_reason = "length"

    def room(self, inserting: int = 0) -> int:
        """Return how many tokens may still be sampled once `inserting` further ones are appended."""
        budget = self._policy.sampling.max_completion_length - len(self._versions)
        return min(budget, self._policy.context_length - len(self.tokens) - inserting)

    def sampled(self, completion: Completion) -> str:
        """Append what the policy sampled, as one turn; return its text."""
        tokens = completion.tokens.tolist()
        self._append("turn", tokens, Kind.SAMPLED, completion.logprobs.tolist())
        self._versions += completion.versions.tolist()
        self._finish_reason = completion.finish_reason
        return self._policy.tokenizer.decode(tokens, skip_special_tokens=True)

    def inserted(self, tokens: list[int], kind: Kind, span: str) -> None:
        """Append tokens that the policy did not sample: a tool's result, a user's reply."""
        self._append(span, tokens, kind, [0.0] * len(tokens))

    def truncate(self) -> None:
        """Record that the program had to stop before the policy was done."""
        self._finish_reason = "length"

    def finish(self, **fields: Any) -> Trajectory:
        """Return the trajectory; `fields` sets further ones (`node`, `tree_id`, `depth`, ...)."""
        after_prompt = self.tokens[self._prompt_length :]
        return Trajectory(
            slot=self._policy.slot,
            attempt=self._policy.attempt,
            tokens=np.array(self.tokens, np.int32),
            kinds=np.array(self._kinds, np.uint8),
            logprobs=np.array(self._logprobs, np.float32),
            versions=run_lengths(self._versions),
            prompt=self._task.prompt,
            completion=self._policy.tokenizer.decode(after_prompt, skip_special_tokens=True),
            answer=self._task.answer,
            metadata=self._task.metadata,
            spans=self._spans,
            finish_reason=self._finish_reason,
            status=STATUS[self._finish_reason],
            user=self._task.user,
            turns=sum(span.kind == "turn" for span in self._spans),
            sampling=self._policy.sampling,
            **fields,
        )

    def _append(self, span: str, tokens: list[int], kind: Kind, logprobs: list[float]) -> None:
        start = len(self.tokens)
        self.tokens += tokens
        self._kinds += [kind] * len(tokens)
        self._logprobs += logprobs
        self._spans.append(Span(span, start, len(self.tokens)))
