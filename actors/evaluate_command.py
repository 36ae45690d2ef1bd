"""`launch.py eval`: a checkpoint on held-out tasks, without a cluster."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from actors.evaluate import build
from buffers.transport import LocalHandle
from configs.load import load_config
from configs.parts import Parts
from configs.registry import Deferred
from configs.schema import RunConfig

__all__ = ["evaluate"]


def evaluate(words: list[str], make_parts: Callable[[RunConfig], Parts]) -> int:
    """Measure a checkpoint on held-out tasks: `launch.py eval RUN [--version N] [key=value ...] [--json]`."""
    parser = argparse.ArgumentParser(prog="launch.py eval", description=evaluate.__doc__)
    parser.add_argument("run", type=Path, help="run folder, runs/<name>")
    parser.add_argument("--version", type=int, help="the newest checkpoint's when left out")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example eval.temperature=1.0")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_intermixed_args(words)
    config = load_config([options.run / "config.yaml"], options.overrides)
    parts = make_parts(config)
    found = parts.checkpoint(options.run / "checkpoints", options.version)
    reference = parts.reference(options.run).resolve()
    servers = {name: parts.reward_server(name, reference) for name in config.rewards.components}
    result = asyncio.run(evaluate_folder(config, found.path, found.version, parts, servers))
    print(json.dumps(result) if options.json else "  ".join(f"{name} {value:,.4g}" for name, value in result.items()))
    return 0


async def evaluate_folder(
    config: RunConfig, model_folder: Path, version: int, parts: Parts, servers: Mapping[str, Deferred]
) -> dict[str, float]:
    """Evaluate the weights of a model folder in this process; see `Evaluator.evaluate`.

    Args:
      servers: how a server of each reward component is made.
    """
    evaluator = build(config, model_folder, parts.held_out, parts.graph)
    try:
        for name, make in servers.items():
            evaluator.attach(f"reward.{name}", LocalHandle(name, await make()))
        return await evaluator.measure(version)
    finally:
        await evaluator.close()
