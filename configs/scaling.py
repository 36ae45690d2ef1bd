"""How large a pool may be, and when it grows or shrinks by itself."""

from __future__ import annotations

from dataclasses import dataclass

from configs.errors import require

__all__ = ["ScalingConfig"]


@dataclass(kw_only=True)
class ScalingConfig:
    """Bounds of a pool, for hands and for the automatic; the automatic is off while there is no `max`."""

    min: int = 1
    max: int | None = None
    """None: the pool never changes by itself, and by hand to any size from `min`."""
    target_queue_s: float = 1.0
    """The pool grows while the median wait of its work is longer than this, in seconds."""
    quiet_share: float = 0.25
    """It may shrink while that wait is below this share of the target: between the two nothing happens."""
    busy_share: float = 0.8
    """... and while the members that stay would be busy for at most this share of their time."""
    up_factor: float = 1.5
    """Growth of one step, by at least one member."""
    down_factor: float = 0.75
    """What one step leaves of a pool, at least one member fewer."""
    up_cooldown_s: float = 30.0
    """After any change until the next growth; figures look back for 30 s."""
    down_cooldown_s: float = 120.0
    """After any change until it may shrink."""

    def __post_init__(self) -> None:
        require(self.min >= 1, "scaling.min", self.min, "be >= 1", "a pool of none does nothing")
        rule = f"not be below scaling.min={self.min}"
        require(self.max is None or self.max >= self.min, "scaling.max", self.max, rule, "raise it, or lower min")
        require(self.target_queue_s > 0, "scaling.target_queue_s", self.target_queue_s, "be > 0", "1 is usual")
        for name in ("up_cooldown_s", "down_cooldown_s"):
            require(getattr(self, name) >= 0, f"scaling.{name}", getattr(self, name), "be >= 0", "30 is usual")
        for name in ("quiet_share", "busy_share"):
            require(0 < getattr(self, name) < 1, f"scaling.{name}", getattr(self, name), "lie in (0, 1)", "try 0.5")
        require(self.up_factor > 1, "scaling.up_factor", self.up_factor, "be > 1", "1.5 adds half")
        require(0 < self.down_factor < 1, "scaling.down_factor", self.down_factor, "lie in (0, 1)", "0.75 is usual")

    @property
    def automatic(self) -> bool:
        return self.max is not None and self.max > self.min

    def check_count(self, key: str, count: int) -> None:
        """Raise the ConfigError of a pool that would begin outside its bounds."""
        most = count if self.max is None else self.max
        rule = f"lie in [{self.min}, {most}], the pool's scaling.min and scaling.max"
        require(self.min <= count <= most, key, count, rule, "change the count or the bounds")
