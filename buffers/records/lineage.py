"""The surviving lineage: the chain of weight versions that led to the newest one.

Update i consumes a batch at version `parent` and makes version `version`; its `trained` events carry
the consuming version. A resume from version v begins a lineage: its first row repeats that of v, it rolls
back what was trained at v or later, and consumes batches at those versions again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from buffers.digest import chain_digest
from buffers.retired import read_retired
from buffers.segments import read_stream
from buffers.tables import EVENTS, VERSIONS

__all__ = ["SurvivingLineage", "VersionRow", "surviving_versions"]

POLICY = "policy"  # the model whose versions trajectories are trained into
REPLAY = "replay"


class VersionRow(NamedTuple):
    """A weights version as the ledger has it."""

    lineage: int
    version: int
    parent: int | None
    trained_digest: str
    num_trained: int
    weights_sha256: str


class _Trained(NamedTuple):
    lineage: int
    id: str
    version: int
    is_replay: bool


@dataclass(frozen=True)
class SurvivingLineage:
    """Versions from the first to the newest, and the ids that each was trained on."""

    chain: tuple[VersionRow, ...]
    batches: tuple[tuple[str, ...], ...]
    """For each version of the chain: the trajectory ids that its update consumed, replayed ones too."""
    unclaimed: tuple[tuple[str, int], ...]
    """(id, consuming version) of training that was not rolled back and that no version of the chain claims."""
    duplicates: tuple[tuple[int, int], ...]
    """(lineage, version) of versions that have several rows."""
    made_in: Mapping[int, int]
    """Version of the chain -> the lineage that made it; later ones begin by repeating its row."""
    retired_version: int = 0
    """Up to this version, batches may lack ids whose events were retired: the version's row speaks for them."""

    @classmethod
    def load(cls, run_folder: Path) -> SurvivingLineage:
        """Read the ledger of a run folder; errors as in `read_stream`."""
        rows, duplicates = _version_rows(run_folder)
        chain = _chain(rows)
        trained = _surviving_training(run_folder)
        claimed = [_claim(row, trained) for row in chain]
        batches = tuple(tuple(e.id for e in batch) for batch in claimed)
        taken = {event for batch in claimed for event in batch}
        events = (e for batch in trained.values() for e in batch)
        unclaimed = tuple((e.id, e.version) for e in events if e not in taken and not e.is_replay)
        same = {(row.version, row.trained_digest): lineage for (lineage, _), row in sorted(rows.items(), reverse=True)}
        made_in = {row.version: same[row.version, row.trained_digest] for row in chain}
        return cls(chain, batches, unclaimed, duplicates, made_in, read_retired(run_folder).version)

    def digests(self) -> list[str]:
        """Return the chained digest after each version of the chain, computed from the ids alone."""
        digest, out = "", []
        for row, batch in zip(self.chain, self.batches, strict=True):
            if row.version <= self.retired_version:
                digest = row.trained_digest
            elif row.parent is not None:  # an update made it
                digest = chain_digest(digest, batch)
            out.append(digest)
        return out

    def counts(self) -> list[int]:
        """Return how many trajectories made each version of the chain."""
        made = zip(self.chain, self.batches, strict=True)
        return [row.num_trained if row.version <= self.retired_version else len(batch) for row, batch in made]


def surviving_versions(run_folder: Path) -> tuple[VersionRow, ...]:
    """Return the versions of the surviving lineage, first one first."""
    return _chain(_version_rows(run_folder)[0])


def _version_rows(run_folder: Path) -> tuple[dict[tuple[int, int], VersionRow], tuple[tuple[int, int], ...]]:
    table = read_stream(run_folder / "ledger", "versions", VERSIONS)
    table = table.filter(pc.equal(table["model"], POLICY)).select(list(VersionRow._fields))
    rows, duplicates = {}, []
    for row in (VersionRow(**fields) for fields in table.to_pylist()):
        key = (row.lineage, row.version)
        if key in rows:
            duplicates.append(key)
        rows[key] = row
    return rows, tuple(duplicates)


def _chain(rows: dict[tuple[int, int], VersionRow]) -> tuple[VersionRow, ...]:
    """Walk from the newest version to the first one; a parent lies in the newest lineage that has it."""
    chain: list[VersionRow] = []
    row = rows.get(max(rows, default=(0, 0)))
    while row is not None:
        chain.append(row)
        parent = row.version if row.parent is None else row.parent
        before = [key for key in rows if key[1] == parent < row.version and key[0] <= row.lineage]
        row = rows[max(before)] if before else None
    return tuple(reversed(chain))


def _surviving_training(run_folder: Path) -> dict[int, list[_Trained]]:
    """Return the training that no later event rolled back, by consuming version."""
    table = read_stream(run_folder / "ledger", "events", EVENTS)
    wanted = pc.is_in(pc.cast(table["event"], "string"), value_set=pa.array(["trained", "rolled_back"]))
    table = table.filter(wanted).sort_by("seq").select(["event", "lineage", "id", "version", "reason"])
    alive: dict[tuple[str, int], list[_Trained]] = {}
    for row in table.to_pylist():
        key = (row["id"], row["version"])
        if row["event"] == "rolled_back":
            alive.pop(key, None)
        else:
            event = _Trained(row["lineage"], row["id"], row["version"], row["reason"] == REPLAY)
            alive.setdefault(key, []).append(event)
    by_version: dict[int, list[_Trained]] = {}
    for (_, version), events in alive.items():
        by_version.setdefault(version, []).extend(events)
    return by_version


def _claim(row: VersionRow, trained: dict[int, list[_Trained]]) -> list[_Trained]:
    """Return the batch that made a version: of those consumed at its parent, the newest lineage's by then."""
    if row.parent is None:
        return []
    batch = [e for e in trained.get(row.parent, []) if e.lineage <= row.lineage]
    newest = max((e.lineage for e in batch), default=0)
    return [e for e in batch if e.lineage == newest]
