"""What a job is made of: its command line and the files that travel."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

import launch
from actors.submit import entrypoint
from actors.working_folder import LEFT_OUT, pack
from buffers.run_folder import RunFolder
from configs.errors import ConfigError, DataError

ROOT = Path(launch.__file__).parent
MIB = 1 << 20


def test_only_code_travels_and_it_is_small(tmp_path: Path):
    archive = tmp_path / "a.zip"
    files = {path.as_posix() for path in pack(ROOT, archive, 64 * MIB)}
    assert {"launch.py", "configs/smoke.yaml", "rewards/intrinsic/templates/minigrid_classification.txt"} <= files
    folders = {path.split("/")[0] for path in files if "/" in path}
    assert folders == {".ci", "actors", "buffers", "configs", "learners", "rewards", "tests"}
    assert archive.stat().st_size < 3 * MIB
    with zipfile.ZipFile(archive) as stored:
        assert set(stored.namelist()) == files
        assert stored.read("launch.py") == (ROOT / "launch.py").read_bytes()


def test_what_git_ignores_does_not_travel():
    ignored = {line.strip().rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    assert ignored - {"*.egg-info"} <= LEFT_OUT


def test_what_a_run_a_tool_or_a_person_left_stays_here(tmp_path: Path):
    for name in ("runs/a/ledger/x", ".git/config", ".venv/lib/x.py", "pkg/__pycache__/m.pyc", "x.egg-info/PKG", ".env"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("secret")
    (tmp_path / "pkg" / "m.py").write_text("code")
    (tmp_path / "outside").symlink_to("/etc")  # a folder
    assert pack(tmp_path, tmp_path.parent / "b.zip", MIB) == [Path("pkg/m.py")]


def test_the_same_code_makes_the_same_archive(tmp_path: Path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "m.py").write_text("code")
    pack(tmp_path / "code", tmp_path / "a.zip", MIB)
    (tmp_path / "code" / "m.py").touch()
    pack(tmp_path / "code", tmp_path / "b.zip", MIB)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_folder_with_data_is_refused_and_the_data_named(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tasks.jsonl").write_bytes(bytes(3 * MIB))
    (tmp_path / "m.py").write_text("code")
    with pytest.raises(DataError, match=r"holds 3\.0 MiB in 2 files; it must be at most 2 MiB.*data/tasks\.jsonl \(3"):
        pack(tmp_path, tmp_path / "a.zip", 2 * MIB)
    assert not (tmp_path / "a.zip").exists()


def test_the_job_runs_the_same_words_on_its_cluster():
    words = [str(ROOT / "configs" / "smoke.yaml"), "runs_folder=/shared/runs", "rollout.program={target: single_turn}"]
    told = "python launch.py run configs/smoke.yaml runs_folder=/shared/runs 'rollout.program={target: single_turn}'"
    assert entrypoint(ROOT, words) == f"{told} cluster.address=auto"
    assert entrypoint(ROOT, [*words, "cluster.address=10.0.0.1:6379"]) == f"{told} cluster.address=10.0.0.1:6379"


def test_what_cannot_become_a_job_is_refused_here(tmp_path: Path):
    preset = str(ROOT / "configs" / "smoke.yaml")
    with pytest.raises(ConfigError, match=r"runs_folder is 'runs'; it must be an absolute path on storage that all"):
        entrypoint(ROOT, [preset])
    with pytest.raises(DataError, match=r"has no launch\.py; give --working-dir"):
        entrypoint(tmp_path, [preset, "runs_folder=/shared"])
    (tmp_path / "mine.yaml").write_text("updates: 3\n")
    with pytest.raises(DataError, match=r"mine\.yaml is not in the working directory"):
        entrypoint(ROOT, [str(tmp_path / "mine.yaml"), "runs_folder=/shared"])


def test_a_dry_run_says_what_would_be_submitted(capsys: pytest.CaptureFixture[str]):
    words = [str(ROOT / "configs" / "smoke.yaml"), "runs_folder=/shared", "--working-dir", str(ROOT)]
    assert launch.main(["submit", *words, "--dry-run", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["entrypoint"].startswith("python launch.py run configs/smoke.yaml") and said["files"] > 100


@pytest.mark.parametrize(
    ("words", "why"), [((), "--address is None"), (("--address", "http://127.0.0.1:1"), "no cluster")]
)
def test_a_cluster_that_is_not_there_is_named(words: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]):
    known = (str(ROOT / "configs" / "smoke.yaml"), "runs_folder=/shared", "--working-dir", str(ROOT))
    assert launch.main(["submit", *known, *words]) == 2
    assert why in capsys.readouterr().err


def test_a_run_folder_that_would_end_with_its_job_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"lies in the working directory of a Ray job.*give runs_folder= an absolute"):
        RunFolder.create(tmp_path / "working_dir_files" / "_ray_pkg_0123456789abcdef" / "runs" / "mine")
    assert list(tmp_path.iterdir()) == []
