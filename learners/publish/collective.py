"""Publishing to engines on other hosts: gloo broadcasts in process groups of their own.

The publisher is here, its receivers are in `collective_receiver`. The publisher hosts a key-value store; every
wait polls that store, and none is long for a receiver that is silent:

    receiver                    store                       publisher
    sets member/<rank>  ------> who is there
    polls               <------ announcement       <------  sets (sequence, version, receivers)
    sets ready/<s>/<rank> ----> who will receive   <------  waits at most `slow_after_s`
    looks for itself    <------ go/<s>             <------  sets (group, those who were ready)
    header and bytes of each bucket: broadcast from rank 0, with a checksum each
    sets done/<s>/<rank> -----> "" or what failed  <------  waits at most twice `slow_after_s`

A receiver that does not answer in time is left behind: nobody waits for it from then on. Once it answers
again, `waiting` names it, and publishing the newest version again serves those that lack it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np

from configs.errors import ConfigError, StaleEpoch
from learners.models.weights import Bytes, Layout, Receiver, checksum
from learners.publish import Buckets, PublishStats, World, require_newer
from learners.publish.collective_group import POLL_S, REFUSED, Announcement, Go, broadcast, dist, join
from learners.publish.collective_receiver import CollectiveReceiver

__all__ = ["CollectivePublisher"]


class CollectivePublisher:
    """Rank 0: hosts the store and sends a bucket at a time, of which it keeps nothing."""

    def __init__(
        self, world: World, layout: Layout, epoch: int, *, deadline_s: float = 60.0, slow_after_s: float = 5.0
    ) -> None:
        """Listen at the world's address; receivers may come at any time.

        Args:
          slow_after_s: how long a receiver may be silent before it is left behind.

        Raises:
          ConfigError: the address and port cannot be listened on.
        """
        self._world, self._layout, self._epoch = world, layout, epoch
        self._deadline_s, self._slow_after_s = deadline_s, slow_after_s
        limits = {"wait_for_workers": False, "timeout": timedelta(seconds=deadline_s)}
        try:
            self._store = dist.TCPStore(world.address, world.port, is_master=True, **limits)
        except RuntimeError as error:
            place = f"publish.backend: cannot listen on {world.address}:{world.port}"
            raise ConfigError(f"{place}: {error}; choose another port") from error
        self._store.set("hello", json.dumps([epoch, layout.fingerprint, slow_after_s]))
        self._group: Any = None
        self._members: list[str] = []
        self._confirmed: dict[str, int] = {}
        """Token -> the newest version that this receiver said it has."""
        self._silent: set[str] = set()
        self._groups, self._sequence, self._last = 0, 0, -1

    def publish(self, version: int, buckets: Buckets) -> PublishStats:
        """Send one version to the receivers that lack it; the newest may be sent again. See `Publisher.publish`."""
        if version != self._last:
            require_newer(version, self._last)
        if self._last < 0:
            self._await(lambda: len(self.members()) == self._world.receivers, self._slow_after_s)
        lacking = self._lacking(version)
        started, self._last = time.perf_counter(), version
        self._forget_answers()
        self._sequence += 1
        self._set("announcement", Announcement(self._sequence, version, list(lacking.values())))
        ready = self._answers("ready", lacking, self._slow_after_s)
        fault, checksum_s = self._send(version, buckets, [lacking[rank] for rank in ready])
        done = self._answers("done", {rank: lacking[rank] for rank in ready}, 2 * self._slow_after_s)
        self._confirmed |= {lacking[rank]: version for rank, trouble in done.items() if not trouble}
        if fault or len(done) < len(ready) or any(done.values()):
            self._members = []  # a group that failed half-way is never used again
        transfer_s = time.perf_counter() - started - checksum_s
        return PublishStats(
            version=version, bytes=self._layout.size, transfer_s=transfer_s, checksum_s=checksum_s,
            missed=sum(map(bool, done.values())),
        )  # fmt: skip

    @property
    def port(self) -> int:
        """Where this publisher listens."""
        return int(self._store.port)

    def members(self) -> list[str]:
        """Return the token of each receiver that has connected, by rank; it changes when one starts again."""
        return list(self._present("member").values())

    def waiting(self) -> list[str]:
        """Return the tokens of the receivers that answer, and lack the newest version."""
        for rank, token in self._lacking(self._last).items():
            if token in self._silent and any(rank in self._present(key) for key in self._keys()):
                self._silent.discard(token)
        return [token for token in self._lacking(self._last).values() if token not in self._silent]

    def receiver(self, rank: int) -> Callable[[], Receiver]:
        make = partial(CollectiveReceiver, min_epoch=self._epoch, deadline_s=self._deadline_s)
        return partial(make, self._world.address, self.port, rank, self._layout)

    def close(self) -> None:
        self._group = self._store = None

    def _send(self, version: int, buckets: Buckets, members: list[str]) -> tuple[str, float]:
        """Broadcast all buckets; return what broke or "", and the seconds spent on checksums.

        All of them are asked for in any case: other ranks gather them at the same time.
        """
        fault, checksum_s, offset, number = "", 0.0, 0, 0
        if members != self._members:
            self._groups += 1
        self._set(f"go/{self._sequence}", Go(self._groups, members))
        try:
            self._meet(members)
        except RuntimeError as error:
            fault = str(error)
        for tensors in buckets:
            part = Layout.of(tensors)
            number = self._layout.require_run(part, number, offset)
            if members and not fault:
                data = part.allocate()
                part.pack(tensors, data)
                began = time.perf_counter()
                digest = checksum(data.data)
                checksum_s += time.perf_counter() - began
                try:
                    self._broadcast([version, self._epoch, offset, part.size, digest], data)
                except RuntimeError as error:
                    fault = str(error)
            offset += part.size
        self._layout.require_run(Layout((), 0), number, offset, ended=True)
        return fault, checksum_s

    def _meet(self, members: list[str]) -> None:
        if members and members != self._members:
            everyone = len(members) + 1
            self._group = join(self._store, self._groups, 0, everyone, self._world.address, self._slow_after_s)
            self._members = members

    def _broadcast(self, header: list[int], data: Bytes) -> None:
        broadcast(self._group, np.array(header, np.uint64).view(np.uint8), self._slow_after_s)
        broadcast(self._group, data, self._slow_after_s)

    def _lacking(self, version: int) -> dict[int, str]:
        """Return the tokens of connected receivers without `version`, by rank.

        Raises:
          StaleEpoch: one of them has seen a newer epoch.
        """
        present = self._present("member")
        if refusing := [token for token in present.values() if token.startswith(REFUSED)]:
            raise StaleEpoch(f"receivers refuse epoch {self._epoch}: {', '.join(refusing)}; stop this process")
        return {rank: token for rank, token in present.items() if self._confirmed.get(token) != version}

    def _answers(self, key: str, members: dict[int, str], patience_s: float) -> dict[int, str]:
        """Return what receivers have answered under `key`, by rank; wait for those that are not known as silent."""
        found: dict[int, str] = {}

        def complete() -> bool:
            found.update(self._present(f"{key}/{self._sequence}"))
            return all(rank in found or token in self._silent for rank, token in members.items())

        self._await(complete, patience_s)
        self._silent |= {token for rank, token in members.items() if rank not in found}
        self._silent -= {token for rank, token in members.items() if rank in found}
        return {rank: found[rank] for rank in members if rank in found}

    def _keys(self) -> tuple[str, str]:
        return f"ready/{self._sequence}", f"done/{self._sequence}"

    def _forget_answers(self) -> None:
        for key in self._keys():
            for rank in self._present(key):
                self._store.delete_key(f"{key}/{rank}")

    def _present(self, key: str) -> dict[int, str]:
        """Return what receivers have set under `key`, by rank."""
        names = {rank: f"{key}/{rank}" for rank in range(1, self._world.receivers + 1)}
        return {rank: self._store.get(name).decode() for rank, name in names.items() if self._store.check([name])}

    def _set(self, key: str, value: tuple[Any, ...]) -> None:
        self._store.set(key, json.dumps(value))

    def _await(self, condition: Callable[[], bool], patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while not condition() and time.monotonic() < deadline:
            time.sleep(POLL_S)
