"""Where in a completion the answer is. All of it in linear time, whatever the text."""

from __future__ import annotations

__all__ = ["last_code_block", "last_tagged"]

_FENCE = "```"


def last_tagged(text: str, tag: str) -> str | None:
    """Return what the last `<tag>...</tag>` holds, stripped; None where there is none."""
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    return text[start + len(tag) + 2 : end].strip() if start >= 0 else None


def last_code_block(text: str) -> str:
    """Return the last closed block between lines of three backticks; without any, the whole text."""
    parts = text.split(_FENCE)
    closed = parts[1 : 2 * ((len(parts) - 1) // 2) : 2]
    if not closed:
        return text
    language, line_break, code = closed[-1].partition("\n")
    return code if line_break and len(language.split()) <= 1 else closed[-1]
