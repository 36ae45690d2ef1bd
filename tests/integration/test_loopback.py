"""A run that starts its own cluster opens no port to the network."""

from __future__ import annotations

import psutil
import pytest

from actors import ray_adapter
from actors.member import MemberSpec
from actors.ray_placement import PlacingSpawner
from configs.cluster import ClusterConfig
from configs.registry import Deferred
from tests.integration.listening import open_to_the_network

pytestmark = pytest.mark.integration


async def test_a_cluster_of_our_own_listens_on_this_host_only():
    settings = ClusterConfig(num_cpus=2, object_store_bytes=100 << 20)
    ray_adapter.connect(settings, "headrace-test")
    try:
        member = PlacingSpawner(autoscales=False)(
            MemberSpec(pool="some", factory=Deferred("builtins:dict", ())), "some"
        )
        pid = await member.build(120.0)
        family = psutil.Process().children(recursive=True)
        assert pid in {process.pid for process in family}
        assert open_to_the_network([psutil.Process(), *family]) == []
    finally:
        ray_adapter.leave()
