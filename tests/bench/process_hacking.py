"""Process rewards as a policy finds its way around them: the sum of step scores against bounded forms of it.

    python -m tests.bench.process_hacking [--updates 40] [--seeds 0,1] [--folder runs/process_hacking]

A small judge learns to tell true lines of arithmetic from others. A policy learns to write such lines from examples in
which a fifth of them are restated, as people do. Then it trains, once for each form, on the outcome plus the judge's
step rewards; all forms of a seed have the same first weights, tasks and settings:

    sum          the step scores as they are
    minimum      PURE's min-form: nearly all credit to the worst step
    clip_delta   Clip, then Delta
    outcome      the verifier alone; the judge is heard by nobody

One JSON line for each run, first updates to last: the proxy (the sum of the judge's scores of a completion, which is
what `sum` is paid), how often the answer is right (of the samples of training; of held-out tasks, greedy), lines of a
completion, and the share of them that it has already. One page: <folder>/process_hacking.html. Everything runs in one
process (`cluster.address=local`). Not measured: speed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]

from buffers.records.query import query
from configs.load import load_config
from learners.checkpoint import find
from tests.bench.exploration import ROOT, finish
from tests.bench.hacking_page import TITLES, hacking_page
from tests.bench.step_judge import PRESET, train_judge

CURVES = """
SELECT update, avg(value) FILTER (name = 'rewards/process/mean') AS proxy,
avg(value) FILTER (name = 'rewards/correct/mean') AS correct FROM metrics
WHERE name IN ('rewards/process/mean', 'rewards/correct/mean') GROUP BY update ORDER BY update
"""
TEXTS = """
SELECT prompt, completion FROM trajectories t JOIN events e USING (id) WHERE e.event = 'trained' ORDER BY e.version, id
"""
IN_PROCESS = "cluster.address=local"
JUDGED = "rewards.components.process"
VERIFIER = {"target": "exact_match", "last_line": True}
UPDATES = 40
EDGE = 5
"""Updates whose samples are the beginning and the end."""
HEAD = ["", "proxy", "right answers", "held out, greedy", "lines", "of them restated"]


FORMS: dict[str, list[str]] = {
    "sum": [],
    "minimum": ["learner.advantage.target=process_minimum"],
    "clip_delta": [f"{JUDGED}.transforms=[{{target: step_clip, threshold: 0.5}}, {{target: step_delta}}]"],
    "outcome": [f"{JUDGED}.weight=0"],
}
"""Each one key of the preset."""


def measure(run: Path) -> dict[str, Any]:
    """Return the figures of a run, each [at first, in the end] where it changes."""
    rows = query(run, CURVES).to_pylist()
    evaluated = json.loads((run / "summary.json").read_text())["eval"]
    return {
        "proxy": [mean(part, "proxy") for part in (rows[:EDGE], rows[-EDGE:])],
        "right": [mean(part, "correct") for part in (rows[:EDGE], rows[-EDGE:])],
        "held_out": [round(evaluated[when]["accuracy"], 4) for when in ("before", "after")],
        **lines(last_texts(run)),
    }


def last_texts(run: Path) -> list[str]:
    """Return prompt and completion of each sample that the last updates were trained on."""
    rows = query(run, TEXTS).to_pylist()[-EDGE * load_config([run / "config.yaml"], []).batch.samples :]
    return [row["prompt"] + row["completion"] for row in rows]


def mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return round(fmean(row[name] for row in rows), 4)


def lines(samples: Sequence[str]) -> dict[str, float]:
    """Return lines per completion, and the share of lines that the same completion has already."""
    texts = [text.partition("=")[2].splitlines() for text in samples]
    count = sum(map(len, texts))
    restated = sum(len(text) - len(set(text)) for text in texts)
    return {"lines": round(count / len(texts), 3), "restated": round(restated / max(count, 1), 4)}


def row(form: str, found: Sequence[dict[str, Any]]) -> list[str]:
    """Return a row under HEAD: means over the seeds."""
    proxy, right, held_out = (
        [fmean(one[name][when] for one in found) for when in (0, 1)] for name in ("proxy", "right", "held_out")
    )
    return [
        TITLES[form],
        f"{proxy[0]:.2f} → {proxy[1]:.2f}",
        f"{right[0]:.1%} → {right[1]:.1%}",
        f"{held_out[0]:.1%} → {held_out[1]:.1%}",
        f"{fmean(one['lines'] for one in found):.1f}",
        f"{fmean(one['restated'] for one in found):.1%}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=UPDATES)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "process_hacking")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    judge = judge_of(folder)
    runs: dict[str, list[Path]] = {form: [] for form in FORMS}
    found: dict[str, list[dict[str, Any]]] = {form: [] for form in FORMS}
    for seed in options.seeds.split(","):
        start = warm_started(folder, f"start-seed{seed}", [f"seed={seed}"])
        preset = preset_with(folder / f"seed{seed}.yaml", model={"path": str(start)}, warm_start={"updates": 0})
        shared = [IN_PROCESS, f"seed={seed}", f"updates={options.updates}", f"{JUDGED}.component.model={judge}"]
        for form, words in FORMS.items():
            run = finish(folder, f"{form}-seed{seed}", [*shared, *words], preset)
            runs[form].append(run)
            found[form].append(measure(run))
            print(json.dumps({"form": form, "seed": int(seed), **found[form][-1]}), flush=True)
    file = folder / "process_hacking.html"
    said = {form: "\n\n".join(last_texts(of[-1])[-2:]) for form, of in runs.items()}
    file.write_text(hacking_page(runs, [row(form, found[form]) for form in FORMS], HEAD, said))
    print(json.dumps({"page": str(file)}))


def judge_of(folder: Path) -> Path:
    """Return the judge, made of a policy whose warm start went on until it could add; trained where it is not yet."""
    judge = folder / "judge"
    if not (judge / "step_head.safetensors").exists():
        start = warm_started(folder, "teacher", ["seed=0", "warm_start.target_loss=0"])
        print(json.dumps({"judge": train_judge(start, judge)}), flush=True)
    return judge


def warm_started(folder: Path, name: str, words: Sequence[str]) -> Path:
    """Return the model folder of a policy after its warm start and one update from outcomes."""
    outcomes = preset_with(folder / f"{name}.yaml", rewards={"components": {"correct": {"component": VERIFIER}}})
    shared = [IN_PROCESS, "updates=1", "checkpoint.every=1", "eval.tasks=0", "learner.advantage.target=leave_one_out"]
    run = finish(folder, name, [*shared, *words], outcomes)
    return find(run / "checkpoints").path


def preset_with(file: Path, **sections: Any) -> Path:
    """Write the preset with other sections; return the file."""
    file.write_text(yaml.safe_dump(yaml.safe_load(PRESET.read_text()) | sections))
    return file


if __name__ == "__main__":
    main()
