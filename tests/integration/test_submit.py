"""Jobs on a cluster that was started with `ray start --head`, dashboard, job agent and token authentication on.

The run is judged by an endpoint that wants a key, which the nodes have in their environment: afterwards neither the
run folder nor anything that Ray wrote may hold it.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web

from buffers.records.audit import audit
from tests.integration.listening import open_to_the_network
from tests.integration.ray_head import ROOT, Head, ray_head

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from endpoint_server import serving_beside
from judge_model import RuleModel

pytestmark = pytest.mark.integration

KEY = f"sk-{secrets.token_hex(16)}"  # made here: this file travels to the cluster, too
DEADLINE_S = 280.0
SMALL = (
    "updates=1", "warm_start.updates=0", "eval.tasks=0", "batch.prompts_per_update=2", "checkpoint.every=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(JUDGE_KEY=KEY) as cluster:
        yield cluster


def client(head: Head, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of somebody who uses the cluster, to its end."""
    environment = head.environment | variables
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=DEADLINE_S)


def submit(head: Head, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return client(head, sys.executable, "launch.py", "submit", *words, "--address", head.url, **variables)


def test_a_submitted_run_shows_its_output_and_leaves_its_key_nowhere(head: Head):
    async def judge(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        keys.append(request.headers.get("Authorization", ""))
        if len(keys) % 3 == 2:  # as some servers do
            return web.Response(status=500, text=f"cannot serve {keys[-1]}")
        return await truth(request, body)

    keys: list[str] = []
    truth = RuleModel()
    runs = head.folder / "runs"
    with serving_beside(judge) as server:
        endpoint = f"{{url: '{server.url}', model: judge, key_variable: JUDGE_KEY, retries: 0}}"
        component = f"{{target: judge_pointwise, rubric: It is right., endpoint: {endpoint}}}"
        words = (f"rewards.components.correct.component={component}", "rewards.components.correct.deadline_s=60")
        done = submit(head, "configs/smoke.yaml", "name=judged", f"runs_folder={runs}", *SMALL, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "status        finished" in done.stdout, "the output of the job is shown"
    assert set(keys) == {f"Bearer {KEY}"} and len(keys) > 2, "the key was used"
    books = audit(runs / "judged")
    assert books.balanced, books.problems
    assert holders(head.folder, KEY) == []
    assert holders(head.folder, head.token) == [head.folder / "token"]
    assert KEY not in done.stdout + done.stderr and head.token not in done.stdout + done.stderr
    again = submit(head, "configs/smoke.yaml", "name=judged", f"runs_folder={runs}")
    assert again.returncode == 2, "the exit code is the run's"
    assert "holds a run already; pass resume=true" in again.stdout


def holders(folder: Path, secret: str) -> list[Path]:
    """Return the files below a folder that hold a secret."""
    files = [Path(where, name) for where, _, names in os.walk(folder) for name in names]
    readable = [path for path in files if path.is_file() and not path.is_symlink()]
    assert len(readable) > 50, "there is something to look at"
    return [path for path in readable if secret.encode() in path.read_bytes()]


def test_ray_job_submit_works_as_well_and_ships_code_only(head: Head):
    ray = str(Path(sys.executable).with_name("ray"))
    plain = (ray, "job", "submit", "--address", head.url, "--working-dir", ".", "--", "python", "launch.py")
    preset = ("configs/smoke.yaml", "name=plain", "cluster.address=auto", f"runs_folder={head.folder}/runs", *SMALL)
    done = client(head, *plain, *preset)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((head.folder / "runs" / "plain" / "summary.json").read_text())["status"] == "finished"
    unpacked = head.folder / "session_latest" / "runtime_resources" / "working_dir_files"
    shipped = [path for path in unpacked.rglob("*") if "__pycache__" not in path.parts]
    strange = {".git", ".venv", "runs", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"}
    assert [path for path in shipped if path.name in strange] == []
    assert any(path.name == "launch.py" for path in shipped)


def test_without_the_token_nobody_gets_in(head: Head, tmp_path: Path):
    (tmp_path / "token").write_text("0" * 64)
    done = submit(head, "configs/smoke.yaml", "runs_folder=/nowhere", RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
    assert done.returncode == 2
    assert "refuses us" in done.stderr and "set RAY_AUTH_TOKEN_PATH to a file with the token" in done.stderr


def test_the_cluster_of_the_recipe_listens_on_this_host_only(head: Head):
    started = [p for p in psutil.process_iter() if str(head.folder) in " ".join(_words(p))]
    family = {child for process in started for child in (process, *process.children(recursive=True))}
    assert open_to_the_network(family) == []
    for process in family:
        assert head.token not in " ".join(_words(process)), "no command line holds the token"


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
