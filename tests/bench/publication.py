"""How fast weights are published, against a plain copy of the same bytes.

    python -m tests.bench.publication [--rounds 20]

Prints one JSON line. Copy and publish alternate, so that other load hits both alike; medians are
reported. GB are 1e9 bytes. `ratio` compares the write with one copy of a flat array, `ratio_by_tensor`
with numpy copying the same 64 tensors one by one, `ratio_with_checksum` the write and its checksum.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

import numpy as np
import torch

from learners.models.weights import Layout
from learners.publish.object_store import ObjectStorePublisher
from learners.publish.shared_memory import SharedMemoryPublisher

SIZES = {"3MB": 3_000_000, "100MB": 100_000_000}


def network(size: int) -> dict[str, torch.Tensor]:
    """Return float32 tensors of `size` bytes in all, shaped like a transformer's: 64 in all."""
    return {f"layer.{i}": torch.randn(size // 64 // 4) for i in range(64)}


def measure(size: int, rounds: int) -> dict[str, float]:
    """Return speeds in GB/s, seconds and ratios for one model size."""
    tensors = network(size)
    layout = Layout.of(tensors)
    source = layout.allocate()
    halves = np.ones((2, layout.size), np.uint8)  # two targets, as the publisher has: caches treat both alike
    layout.pack(tensors, source)
    publisher = SharedMemoryPublisher(f"headrace-bench-{os.getpid()}", layout, epoch=1)
    receiver = publisher.receiver(1)()
    store = ObjectStorePublisher(layout, epoch=1)
    arrays = [t.numpy() for t in tensors.values()]
    targets = [[np.ones_like(array) for array in arrays] for _ in halves]
    names = ("copy", "by_tensor", "write", "checksum", "take", "packet")
    times: dict[str, list[float]] = {name: [] for name in names}
    for version in range(1, rounds + 3):
        started = time.perf_counter()
        np.copyto(halves[version & 1], source)
        copied = time.perf_counter()
        for array, to in zip(arrays, targets[version & 1], strict=True):
            np.copyto(to, array)
        copied_by_tensor = time.perf_counter()
        stats = publisher.publish(version, [tensors])
        published = time.perf_counter()
        receiver.take()
        taken = time.perf_counter()
        packet = store.publish(version, [tensors])
        copies = (copied - started, copied_by_tensor - copied)
        row = (*copies, stats.transfer_s, stats.checksum_s, taken - published, packet.transfer_s)
        if version > 2:  # each half is touched once before it counts
            for name, value in zip(times, row, strict=True):
                times[name].append(value)
    publisher.close()
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        "bytes": layout.size,
        "memcpy_gb_s": round(layout.size / median["copy"] / 1e9, 2),
        "publish_gb_s": round(layout.size / median["write"] / 1e9, 2),
        "publish_with_checksum_gb_s": round(layout.size / (median["write"] + median["checksum"]) / 1e9, 2),
        "ratio": round(median["copy"] / median["write"], 3),
        "ratio_by_tensor": round(median["by_tensor"] / median["write"], 3),
        "ratio_with_checksum": round(median["copy"] / (median["write"] + median["checksum"]), 3),
        "take_s": round(median["take"], 6),
        "object_store_pack_s": round(median["packet"], 6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(json.dumps({name: measure(size, rounds) for name, size in SIZES.items()}))


if __name__ == "__main__":
    main()
