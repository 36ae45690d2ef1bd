"""vLLM's processes end with the process that owns the engine, however it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed; `make setup-vllm` installs it")
import psutil

pytestmark = pytest.mark.fault

OWNER = "from engine_models import vllm_engine; vllm_engine(); print('up', flush=True); input()"
DEADLINE_S = 60.0


def test_nothing_of_vllm_is_left_when_its_owner_is_killed():
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        cwd=Path(__file__).parents[1] / "unit",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None and owner.stdout.readline() == "up\n"
        started = psutil.Process(owner.pid).children(recursive=True)
        assert len(started) >= 2, "the engine's core and its worker"
        owner.kill()
    gone, alive = psutil.wait_procs(started, timeout=DEADLINE_S)
    assert not alive and len(gone) == len(started)
