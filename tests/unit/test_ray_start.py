"""A cluster that does not come up: what the user is told."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from actors.ray_adapter import connect
from configs.cluster import ClusterConfig
from configs.errors import RunError


@pytest.mark.parametrize("error", [Exception("The current node timed out during startup."), KeyError("ours")])
def test_a_local_cluster_that_does_not_come_up_is_said_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(**options: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", refuse)
    wanted = RunError if type(error) is Exception else type(error)
    with pytest.raises(wanted, match=r"did not start: The current node timed out|ours"):
        connect(ClusterConfig(), "test")
