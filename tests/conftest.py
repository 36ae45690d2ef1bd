"""What all tests share."""

from __future__ import annotations

import importlib.util
import os

import pytest


@pytest.fixture(scope="session")
def vllm_installed() -> None:
    """Skip a test where vLLM is not installed; where all checks must hold, one that did not run is no check."""
    if importlib.util.find_spec("vllm") is None:
        end = pytest.fail if "CI" in os.environ else pytest.skip
        end("vLLM is not installed; `make setup-vllm` installs it, and `make test` does so first")
