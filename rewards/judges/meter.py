"""What an endpoint's tokens cost, and when they have cost enough."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buffers.scores import ScoreStatus
from rewards.answers import Failure
from rewards.endpoints.replies import USAGE, usage

__all__ = ["Meter"]

PRICED_TOKENS = 1_000_000


@dataclass(kw_only=True)
class Meter:
    """Counts tokens and money; over a budget it pauses, until the budget is raised.

    Requests that are under way when a budget is reached still end, so it is overdrawn by `concurrency` of them at
    most. What a request used that failed, nobody tells us; it is not counted.
    """

    prompt_price: float = 0.0
    """Of a million tokens, in any currency."""
    completion_price: float = 0.0
    token_budget: int | None = None
    """May be set again at any time; so may the next."""
    cost_budget: float | None = None
    budget_file: Path | None = None
    """JSON with new values of the two, read whenever a budget is used up; how a run is told to go on."""
    counters: Counter[str] = field(default_factory=Counter)

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens so far."""
        return sum(self.counters[name] for name in USAGE)

    @property
    def cost(self) -> float:
        """In the currency of the prices."""
        priced = zip(USAGE, (self.prompt_price, self.completion_price), strict=True)
        return sum(self.counters[name] * price for name, price in priced) / PRICED_TOKENS

    def pause(self) -> Failure | None:
        """Return why nothing may be asked now, None where it may."""
        if self._overdrawn() and self.budget_file is not None:
            self._reread(self.budget_file)
        if not (spent := self._overdrawn()):
            return None
        self.counters["paused"] += 1
        return Failure(ScoreStatus.ABSTAINED, f"budget: {spent}; raise it to go on", final=True, paused=True)

    def charge(self, body: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Count a reply. Where the server does not say what it used, bytes are counted: no token is shorter."""
        told = usage(answer)
        self.counters["unmetered"] += None in told.values()
        for name, sent in zip(USAGE, (body, answer), strict=True):
            count = told[name]
            self.counters[name] += len(json.dumps(sent)) if count is None else count

    def _overdrawn(self) -> str:
        if self.token_budget is not None and self.tokens >= self.token_budget:
            return f"{self.tokens} tokens used, token_budget is {self.token_budget}"
        if self.cost_budget is not None and self.cost >= self.cost_budget:
            return f"{self.cost:.6g} spent, cost_budget is {self.cost_budget:g}"
        return ""

    def _reread(self, file: Path) -> None:
        """Take over what the file says; a file that is missing, or half written, changes nothing."""
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        match told:
            case {"token_budget": int() as tokens}:
                self.token_budget = tokens
        match told:
            case {"cost_budget": int() | float() as cost}:
                self.cost_budget = cost

    def stats(self) -> dict[str, float]:
        """Return totals since the start."""
        names = (*USAGE, "unmetered", "paused")
        return {**{name: self.counters[name] for name in names}, "cost": self.cost}
