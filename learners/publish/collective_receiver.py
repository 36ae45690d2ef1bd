"""The receiving side of collective publishing; `learners.publish.collective` says who waits for whom."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch

from configs.errors import ConfigError, Corruption, DeadlineExceeded, MemberLost, RunError, StaleEpoch
from learners.models.weights import Layout, checksum
from learners.publish.collective_group import POLL_S, REFUSED, Announcement, Go, broadcast, dist, join

__all__ = ["CollectiveReceiver"]


class CollectiveReceiver:
    """Receives from a `CollectivePublisher`; `rank` is its seat, counted from 1."""

    def __init__(
        self, address: str, port: int, rank: int, layout: Layout, *, min_epoch: int = 0, deadline_s: float = 60.0
    ) -> None:
        """Connect and announce this receiver.

        Raises:
          DeadlineExceeded: nobody listens at the address.
          ConfigError: the publisher's weights have another layout.
          StaleEpoch: the publisher's epoch is below `min_epoch`; it is told so.
        """
        self._rank, self._layout, self._deadline_s = rank, layout, deadline_s
        self._place = f"publisher at {address}:{port}"
        self._host = reach(address, port, self._place, deadline_s)
        self._store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=deadline_s))
        self._token = f"{rank} (pid {os.getpid()}, since {time.time_ns()})"
        self._epoch, fingerprint, self._slow_after_s = json.loads(self._store.get("hello"))
        if self._epoch < min_epoch:
            self._store.set(f"member/{rank}", f"{REFUSED}, by {self._token} of epoch {min_epoch}")
            raise StaleEpoch(f"{self._place} is of epoch {self._epoch}, this receiver of {min_epoch}; stop it")
        if fingerprint != layout.fingerprint:
            raise ConfigError(f"{self._place} sends weights of another layout; load one model everywhere")
        self._store.set(f"member/{rank}", self._token)
        self._buffer = layout.allocate()
        self._views = layout.views(self._buffer)
        self._group: Any = None
        self._joined = self._taken = 0

    def poll(self) -> int | None:
        announced = self._announced()
        return announced.version if announced else None

    def take(self) -> tuple[int, dict[str, torch.Tensor]]:
        announced = self._wait(self._announced, self._deadline_s, "announced no version")
        self._taken = announced.sequence
        self._store.set(f"ready/{self._taken}/{self._rank}", self._token)
        fault = ""
        try:
            self._receive(announced)
        except (RunError, RuntimeError) as error:
            fault = str(error)
            raise
        finally:
            self._store.set(f"done/{self._taken}/{self._rank}", fault)
        return announced.version, self._views

    def close(self) -> None:
        self._group = self._store = None

    def _receive(self, announced: Announcement) -> None:
        """Fill the buffer bucket by bucket.

        Raises:
          DeadlineExceeded: this receiver was too late, or somebody broke off.
          Corruption: a bucket is not what the publisher sent; the buffer is of no use then.
        """
        go = Go(
            *json.loads(self._wait(partial(self._found, f"go/{self._taken}"), 2 * self._slow_after_s, "did not go"))
        )
        if self._token not in go.members:
            raise DeadlineExceeded(f"{self._place} left receiver {self._rank} behind; it is served again")
        with deadlines(f"version {announced.version}", self._place, self._slow_after_s):
            if go.group != self._joined:
                rank, everyone = go.members.index(self._token) + 1, len(go.members) + 1
                self._group = join(self._store, go.group, rank, everyone, self._host, self._slow_after_s)
                self._joined = go.group
            filled = 0
            while filled < self._layout.size:
                filled = self._bucket(announced.version, filled)

    def _bucket(self, version: int, filled: int) -> int:
        """Receive a bucket; return the bytes filled so far."""
        header = np.zeros(5, np.uint64)
        broadcast(self._group, header.view(np.uint8), self._slow_after_s)
        got, epoch, offset, size, digest = (int(word) for word in header)
        data = self._buffer[filled : filled + size]
        broadcast(self._group, data, self._slow_after_s)
        if (got, epoch, offset, digest) != (version, self._epoch, filled, checksum(data.data)):
            where = f"bytes {filled} to {filled + size}"
            raise Corruption(f"version {version} of {self._place} fails its checksum in {where}; it is sent again")
        return filled + size

    def _wait(self, look: Callable[[], Any], patience_s: float, failing: str) -> Any:
        deadline = time.monotonic() + patience_s
        while (found := look()) is None:
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"{self._place} {failing} within {patience_s:g} s; poll first")
            time.sleep(POLL_S)
        return found

    def _found(self, key: str) -> Any:
        return self._store.get(key) if self._store.check([key]) else None

    def _announced(self) -> Announcement | None:
        try:
            text = self._found("announcement")
        except dist.DistError as error:
            raise MemberLost(f"{self._place} is gone; build the receiver of its successor") from error
        if text is None:
            return None
        announced = Announcement(*json.loads(text))
        return announced if self._token in announced.members and announced.sequence > self._taken else None


def reach(address: str, port: int, place: str, deadline_s: float) -> str:
    """Wait until `place` listens; return the address by which this host reaches it."""
    deadline = time.monotonic() + deadline_s
    while True:
        try:
            with socket.create_connection((address, port), timeout=deadline_s) as connection:
                return str(connection.getsockname()[0])
        except OSError as error:
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"{place}: nobody listens there after {deadline_s:g} s; start it") from error
            time.sleep(0.05)


@contextlib.contextmanager
def deadlines(awaiting: str, whose: str, deadline_s: float) -> Iterator[None]:
    """Turn gloo's time-outs and broken connections into DeadlineExceeded."""
    try:
        yield
    except RuntimeError as error:
        rule = f"the broadcast of {awaiting} broke or took over {deadline_s:g} s ({error})"
        raise DeadlineExceeded(f"{whose}: {rule}; restart whoever is gone") from error
