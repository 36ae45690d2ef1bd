"""The storm itself: threads that deal faults side by side to a live run, while one looks on and resumes what ends.

Who does what:

    two hands: card (fault, victim, moment) -> the moment comes -> inject -> effect seen? -> the next card
    one fist:  what ends the run, one by one, each only once the run is up again
    the eye:   every half second versions and processes; a run that ended: books, witness, resume
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from buffers.records.audit import audit
from configs.errors import RunError
from tests.faults.chaos_faults import BUILDING, FAULTS, SECONDS, pool_of
from tests.faults.chaos_plan import ANY_TIME, MOMENTS, Card, hands
from tests.faults.chaos_record import STARTING, Blow, Record
from tests.faults.chaos_run import StormyRun
from tests.faults.chaos_witness import wrongs

__all__ = ["STATES", "Storm", "check"]

HANDS = 2
GAP_S = (1.0, 5.0)
"""Between two faults of one hand."""
MOMENT_S = 10.0
"""Longest wait for a moment that may not come."""
LOOK_S, POLL_S = 0.5, 0.01
UP_S = 40.0
"""That the run gets on for between two of its ends."""
HEALING_S = 300.0
CHECK_S = 480.0
"""Shortest time from one look at the books to the next: a storm waits for them."""
FAILED_STARTS = 3
STATES = (STARTING, "streaming", "recovering", *MOMENTS)
"""Of a run when a fault comes; recovering: from an earlier one."""


class Storm:
    """Deals blows to a run and keeps the record."""

    def __init__(
        self, run: StormyRun, seconds: float, rng: random.Random, falls: Sequence[tuple[float, Card]] = ()
    ) -> None:
        """Plan it; the run has made progress.

        Args:
          falls: (seconds after the start, card) of what ends the run.
        """
        self.record = Record(log=run.path.parent / "faults.jsonl")
        self.last = run.look()
        self.names = sorted(self.last.victims)
        self._run, self._seconds, self._began = run, seconds, time.monotonic()
        self._falls, self._checked_s = falls, -CHECK_S
        self._deck, self._deck_lock = hands(self.names, rng), threading.Lock()
        self._over, self._busy = threading.Event(), set[int]()
        self._errors: list[BaseException] = []
        seeds = [rng.random() for _ in range(HANDS + 1)]
        works: list[Callable[[random.Random], None]] = [*[self._hand] * HANDS, self._fist]
        self._threads = [
            threading.Thread(target=self._guard, args=(work, random.Random(s)), daemon=True)
            for work, s in zip(works, seeds, strict=True)
        ]

    @property
    def now_s(self) -> float:
        return time.monotonic() - self._began

    def rage(self) -> None:
        """Deal blows for as long as planned, then see the run get over all of them.

        Raises:
          RunError: no progress, no start, or a broken promise.
        """
        for thread in self._threads:
            thread.start()
        try:
            self._watch(lambda: self.now_s < self._seconds)
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()
        healed_by = self.now_s + HEALING_S
        self._watch(lambda: bool(self.record.open) and self.now_s < healed_by)
        if left := self.record.open:
            raise RunError(f"{HEALING_S:g} s after the storm the run is not over {left}: {self._run.said}")

    # -- the eye --------------------------------------------------------------------------------

    def _watch(self, goes_on: Callable[[], bool]) -> None:
        failed = 0
        while goes_on():
            if self._errors:
                raise self._errors[0]
            self.last = look = self._run.look()
            self.record.look(self.now_s, look.versions, look.members, len(self._run.ends))
            if not look.alive:
                failed = failed + 1 if look.is_starting else 0
                if failed > FAILED_STARTS:
                    raise RunError(f"it ended {failed} times while it started: {self._run.said}")
                self._run.bury()
                self._check_sometimes()
                self._run.resume()
            time.sleep(LOOK_S)

    def _check_sometimes(self) -> None:
        """Look at the files of a run that has ended, unless that was done not long ago."""
        if self.now_s >= self._checked_s + CHECK_S:
            self._checked_s = self.now_s
            check(self._run.path, over=False)

    # -- the hands ------------------------------------------------------------------------------

    def _guard(self, work: Callable[[random.Random], None], rng: random.Random) -> None:
        try:
            work(rng)
        except BaseException as error:
            self._errors.append(error)

    def _hand(self, rng: random.Random) -> None:
        while not self._over.wait(rng.uniform(*GAP_S)):
            with self._deck_lock:
                card = next(self._deck)
            self._deal(card, rng)

    def _fist(self, rng: random.Random) -> None:
        up_since_s = -UP_S
        for at_s, card in self._falls:
            while self.now_s < max(at_s, up_since_s + UP_S):
                if self.last.is_starting or not self.last.alive:
                    up_since_s = self.now_s
                if self._over.wait(LOOK_S):
                    return
            self._deal(card, rng)
            up_since_s = self.now_s

    def _deal(self, card: Card, rng: random.Random) -> None:
        """Have a card's moment come and its fault happen; nothing where there is no such victim at present."""
        victim = self._victim(card, rng)
        if victim is None:
            return
        try:
            came = card.moment != ANY_TIME and not self.last.is_starting and self._wait_for(card.moment)
            self._strike(card, victim, card.moment if came else self._state(), rng)
        finally:
            self._busy.discard(victim.pid)

    def _victim(self, card: Card, rng: random.Random) -> psutil.Process | None:
        look = self.last
        if not look.alive:
            return None
        known = look.victims.get(card.victim, ())
        # Who is being built has no heartbeat yet that could fail.
        heard = [process for process in known if card.fault != "hang" or not pool_of(process).endswith(BUILDING)]
        free = [process for process in heard if process.pid not in self._busy]
        if not free:
            return None
        victim = rng.choice(free)
        self._busy.add(victim.pid)
        return victim

    def _strike(self, card: Card, victim: psutil.Process, state: str, rng: random.Random) -> None:
        members, ends, began_s = self.last.members.get(card.victim, 1), len(self._run.ends), self.now_s
        with contextlib.suppress(psutil.Error):  # it ended just before
            effect = FAULTS[card.fault](victim, rng.uniform(*SECONDS[card.fault]))
            times = {"began_s": round(began_s, 2), "over_s": round(self.now_s, 2)}
            self.record.add(Blow(card.fault, card.victim, state, effect, members=members, ends=ends, **times))

    def _state(self) -> str:
        if self.last.is_starting:
            return STARTING
        return "recovering" if self.record.open else "streaming"

    def _wait_for(self, moment: str) -> bool:
        before, ends = _entries(self._run.path, moment), time.monotonic() + MOMENT_S
        while time.monotonic() < ends and not self._over.is_set():
            if _entries(self._run.path, moment) - before:
                return True
            time.sleep(POLL_S)
        return False


def _entries(run: Path, moment: str) -> set[str]:
    folder, pattern = MOMENTS[moment]
    return {path.name for path in (run / folder).glob(pattern)}


def check(run: Path, *, over: bool) -> None:
    """Look at a run's files.

    Raises:
      RunError: the books do not balance, or a promise is broken.
    """
    books = audit(run)
    if problems := [*books.problems, *wrongs(run, over=over)]:
        raise RunError(f"after the storm: {'; '.join(problems)}")
