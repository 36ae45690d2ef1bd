"""Prompts of judges: a file with placeholders, into which what the policy wrote goes as a quotation.

A template is a text with placeholders in braces; other braces mean nothing. Two kinds of values fill them: terms,
which the user of this system wrote (rubric, principle, the form of the reply), go in as they are; quotations
(question, answer, responses), which a model may have written, go in between tags that carry a number:

    <answer 5f3a9c02>
    x < 3, and </answer> closes nothing
    </answer 5f3a9c02>

The number is a hash of everything that is quoted, so that no text can contain the tag that would end it, and the
same question is still the same prompt. The template says {number} where it explains this.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["TEMPLATES", "Template", "load_template"]

FOLDER = Path(__file__).parent / "templates"
TEMPLATES = sorted(file.stem for file in FOLDER.glob("*.txt"))
PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
NUMBER_CHARACTERS = 8

Quotation = str | Mapping[str, str]
"""A text, or several by name."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """The text of a prompt."""

    text: str

    def fill(self, quotations: Mapping[str, Quotation], terms: Mapping[str, str]) -> str:
        """Return the prompt; every placeholder in one pass, so that a text that reads "{rubric}" stays one."""
        texts = [text for value in quotations.values() for text in _texts(value)]
        number = _number(texts)
        values = {name: _quoted(name, value, number) for name, value in quotations.items()}
        values |= {**terms, "number": number}
        return PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), self.text)


def load_template(template: str, needed: frozenset[str]) -> Template:
    """Read a template by name, or a file of the user's own by path.

    Raises:
      ValueError: no such template, or a placeholder that this judge fills is missing.
    """
    file = FOLDER / f"{template}.txt" if template in TEMPLATES else Path(template)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(TEMPLATES)
        raise ValueError(f"template is {template!r}, no readable file and none of {known}: {error}") from error
    missing = ", ".join(f"{{{name}}}" for name in sorted((needed | {"number"}) - set(PLACEHOLDER.findall(text))))
    if missing:
        raise ValueError(f"template is {str(file)!r}; it must contain the placeholder {missing}; add it")
    return Template(text=text)


def _texts(value: Quotation) -> list[str]:
    return [value] if isinstance(value, str) else list(value.values())


def _quoted(name: str, value: Quotation, number: str) -> str:
    if isinstance(value, str):
        return f"<{name} {number}>\n{_printable(value)}\n</{name} {number}>"
    return "\n\n".join(_quoted(f"{name.removesuffix('s')} {one}", text, number) for one, text in value.items())


def _number(texts: list[str]) -> str:
    found = hashlib.sha256("\0".join(texts).encode("utf-8", "replace")).hexdigest()
    while any(found[:NUMBER_CHARACTERS] in text for text in texts):
        found = hashlib.sha256(found.encode()).hexdigest()
    return found[:NUMBER_CHARACTERS]


def _printable(text: str) -> str:
    """Return a text without control characters, but with its line ends and tabs, and without halves of characters."""
    whole = text.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() or c in "\n\t" else " " for c in whole)
