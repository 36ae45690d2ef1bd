"""Sums of several numbers, worked out line by line: tasks whose steps can be checked one at a time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import accumulate, pairwise

from actors.tasks.source import settings_digest
from buffers.trajectory import Task
from configs.errors import ConfigError

__all__ = ["RunningSums", "right_lines"]


class RunningSums:
    """`3+4+9=` is answered by `3+4=7`, `7+9=6`: each line adds the next number, and keeps the last digits.

    The answer of a task holds all lines; what is asked for is the last number. `metadata` has the terms.
    With `conclusion: "#"` a last line says it alone, `#6`. With `restated: 0.2` a fifth of the lines are said again,
    a fifth of those once more, and so on: true, but idle, as people write.
    """

    name = "running_sums"
    listed = False

    def __init__(
        self,
        seed: int,
        min_terms: int = 3,
        max_terms: int = 3,
        digits: int = 1,
        restated: float = 0.0,
        conclusion: str = "",
        size: int = 100_000,
        where: str = "tasks.train",
    ) -> None:
        """Say how long the sums are.

        Args:
          seed: the run's seed.
          min_terms, max_terms: numbers of a sum.
          digits: of every number, sums included: they are kept modulo 10 to the power of `digits`.
          restated: probability that a line is followed by itself.
          conclusion: what stands before the result in a line of its own; without it there is no such line.
          size: tasks of one epoch; each is drawn by itself, so some occur twice.

        Raises:
          ConfigError: a value is out of range.
        """
        if not 2 <= min_terms <= max_terms:
            raise ConfigError(f"{where}.min_terms is {min_terms}; it must lie in [2, max_terms={max_terms}]; try 3")
        if digits < 1 or size < 1:
            raise ConfigError(f"{where}.digits is {digits} and size {size}; both must be >= 1; 1 and 100000 are usual")
        if not 0 <= restated < 1:
            raise ConfigError(
                f"{where}.restated is {restated}; it must lie in [0, 1); 0.2 restates a fifth of the lines"
            )
        self._seed, self._terms, self._digits, self._size = seed, (min_terms, max_terms), digits, size
        self._restated, self._conclusion = restated, conclusion
        settings = {"seed": seed, "min_terms": min_terms, "max_terms": max_terms, "digits": digits, "size": size}
        self.fingerprint = settings_digest({**settings, "restated": restated, "conclusion": conclusion})

    def __len__(self) -> int:
        return self._size

    def task(self, index: int) -> Task:
        """Return task `index`; drawn anew at each call, always the same."""
        if not 0 <= index < len(self):
            raise IndexError(f"task {index} of {self.name}; it has {len(self)}")
        draw = random.Random(f"{self._seed}/{index}")
        terms = [draw.randrange(10**self._digits) for _ in range(draw.randint(*self._terms))]
        prompt = "+".join(map(self._text, terms)) + "="
        answer = "\n".join(self._answer(right_lines(terms, self._digits), draw))
        return Task(source=self.name, index=index, prompt=prompt, answer=answer, metadata={"terms": terms})

    def _answer(self, lines: list[str], draw: random.Random) -> Iterator[str]:
        for line in lines:
            yield line
            while draw.random() < self._restated:
                yield line
        if self._conclusion:
            yield self._conclusion + lines[-1][-self._digits :]

    def _text(self, number: int) -> str:
        return f"{number:0{self._digits}}"


def right_lines(terms: list[int], digits: int) -> list[str]:
    """Return the lines that work out a sum, without line ends."""
    sums = list(accumulate(terms, lambda total, term: (total + term) % 10**digits))
    steps = zip(pairwise(sums), terms[1:], strict=True)
    return [f"{before:0{digits}}+{term:0{digits}}={after:0{digits}}" for (before, after), term in steps]
