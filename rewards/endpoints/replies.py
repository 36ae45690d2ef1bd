"""What an OpenAI-compatible server answered: the text of its one choice, and the tokens it says it used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from buffers.scores import ScoreStatus
from rewards.answers import Failure

__all__ = ["USAGE", "read_reply", "usage"]

USAGE = ("prompt_tokens", "completion_tokens")


def read_reply(answer: Mapping[str, Any]) -> str | Failure:
    """Return the text of the one choice of a chat completion or completion; a choice without text is empty."""
    match answer:
        case {"choices": [{"message": {"content": str() | None as text}} | {"text": str() | None as text}]}:
            # JSON can spell halves of characters, which no table can store.
            return (text or "").encode("utf-8", "replace").decode()
        case {"choices": [*choices]} if len(choices) != 1:
            return Failure(ScoreStatus.ERROR, f"the server answered {len(choices)} choices where one was asked for")
    return Failure(ScoreStatus.ERROR, f"the answer has no choice with a text; its keys: {sorted(answer)}"[:300])


def usage(answer: Mapping[str, Any]) -> dict[str, int | None]:
    """Return `prompt_tokens` and `completion_tokens`; None where the server gives no number that can be one."""
    told = answer.get("usage")
    counts = {name: told.get(name) if isinstance(told, dict) else None for name in USAGE}
    return {
        name: n if isinstance(n, int) and not isinstance(n, bool) and n >= 0 else None for name, n in counts.items()
    }
