"""What changed among the alarms, as lines."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["AlarmNews"]


class AlarmNews:
    """Remembers which alarms a view has spoken of."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def news(self, active: Mapping[str, str]) -> list[str]:
        """Take the alarms that are raised now; return a line for each raised or cleared since the last call."""
        raised = [f"alarm {name}: {text}" for name, text in active.items() if name not in self._known]
        cleared = [f"alarm {name} is over" for name in self._known if name not in active]
        self._known = dict(active)
        return raised + cleared
