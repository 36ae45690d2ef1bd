"""One member of a pool that serves a language model."""

from __future__ import annotations

import inspect
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

import torch

from actors.serving import SERVERS
from configs.model_pool import ModelPoolConfig
from configs.registry import resolve

__all__ = ["ModelMember", "Serving", "build"]


class Serving(Protocol):
    """What answers requests."""

    async def complete(self, path: str, body: dict[str, Any], deadline_s: float) -> tuple[int, dict[str, Any]]:
        """Return (HTTP status, JSON) that an OpenAI-compatible server answers to a request.

        Args:
          path: /chat/completions or /completions.
          deadline_s: after which nobody waits any more, and the request is ended.
        """
        ...

    def check(self) -> None:
        """See that the model still works.

        Raises:
          RunError: only a new process helps.
        """
        ...

    async def close(self) -> None:
        """End its processes and free their memory."""
        ...


class ModelMember:
    """Answers `complete` and `ping`."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._counters: Counter[str] = Counter()

    async def complete(self, path: str, body: dict[str, Any], deadline_s: float) -> tuple[int, dict[str, Any]]:
        """Answer a request, see `Serving.complete`."""
        self._counters["running"] += 1
        try:
            status, answer = await self._serving.complete(path, body, deadline_s)
        finally:
            self._counters["running"] -= 1
        self._counters.update({"requests": 1, "failed_requests": status != 200, **_used(answer)})
        return status, answer

    def ping(self) -> dict[str, int]:
        """Return the counters: requests, those that failed, those running, and tokens.

        Raises:
          RunError: the model does not work any more.
        """
        self._serving.check()
        return dict(self._counters)

    async def close(self) -> None:
        """End the model."""
        await self._serving.close()


def _used(answer: dict[str, Any]) -> dict[str, int]:
    used = answer.get("usage") or {}
    return {name: used.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")}


async def build(config: ModelPoolConfig, log_folder: Path, name: str) -> ModelMember:
    """Build a member inside its own process; vLLM takes half a minute on CPUs.

    Raises:
      RunError: the folder cannot be used, or vLLM did not start.
    """
    torch.set_num_threads(config.threads)
    serving = resolve(SERVERS, config.engine, f"rewards.models.{name}.engine")(config, log_folder, name)
    return ModelMember(await serving if inspect.isawaitable(serving) else serving)
