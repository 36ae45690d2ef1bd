"""vLLM's processes end with the process that owns the engine, however it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.fault, pytest.mark.usefixtures("vllm_installed")]

OWNER = "from engine_models import vllm_engine; vllm_engine(); print('up', flush=True); input()"
DEADLINE_S = 60.0


def test_nothing_of_vllm_is_left_when_its_owner_is_killed():
    import psutil  # comes with vLLM

    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        cwd=Path(__file__).parents[1] / "unit",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None and "up\n" in owner.stdout, "libraries may say something before"
        started = psutil.Process(owner.pid).children(recursive=True)
        mapped = {m.path.split(" ")[0] for p in started for m in p.memory_maps() if m.path.startswith("/dev/shm/psm_")}
        assert len(started) >= 3 and mapped, "the engine's core, its worker and Python's resource tracker"
        # Whatever is killed with the owner, names of shared memory must not need anybody to remove them.
        assert not [path for path in mapped if Path(path).exists()]
        owner.kill()
    gone, alive = psutil.wait_procs(started, timeout=DEADLINE_S)
    assert not alive and len(gone) == len(started)
