"""Endless verified tasks from reasoning_gym: arithmetic, algebra, logic, games, graphs and more.

Source: github.com/open-thought/reasoning-gym; the generator makes task i from the seed plus i.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import reasoning_gym.factory
import xxhash

from actors.tasks.source import settings_digest
from buffers.trajectory import Task
from configs.errors import ConfigError, nearest

__all__ = ["ReasoningGym"]


class ReasoningGym:
    """Tasks of one reasoning_gym dataset, made on demand.

    `metadata` of a task holds `dataset` and `entry` (question, answer and metadata as plain JSON
    values), which is what the dataset's own scorer takes.
    """

    listed = False

    def __init__(
        self,
        dataset: str,
        seed: int,
        size: int = 100_000,
        prompt: str = "{question}",
        answer: str = "{answer}",
        name: str = "",
        where: str = "tasks.train",
        **settings: Any,
    ) -> None:
        """Make the generator and check the prompt template on its first task.

        Args:
          dataset: a name that reasoning_gym registers, for example chain_sum.
          seed: the run's seed.
          size: tasks of one epoch.
          prompt, answer: templates over `question`, `answer` and the fields of the entry's metadata.
          name: of the source, where a mix holds the same dataset twice; the dataset's when empty.
          settings: fields of the dataset's own configuration.

        Raises:
          ConfigError: unknown dataset or setting, refused value, or unknown field in a template.
        """
        if size < 1:
            raise ConfigError(f"{where}.size is {size}; it must be >= 1; 100000 is usual")
        _check_names(dataset, settings, where)
        self.name = name or dataset
        self._dataset_name = dataset
        self.fingerprint = settings_digest(
            {"dataset": dataset, "seed": seed, "size": size, "prompt": prompt, "answer": answer, "settings": settings}
        )
        self._prompt, self._answer = prompt, answer
        # Neighbouring seeds would make the same tasks, shifted by one: spread them.
        spread = xxhash.xxh3_64_intdigest(f"{dataset}:{seed}".encode()) >> 33
        try:
            self._dataset = reasoning_gym.factory.create_dataset(dataset, seed=spread, size=size, **settings)
        except (AssertionError, TypeError, ValueError) as error:
            raise ConfigError(f"{where}: {dataset!r} refuses its settings {settings}: {error}") from error
        self._check_template(prompt, f"{where}.prompt")
        self._check_template(answer, f"{where}.answer")

    def __len__(self) -> int:
        return int(self._dataset.size)

    def task(self, index: int) -> Task:
        """Return task `index`; generated anew at each call."""
        if not 0 <= index < len(self):
            raise IndexError(f"task {index} of {self.name}; it has {len(self)}")
        entry = self._dataset[index]
        return Task(
            source=self.name,
            index=index,
            prompt=self._prompt.format_map(_fields(entry)),
            # The generator's answer is None where only its scorer knows what is right.
            answer=self._answer.format_map(_fields(entry)) if entry["answer"] else "",
            metadata={"dataset": self._dataset_name, "entry": json.loads(json.dumps(entry, default=str))},
        )

    def _check_template(self, template: str, where: str) -> None:
        entry = self._dataset[0]
        try:
            template.format_map(_fields(entry))
        except KeyError as error:
            hint = nearest(str(error.args[0]), _fields(entry))
            raise ConfigError(f"{where} names {error}, which {self._dataset_name!r} lacks{hint}") from error
        except (ValueError, IndexError, AttributeError) as error:
            raise ConfigError(
                f"{where} is {template!r}: {error}; write fields as {{question}}, and braces as {{{{ }}}}"
            ) from error


def _fields(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry["metadata"], "question": entry["question"], "answer": entry["answer"]}


def _check_names(dataset: str, settings: dict[str, Any], where: str) -> None:
    known = reasoning_gym.factory.DATASETS
    if dataset not in known:
        raise ConfigError(f"{where}.dataset is {dataset!r}, which reasoning_gym lacks{nearest(dataset, known)}")
    fields = {field.name for field in dataclasses.fields(known[dataset][1])} - {"seed", "size"}
    for key in settings:
        if key not in fields:
            raise ConfigError(f"{where}.{key} is not a setting of {dataset!r}{nearest(key, fields)}")
