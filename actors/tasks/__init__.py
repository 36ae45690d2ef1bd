"""Where prompts come from: task sources, the split and the cursor over them.

A source (`source.py`) answers `task(index)` for every index below its length, always with the same
task; it knows nothing of order, epochs or evaluation. `split.py` decides by the text of a prompt
alone whether it is held out, and `stream.py` turns ordinals into (epoch, position, task), so that a
run resumes by one number. To add a source, write a class with `name`, `fingerprint`, `listed`,
`__len__` and `task`, and name it in `TASKS` or in the configuration (`target: my_package:MyTasks`).
"""

from __future__ import annotations

from actors.tasks.lanes import LaneStream, lane_stream
from actors.tasks.source import TaskSource
from actors.tasks.split import Split
from actors.tasks.stream import HeldOut, TaskStream
from buffers.trajectory import Task
from configs.language import TasksConfig
from configs.registry import construct
from configs.schema import Component, RunConfig

__all__ = ["TASKS", "build", "build_source", "cursor", "held_out_tasks", "training_stream", "warm_start_examples"]

TASKS: dict[str, str] = {
    "datasets_folder": "actors.tasks.files:DatasetsFolder",
    "jsonl": "actors.tasks.files:Jsonl",
    "mix": "actors.tasks.mix:Mix",
    "parquet": "actors.tasks.files:Parquet",
    "reasoning_gym": "actors.tasks.generated:ReasoningGym",
    "running_sums": "actors.tasks.running_sums:RunningSums",
}


def build(section: TasksConfig, seed: int) -> tuple[TaskStream, HeldOut]:
    """Return the training stream and the held-out tasks of the `tasks` section.

    Args:
      seed: the run's seed; keys the shuffle and the generators, never the split.

    Raises:
      ConfigError: the section names no source, or no training task is left.
      DataError: a task file cannot be used.
    """
    source = build_source(section.train, seed, "tasks.train")
    split = Split(section.held_out_fraction)
    return TaskStream(source, split, seed=seed, shuffle=section.shuffle), HeldOut(source, split)


def build_source(section: Component, seed: int, where: str) -> TaskSource:
    """Return the source that a `{target: ..., argument: ...}` section describes."""
    source: TaskSource = construct(TASKS, section, where, seed=seed, where=where)
    return source


def cursor(config: RunConfig) -> TaskStream | LaneStream:
    """Return the task cursor of a run."""
    if config.is_decision:
        return lane_stream(config.environment, config.seed)
    return training_stream(config.tasks, config.seed)


def training_stream(section: TasksConfig, seed: int) -> TaskStream:
    """Return the task cursor of a language run."""
    return build(section, seed)[0]


def held_out_tasks(section: TasksConfig, seed: int, count: int) -> list[Task]:
    """Return the first `count` held-out tasks."""
    return build(section, seed)[1].first(count)


def warm_start_examples(section: TasksConfig, seed: int, count: int) -> list[tuple[str, str]]:
    """Return (prompt, answer) of `count` training tasks, drawn from the stream's second epoch on."""
    stream = training_stream(section, seed)
    tasks = (stream.task_at(stream.tasks_per_epoch + ordinal).task for ordinal in range(count))
    return [(task.prompt, task.answer) for task in tasks]
