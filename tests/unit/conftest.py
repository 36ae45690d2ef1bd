"""What the unit tests share for the length of a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from engine_models import end_vllm


@pytest.fixture(scope="session", autouse=True)
def vllm_ends() -> Iterator[None]:
    """End the vLLM engines that tests started; starting one takes too long to do it for each test."""
    yield
    end_vllm()
