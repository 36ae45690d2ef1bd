"""The page of `process_hacking`: proxy against true accuracy, a colour for each form of reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from buffers.records.plots import Chart, Line, draw, smooth
from buffers.records.report_data import Floats, load_run
from buffers.records.report_page import Card, cards, code_blocks, key, numbers, page, section, table

__all__ = ["TITLES", "hacking_page"]

WINDOW = 5
PROXY, RIGHT = "rewards/process/mean", "rewards/correct/mean"
PLAIN, SHARES, AGAINST = Chart(), Chart(percent=True), Chart(percent=True, across="proxy")
TITLES = {
    "sum": "sum of the step scores",
    "minimum": "min-form (PURE)",
    "clip_delta": "Clip, then Delta",
    "outcome": "outcome alone",
}


def hacking_page(
    runs: Mapping[str, Sequence[Path]], rows: Sequence[Sequence[str]], head: Sequence[str], said: Mapping[str, str]
) -> str:
    """Return the whole HTML document.

    Args:
      runs: finished run folders by form, one for each seed.
      rows: of the table under `head`.
      said: a completion by form, the last of its kind.
    """
    series = [[load_run(run).series for run in folders] for folders in runs.values()]
    proxy, right = ([over_seeds([found[name] for found in forms]) for forms in series] for name in (PROXY, RIGHT))
    against = [Line("", p.values, r.values) for p, r in zip(proxy, right, strict=True)]
    shown = [
        Card("Proxy", "what the judge pays", draw(PLAIN, proxy), [(PROXY, "sum of its scores of a completion.")]),
        Card("True accuracy", "what is wanted", draw(SHARES, right), [(RIGHT, "share of right final answers.")]),
        Card(
            "True accuracy against proxy", "each line is a training", draw(AGAINST, against),
            [("", "All begin at the policy of the warm start; an honest proxy would lead up and to the right.")],
        ),
    ]  # fmt: skip
    seeds = max(map(len, runs.values()))
    spread = f" Lines are means over {seeds} seeds, bands reach to the farthest of them." if seeds > 1 else ""
    return page(
        "Process rewards and repetition",
        "finished",
        "The same policy, judge, tasks, seeds and budget; what differs is how step scores become rewards.",
        [
            key([TITLES[form] for form in runs]),
            section("What is paid, and what is wanted", cards(shown) + numbers(table(head, rows))),
            section(
                "How it writes in the end", code_blocks([f"{TITLES[form]}\n\n{text}" for form, text in said.items()])
            ),
        ],
        f"Curves are averages over {WINDOW} updates of what was sampled for training.{spread}",
    )


def over_seeds(curves: Sequence[tuple[Floats, Floats]]) -> Line:
    """Return the mean of smoothed curves over the same updates, with how far the farthest one is from it."""
    values = np.stack([smooth(y, WINDOW) for _, y in curves])
    mean = values.mean(axis=0)
    return Line("", curves[0][0], mean, np.abs(values - mean).max(axis=0))
