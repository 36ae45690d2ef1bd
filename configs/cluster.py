"""Settings of the Ray cluster, and of what a run shows."""

from __future__ import annotations

from dataclasses import dataclass

from configs.errors import one_of, require

__all__ = ["ClusterConfig", "LoggingConfig"]


@dataclass(kw_only=True)
class ClusterConfig:
    """Which Ray cluster, and the deadlines of control calls."""

    address: str | None = None
    """None starts a local cluster; "auto" joins the one of this job; "local" runs in this process, without Ray."""
    num_cpus: int | None = None
    """CPUs of a local cluster; None counts the machine's, at least 8 logical ones."""
    object_store_bytes: int = 512 << 20
    autoscales: bool = False
    """The cluster grows when it is asked for more: wait `start_deadline_s` for room, where it has none now."""
    call_deadline_s: float = 60.0
    start_deadline_s: float = 180.0
    heartbeat_s: float = 2.0
    heartbeat_deadline_s: float = 60.0
    progress_deadline_s: float = 300.0
    """Without a batch for half of this, the run says what it waits for, and takes the work of silent members from
    them; without one for all of it, the run stops."""
    restart_refill_s: float = 600.0
    """Seconds in which one used restart of a pool comes back to its budget."""
    drain_deadline_s: float = 300.0
    """For what a member works on when its pool shrinks; the rest is dispatched again."""

    def __post_init__(self) -> None:
        for name in ("progress_deadline_s", "restart_refill_s", "drain_deadline_s"):
            require(getattr(self, name) > 0, f"cluster.{name}", getattr(self, name), "be > 0", "300 is usual")


@dataclass(kw_only=True)
class LoggingConfig:
    """What is shown and written."""

    view: str = "auto"
    """auto | live | plain | quiet"""
    tensorboard: bool = True
    wandb_project: str | None = None
    report: bool = True

    def __post_init__(self) -> None:
        one_of("logging.view", self.view, ("auto", "live", "plain", "quiet"))
