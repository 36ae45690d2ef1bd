"""The recipes for clusters that are not here: well-formed, of keys that exist, with their secrets in right places."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import yaml

import launch
from configs.load import read_config

CLUSTERS = Path(launch.__file__).parent / "configs" / "clusters"
ROOT = CLUSTERS.parents[1]


def words_of(command: str) -> list[str]:
    """Return the words of a `python launch.py run` command, its preset with its full path."""
    words = shlex.split(command)
    assert words[:3] == ["python", "launch.py", "run"]
    return [word if "=" in word else str(ROOT / word) for word in words[3:]]


def test_the_kuberay_recipe_is_a_ray_job_whose_command_is_a_run():
    job: dict[str, Any] = yaml.safe_load((CLUSTERS / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    config = read_config(words_of(job["spec"]["entrypoint"].removeprefix("cd /headrace && ")))
    assert (config.cluster.address, config.publish.backend) == ("auto", "object_store")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert f'"ray[default]=={cluster["rayVersion"]}"' in (ROOT / "pyproject.toml").read_text()
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in pods):
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert any(config.runs_folder.startswith(f"{mounts[volume['name']]}/") for volume in pod["volumes"])
        assert all(set(source) == {"secretRef"} for source in pod["containers"][0]["envFrom"])


def test_the_slurm_recipe_is_sound_shell_and_its_command_is_a_run():
    script = CLUSTERS / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)
    text = script.read_text().replace("\\\n", " ")
    command = next(line for line in text.splitlines() if line.startswith("python launch.py run"))
    values = {"CONFIG:-configs/quickstart.yaml": "configs/quickstart.yaml", "RUNS": "/shared", "#nodes[@]": "2"}
    filled = re.sub(r"\$\{?([^}\"\s/:]+(?::-[^}\"]*)?)\}?", lambda m: values.get(m[1], "1"), command)
    config = read_config(words_of(filled))
    assert (config.publish.backend, config.rollout.workers, config.runs_folder) == ("object_store", 2, "/shared")
    assert "RAY_AUTH_MODE=token" in text and "umask 077" in text
    assert "--dashboard-host=127.0.0.1" in text
