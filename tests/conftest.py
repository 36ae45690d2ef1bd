"""What all tests share."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Give this test process a folder of its own for Ray, which takes the newest cluster in it for the current one."""
    folder = tempfile.mkdtemp(prefix="ray-")  # short, since the paths of sockets are
    os.environ["RAY_TMPDIR"] = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(scope="session")
def vllm_installed() -> None:
    """Skip a test where vLLM is not installed; where all checks must hold, one that did not run is no check."""
    if importlib.util.find_spec("vllm") is None:
        end = pytest.fail if "CI" in os.environ else pytest.skip
        end("vLLM is not installed; `make setup-vllm` installs it, and `make test` does so first")
