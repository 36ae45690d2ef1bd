"""A language model served by vLLM: its own OpenAI-compatible application, called in this process instead of by a port.

So schemas, tools and log-probabilities work as with `vllm serve`, whose code it is.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import httpx
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.v1.engine.async_llm import AsyncLLM

from actors.engines.vllm_start import engine_arguments, start
from actors.serving.vllm_options import application_arguments, engine_options
from configs.errors import RunError
from configs.language import ModelConfig
from configs.model_pool import ModelPoolConfig

__all__ = ["VllmServer", "start_server"]

SHUTDOWN_S = 20.0
TOO_LATE = 504


class VllmServer:
    """Passes requests on to the application."""

    def __init__(self, llm: AsyncLLM, application: Any, name: str, log: Path) -> None:
        self._llm, self._name, self._log = llm, name, log
        transport = httpx.ASGITransport(app=application, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://in.process/v1", timeout=None)

    async def complete(self, path: str, body: dict[str, Any], deadline_s: float) -> tuple[int, dict[str, Any]]:
        """Return (status, JSON), see `member.Serving`."""
        try:
            async with asyncio.timeout(deadline_s):
                response = await self._client.post(path, json=body)
        except TimeoutError:
            return TOO_LATE, {"error": {"message": f"{self._name}: not done within {deadline_s:g} s"}}
        return response.status_code, response.json()

    def check(self) -> None:
        """See that vLLM's processes live.

        Raises:
          RunError: one died.
        """
        if self._llm.errored:
            raise RunError(f"model {self._name}: vLLM's engine process died; its log says why: {self._log}")

    async def close(self) -> None:
        """End vLLM's processes."""
        await self._client.aclose()
        self._llm.shutdown(timeout=SHUTDOWN_S)


async def start_server(config: ModelPoolConfig, model: ModelConfig, log_folder: Path, name: str) -> VllmServer:
    """Start vLLM and its application.

    Raises:
      ConfigError: an option is unknown.
      RunError: vLLM did not start.
    """
    arguments = application_arguments(config, name)
    options = engine_options(config.options)
    engine = engine_arguments(Path(config.path), model, config.slots, config.context_length, 0, options)
    # What the model said, as any endpoint reports it: not the distribution that temperature made of it.
    engine |= {"logprobs_mode": "raw_logprobs"}
    log = log_folder.resolve() / f"vllm-{name}-{os.getpid()}.log"
    llm = await start(engine, log, config.threads)
    tasks = await llm.get_supported_tasks()
    application = build_app(arguments, tasks, llm.model_config)
    await init_app_state(llm, application.state, arguments, tasks)
    return VllmServer(llm, application, name, log)
