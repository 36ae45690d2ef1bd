"""Prompts and replies: a template is filled in with captions, and one field of the reply is read.

A template is a text with the placeholders {goal} and either {caption}, or {first} and {second}; other
braces mean nothing. It tells the model to end with `<label>WORD</label>`, and what each word means.

Captions are data. They reach the prompt escaped, so that none can look like a tag of the template;
what is read of a reply is its last label alone, and only if that is exactly a known word.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError, nearest, require
from rewards.intrinsic.labels import Item

__all__ = ["CLASSES", "RANKS", "TEMPLATES", "Prompt", "load_prompt", "read_label", "shield"]

FOLDER = Path(__file__).parents[1] / "templates"
TEMPLATES = {
    "answer_quality": "answer_quality.txt",
    "minigrid_classification": "minigrid_classification.txt",
    "minigrid_ranking": "minigrid_ranking.txt",
    "nethack_classification": "nethack_classification.txt",
    "nethack_ranking": "nethack_ranking.txt",
}
"""Name -> file beside this package."""

CLASSES: Mapping[str, float] = {"MAPLE": 1.0, "CEDAR": 0.0}
"""Helpful and not, in words that by themselves mean neither: a model must take their sense from the template."""
RANKS: Mapping[str, float] = {"1": 1.0, "2": 0.0, "NONE": 0.5}

PLACEHOLDER = re.compile(r"\{(goal|caption|first|second)\}")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A template, the goal it is filled in with, and what the words of a reply are worth."""

    text: str
    goal: str
    labels: Mapping[str, float]
    names: tuple[str, ...]
    """Placeholders that an item fills: (caption,) or (first, second)."""

    def fill(self, item: Item) -> str:
        """Return the prompt of an item.

        Raises:
          ConfigError: the template asks about one caption and the item is a pair, or the other way round.
        """
        if len(item) != len(self.names):
            raise ConfigError(
                f"exploration.annotation.annotator.template asks about {len(self.names)} caption(s), but items have "
                f"{len(item)}; *_ranking templates suit rewards that learn from pairs, the others suit the rest"
            )
        values = {"goal": self.goal, **dict(zip(self.names, map(shield, item), strict=True))}
        # In one pass: a caption that reads "{goal}" stays what it is.
        return PLACEHOLDER.sub(lambda found: values[found[1]], self.text)


def load_prompt(template: str, goal: str, labels: Mapping[str, float] | None = None) -> Prompt:
    """Read a template by name, or a file of the user's own by path.

    Args:
      labels: word -> value in [0, 1]; None takes CLASSES for one caption and RANKS for two.

    Raises:
      ConfigError: no such template; a placeholder or the meaning of a label is missing; no goal.
    """
    place = "exploration.annotation.annotator"
    require(bool(goal.strip()), f"{place}.goal", goal, "say what is to be achieved", "for example 'win the game'")
    file = FOLDER / TEMPLATES[template] if template in TEMPLATES else Path(template)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = nearest(template, TEMPLATES)
        raise ConfigError(
            f"{place}.template is {template!r}, no template and no readable file: {error}{hint}"
        ) from error
    found = set(PLACEHOLDER.findall(text))
    names = ("first", "second") if found & {"first", "second"} else ("caption",)
    for name in ("goal", *names):
        require(name in found, f"{place}.template", str(file), f"contain the placeholder {{{name}}}", "add it")
    require("caption" in names or "caption" not in found, f"{place}.template", str(file),
            "contain {caption}, or {first} and {second}, not all", "split it into two templates")  # fmt: skip
    words = {word.upper(): value for word, value in (labels or (RANKS if len(names) == 2 else CLASSES)).items()}
    for word, value in words.items():
        require(0 <= value <= 1, f"{place}.labels.{word}", value, "lie in [0, 1]", "1 is helpful, 0 is not")
        require(word in text.upper(), f"{place}.template", str(file), f"say what the label {word} means", "add it")
    return Prompt(text=text, goal=goal, labels=words, names=names)


def shield(caption: str) -> str:
    """Return a caption without tags: `<`, `>` and `&` escaped, control characters but newlines as spaces."""
    printable = "".join(c if c.isprintable() or c == "\n" else " " for c in caption)
    return html.escape(printable.strip(), quote=False)


def read_label(reply: str, labels: Mapping[str, float]) -> float | None:
    """Return the value of the word in the last label of a reply; None unless it is exactly one that is known.

    A label that the end of the reply cuts off counts: servers leave out the stop string.
    """
    _, is_there, end = reply.upper().rpartition("<LABEL>")
    word = end.partition("</LABEL>")[0].strip(" \t\r\n.*'\"`")
    return labels.get(word) if is_there else None
