"""The requests in flight on vLLM's `AsyncLLM`; lives in one event loop.

    submit -> flight (a task) -> AsyncLLM -> landed -> outcomes
    swap: pause -> new weights -> new version label -> resume

vLLM labels every token with the version in force when it leaves the engine. New weights and their
label are set under one pause, and nothing is sampled ahead of the output, so the label is the version
of the weights that sampled the token.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from vllm.inputs.engine import tokens_input
from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from actors.engines.base import Completion, ScoredSequence
from actors.engines.vllm_messages import completion, scored, scoring_params
from configs.errors import RunError

__all__ = ["Outcome", "VllmSession"]

ABORT_RETRY_S = 0.01
SHUTDOWN_S = 20.0


class Outcome(NamedTuple):
    """How a request ended."""

    completion: Completion
    prefilled: int  # prompt tokens computed for it, not taken from the prefix cache


class VllmSession:
    """Submits, aborts and scores; swaps weights."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        self._flights: dict[str, asyncio.Task[Outcome]] = {}
        self._landed: dict[str, asyncio.Task[Outcome]] = {}
        self._landing = asyncio.Event()
        self._scores = itertools.count()

    async def submit(self, name: str, tokens: Sequence[int], params: SamplingParams, version: int) -> None:
        """Let a request fly; it shares prefilled prompts only with those submitted under the same version."""
        flight = asyncio.get_running_loop().create_task(self._fly(name, tokens, params, version), name=name)
        self._flights[name] = flight
        flight.add_done_callback(self._land)

    async def outcomes(self, wait_s: float) -> list[Outcome]:
        """Return what ended since the last call; wait up to `wait_s` for the first.

        Raises:
          RunError: vLLM's process died.
        """
        if not self._landed:
            self._landing.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._landing.wait()
            except TimeoutError:
                return []
        landed, self._landed = self._landed, {}
        return [flight.result() for flight in landed.values()]

    async def abort(self, names: Sequence[str]) -> list[Outcome]:
        """End requests; return those that had not ended by themselves. Names that are not in flight are ignored."""
        flights = {name: self._flights[name] for name in names if name in self._flights}
        while waiting := [name for name, flight in flights.items() if not flight.done()]:
            await self._llm.abort(waiting)
            # A request that is still on its way in is not known there yet.
            await asyncio.wait([flights[name] for name in waiting], timeout=ABORT_RETRY_S)
        aborted = [name for name, flight in flights.items() if flight.result().completion.finish_reason == "abort"]
        return [self._landed.pop(name).result() for name in aborted]

    async def swap(self, version: int, path: str, layout: str) -> None:
        """Replace the weights between two engine steps; requests in flight keep their cached keys and values."""
        await self._llm.pause_generation(mode="keep", clear_cache=False)
        await self._llm.collective_rpc("take_published_weights", args=(path, layout))
        await self.label(version)
        # Not in a `finally`: weights that arrived in part must not sample under the old label.
        await self._llm.resume_generation()

    async def label(self, version: int) -> None:
        """Say which version the weights are."""
        await self._llm.update_weight_version(str(version))

    async def score(self, sequences: Sequence[Sequence[int]], topk: int, version: int) -> list[ScoredSequence]:
        """Return log-probabilities at temperature 1, and the `topk` likeliest tokens where it is not 0."""
        params = scoring_params(topk)
        runs = (self._run(f"score-{next(self._scores)}", tokens, params, version) for tokens in sequences)
        return [scored(output, topk, version) for output in await asyncio.gather(*runs)]

    async def close(self) -> None:
        """End vLLM's processes."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        self._llm.shutdown(timeout=SHUTDOWN_S)
        del self._llm  # it shuts down again when it is collected, which at the end of the interpreter would fail

    async def _fly(self, name: str, tokens: Sequence[int], params: SamplingParams, version: int) -> Outcome:
        output = await self._run(name, tokens, params, version)
        return Outcome(completion(name, output), len(tokens) - (output.num_cached_tokens or 0))

    async def _run(self, name: str, tokens: Sequence[int], params: SamplingParams, version: int) -> RequestOutput:
        try:
            prompt = tokens_input(list(tokens), cache_salt=str(version))
            queue = await self._llm.add_request(name, prompt, params)
            return await queue.get()
        except EngineDeadError as error:
            raise RunError(f"request {name}: vLLM's engine process died; its log says why") from error

    def _land(self, flight: asyncio.Task[Outcome]) -> None:
        name = flight.get_name()
        self._landed[name] = self._flights.pop(name)
        self._landing.set()
