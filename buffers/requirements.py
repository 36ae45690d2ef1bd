"""What the stream itself needs, for `launch.py check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from buffers.environment_spec import EnvironmentSpec
from buffers.filters import FILTERS
from buffers.samplers import SAMPLERS
from configs.plan import Requirement
from configs.registry import construct
from configs.schema import RunConfig

__all__ = ["requirements"]

MIB = 1 << 20
ROW_BYTES = 700
"""Identity, texts and metadata of a trajectory row; tokens come on top (14 bytes each)."""
TOKEN_BYTES = 14


def requirements(config: RunConfig, spec: Callable[[], EnvironmentSpec]) -> Iterator[Requirement]:
    """Build sampler and filters, compare the buffer's capacity with what may be in flight, look at the run folder.

    Args:
      spec: returns what a decision policy acts in.

    Raises:
      ConfigError: a component cannot be used.
    """
    construct(SAMPLERS, config.buffer.sampler, "buffer.sampler")
    for index, section in enumerate(config.buffer.filters):
        construct(FILTERS, section, f"buffer.filters[{index}]")
    samples = (config.max_staleness + 1) * config.batch.samples
    tokens = config.environment.fragment_length if config.is_decision else config.rollout.context_length
    needed = samples * (ROW_BYTES + TOKEN_BYTES * tokens)
    fits = needed <= config.buffer.max_bytes
    yield Requirement(
        subject="buffer",
        text=f"{samples:,} samples in flight: about {needed / MIB:.1f} of {config.buffer.max_bytes / MIB:.0f} MiB",
        status="OK" if fits else "WARN",
        remedy="" if fits else "admission will pause on bytes; raise buffer.max_bytes or lower max_staleness",
    )
    folder = Path(config.runs_folder) / config.name
    taken = (folder / "run.json").exists()
    if taken != config.resume:
        remedy = "pass resume=true, or another name=" if taken else "drop resume=true, or correct name="
        state = "holds a run already" if taken else "holds no run to resume"
        yield Requirement(subject="run folder", text=f"{folder} {state}", status="FAIL", remedy=remedy)
    else:
        yield Requirement(subject="run folder", text=f"{folder} ({'to be resumed' if taken else 'new'})")
