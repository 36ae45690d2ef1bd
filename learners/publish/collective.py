"""Publishing to engines on other hosts: a gloo broadcast in a process group of its own.

The group is built directly, so that it lives beside the default group of the training ranks. The
publisher hosts a key-value store; every wait polls that store, so a missing receiver is named:

    receiver                    store                       publisher
    sets member/<rank>  ------> who is there       <------  waits for all members
    polls               <------ announcement       <------  sets (sequence, version, group, members)
    sets ready/<s>/<rank> ----> who will receive   <------  waits for all to be ready
    header, then buckets of bounded size: broadcast from rank 0

Receivers that join later are part of the next announcement, which builds a new group; publishing
the newest version once more serves them.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import distributed

from configs.errors import ConfigError, Corruption, DeadlineExceeded, MemberLost, StaleEpoch
from learners.models.weights import Bytes, Layout, Receiver, checksum, fill
from learners.publish import PublishStats, World, require_newer

__all__ = ["CollectivePublisher", "CollectiveReceiver"]

POLL_S = 0.002
BUCKET_BYTES = 4 << 20
REFUSED = "refused"
dist: Any = distributed  # its type stubs lack most of what is used here


class Announcement(NamedTuple):
    """What the publisher is about to send, and to whom."""

    sequence: int
    version: int
    group: int
    members: list[str]
    """Token of each receiver that takes part, by rank."""


class CollectivePublisher:
    """Rank 0: hosts the store and sends. `buffer` [bytes] is the flat copy that is sent from."""

    def __init__(self, world: World, layout: Layout, epoch: int, *, deadline_s: float = 60.0) -> None:
        """Listen at the world's address; receivers may come later.

        Raises:
          ConfigError: the address and port cannot be listened on.
        """
        self._world, self._layout, self._epoch, self._deadline_s = world, layout, epoch, deadline_s
        self._ranks = range(1, world.receivers + 1)
        limits = {"wait_for_workers": False, "timeout": timedelta(seconds=deadline_s)}
        try:
            self._store = dist.TCPStore(world.address, world.port, is_master=True, **limits)
        except RuntimeError as error:
            place = f"publish.backend: cannot listen on {world.address}:{world.port}"
            raise ConfigError(f"{place}: {error}; choose another port") from error
        self._store.set("hello", json.dumps([epoch, layout.fingerprint]))
        self.buffer = layout.allocate()
        self._views = layout.views(self.buffer)
        self._group: Any = None
        self._members: list[str] = []
        self._groups, self._sequence, self._last = 0, 0, -1

    def publish(self, version: int, tensors: Mapping[str, torch.Tensor]) -> PublishStats:
        """Send one version to all receivers; the newest may be sent again. See `Publisher.publish`."""
        if version != self._last:
            require_newer(version, self._last)
        members = self._await_all("member", f"version {version} of epoch {self._epoch}")
        if any(member.startswith(REFUSED) for member in members):
            raise StaleEpoch(f"receivers refuse epoch {self._epoch}: {', '.join(members)}; stop this process")
        started = time.perf_counter()
        fill(self._views, tensors)
        packed = time.perf_counter()
        digest = checksum(self.buffer.data)
        summed = time.perf_counter()
        self._send(version, digest, members)
        self._last = version
        transfer_s = time.perf_counter() - started - (summed - packed)
        size = self._layout.size
        return PublishStats(version=version, bytes=size, transfer_s=transfer_s, checksum_s=summed - packed)

    @property
    def port(self) -> int:
        """Where this publisher listens."""
        return int(self._store.port)

    def members(self) -> list[str]:
        """Return the token of each receiver that has connected, by rank; it changes when one starts again."""
        return list(self._present("member").values())

    def receiver(self, rank: int) -> Callable[[], Receiver]:
        make = partial(CollectiveReceiver, min_epoch=self._epoch, deadline_s=self._deadline_s)
        return partial(make, self._world.address, self.port, rank, self._layout)

    def close(self) -> None:
        self._group = self._store = None

    def _send(self, version: int, digest: int, members: list[str]) -> None:
        renew = members != self._members
        self._members = []  # until this succeeds: a group that failed half-way is never used again
        self._groups, self._sequence = self._groups + renew, self._sequence + 1
        self._store.set("announcement", json.dumps(Announcement(self._sequence, version, self._groups, members)))
        what = f"version {version} of epoch {self._epoch}"
        self._await_all(f"ready/{self._sequence}", what)
        with deadlines(what, f"receivers {', '.join(members)}", self._deadline_s):
            if renew:
                everyone = len(members) + 1
                self._group = join(self._store, self._groups, 0, everyone, self._world.address, self._deadline_s)
            words = np.array([version, self._epoch, digest], np.uint64)
            broadcast(self._group, words.view(np.uint8), self._deadline_s)
            broadcast(self._group, self.buffer, self._deadline_s)
        for rank in self._ranks:
            self._store.delete_key(f"ready/{self._sequence}/{rank}")
        self._members = members

    def _present(self, key: str) -> dict[int, str]:
        """Return what receivers have set under `key`, by rank."""
        names = {rank: f"{key}/{rank}" for rank in self._ranks}
        return {rank: self._store.get(name).decode() for rank, name in names.items() if self._store.check([name])}

    def _await_all(self, key: str, awaiting: str) -> list[str]:
        deadline = time.monotonic() + self._deadline_s
        while len(present := self._present(key)) < len(self._ranks):
            if time.monotonic() > deadline:
                who = " and ".join(f"receiver {r}" for r in self._ranks if r not in present)
                rule = f"{who} did not come for {awaiting} within {self._deadline_s:g} s ({key})"
                raise DeadlineExceeded(f"publisher at port {self.port}: {rule}; restart it or publish to fewer")
            time.sleep(POLL_S)
        return list(present.values())


class CollectiveReceiver:
    """Rank `rank`, counted from 1, of the group that a `CollectivePublisher` leads."""

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
        self._epoch, fingerprint = json.loads(self._store.get("hello"))
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
        deadline = time.monotonic() + self._deadline_s
        while (announced := self._announced()) is None:
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"{self._place} announced no version within {self._deadline_s:g} s; poll first")
            time.sleep(POLL_S)
        self._taken = announced.sequence
        words = np.zeros(3, np.uint64)
        with deadlines(f"version {announced.version}", self._place, self._deadline_s):
            self._store.set(f"ready/{self._taken}/{self._rank}", self._token)
            if announced.group != self._joined:
                number, everyone = announced.group, len(announced.members) + 1
                self._group = join(self._store, number, self._rank, everyone, self._host, self._deadline_s)
                self._joined = number
            broadcast(self._group, words.view(np.uint8), self._deadline_s)
            broadcast(self._group, self._buffer, self._deadline_s)
        version, epoch, digest = (int(word) for word in words)
        if (version, epoch, digest) != (announced.version, self._epoch, checksum(self._buffer.data)):
            raise Corruption(f"version {version} of {self._place} fails its checksum; publish it again")
        return version, self._views

    def close(self) -> None:
        self._group = self._store = None

    def _announced(self) -> Announcement | None:
        try:
            if not self._store.check(["announcement"]):
                return None
            announced = Announcement(*json.loads(self._store.get("announcement")))
        except dist.DistError as error:
            raise MemberLost(f"{self._place} is gone; build the receiver of its successor") from error
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


def join(store: Any, number: int, rank: int, size: int, address: str, deadline_s: float) -> Any:
    """Build gloo group `number`; returns once all `size` members have called this."""
    options = dist.ProcessGroupGloo._Options()
    options._timeout = timedelta(seconds=deadline_s)
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=address)]
    return dist.ProcessGroupGloo(dist.PrefixStore(f"group/{number}", store), rank, size, options)


def broadcast(group: Any, data: Bytes, deadline_s: float) -> None:
    """Send `data` from rank 0 into everybody's `data`, a bucket at a time, so that little is in flight."""
    options = dist.BroadcastOptions()
    options.rootRank = 0
    for bucket in torch.from_numpy(data).split(BUCKET_BYTES):
        group.broadcast([bucket], options).wait(timedelta(seconds=deadline_s))


@contextlib.contextmanager
def deadlines(awaiting: str, whose: str, deadline_s: float) -> Iterator[None]:
    """Turn gloo's time-outs and broken connections into DeadlineExceeded."""
    try:
        yield
    except RuntimeError as error:
        rule = f"the broadcast of {awaiting} broke or took over {deadline_s:g} s ({error})"
        raise DeadlineExceeded(f"{whose}: {rule}; restart whoever is gone") from error
