"""`launch.py timeline`: what happened to each trajectory, as a trace for https://ui.perfetto.dev.

    rollout <worker>      a slice per trajectory, from its start to its end, split where its weights changed; swaps
    reward <component>    a slice per score: the call's latency up to the moment when the score was recorded
    buffer                a slice per trajectory: unscored, then ready until its batch (or its end)
    learner               updates with their computation, and publications

Arrows lead from a trajectory's generation to its scores, its stay in the buffer and the updates that it went into.
Within a trajectory the moments of new weights are interpolated by tokens. A swap is a bracket: the worker's last
sample that ended on older weights, and its first that ended on these.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from buffers.records.query import connect
from buffers.records.trace_events import Slice, TraceEvents, Track, lanes
from configs.errors import DataError

__all__ = ["timeline", "timeline_run"]

NEWEST = 2000
UNKNOWN = "worker"  # of runs that did not record it

TRAJECTORIES = """
WITH chosen AS (
  FROM trajectories WHERE started_at > 0 AND id IN (SELECT id FROM events WHERE event = 'generated')
  ORDER BY finished_at DESC, id LIMIT {limit}),
steps AS (
  SELECT id, max(worker) AS worker, min(time) FILTER (event = 'generated') AS generated,
    min(time) FILTER (event = 'scored') AS scored, min(time) FILTER (event = 'batched') AS batched,
    max(time) FILTER (event IN ('dropped', 'failed')) AS ended,
    arg_max(reason, seq) FILTER (event IN ('dropped', 'failed')) AS reason,
    list([lineage, version] ORDER BY seq) FILTER (event = 'trained') AS updates
  FROM events WHERE id IN (SELECT id FROM chosen) GROUP BY id
)
SELECT id, "group", sample, attempt, started_at, finished_at, version_values, version_counts, num_sampled,
  len(tokens) AS tokens, status, finish_reason, completion, answer,
  worker, generated, scored, batched, ended, reason, updates
FROM chosen JOIN steps USING (id) ORDER BY started_at, id
"""
SCORES = """
SELECT trajectory_id AS id, component, status, value, latency_s, time, version, attempt, detail
FROM scores WHERE trajectory_id IN (SELECT unnest($ids)) ORDER BY time, trajectory_id, component
"""
UPDATES = """
SELECT e.version, e.lineage, min(time) FILTER (event = 'batched') AS begin, max(time) FILTER (event = 'trained') AS end,
  count(*) FILTER (event = 'trained') AS samples,
  (SELECT max(value) FROM metrics WHERE name = 'time/update' AND "update" = e.version + 1) AS compute_s,
  (SELECT max(value) FROM metrics WHERE name = 'time/weight_sync' AND "update" = e.version + 1) AS publish_s,
  (SELECT max(weights_sha256) FROM versions v WHERE v.version = e.version + 1 AND v.lineage = e.lineage) AS sha256
FROM events e WHERE event IN ('batched', 'trained') GROUP BY e.version, e.lineage
HAVING begin IS NOT NULL AND "end" IS NOT NULL ORDER BY begin
"""

Rows = Sequence[Mapping[str, Any]]
Stops = dict[str, list[tuple[Track, float]]]


def timeline_run(words: list[str]) -> int:
    """Write what happened to each trajectory: `launch.py timeline RUN [--output FILE] [--limit N] [--json]`."""
    parser = argparse.ArgumentParser(prog="launch.py timeline", description=timeline_run.__doc__)
    parser.add_argument("run", type=Path, help="run folder, runs/<name>, live or finished")
    parser.add_argument("--output", type=Path, help="FILE.json or FILE.json.gz; RUN/timeline.json when left out")
    parser.add_argument("--limit", type=int, default=NEWEST, help="newest trajectories to show; 0 shows all")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(words)
    target = options.output or options.run / "timeline.json"
    trace = timeline(options.run, options.limit)
    trace.write(target)
    done = {"timeline": str(target), "events": len(trace.events())}
    print(json.dumps(done) if options.json else f"{target}: open it at https://ui.perfetto.dev")
    return 0


def timeline(run_folder: Path, limit: int = NEWEST) -> TraceEvents:
    """Return the trace of the newest trajectories of a run, and of the updates meanwhile.

    Args:
      limit: trajectories; 0 takes all.

    Raises:
      DataError: this is no run folder, or it has no trajectory yet.
      Corruption: stored bytes fail their checksum.
    """
    books = connect(run_folder)
    try:
        rows = books.sql(TRAJECTORIES.format(limit=limit or "ALL")).to_arrow_table().to_pylist()
        scores = books.sql(SCORES, params={"ids": [row["id"] for row in rows]}).to_arrow_table().to_pylist()
        updates = books.sql(UPDATES).to_arrow_table().to_pylist()
    finally:
        books.close()
    if not rows:
        raise DataError(f"{run_folder} has no trajectory with times; wait for its first update, or name another run")
    first = min(row["started_at"] for row in rows)
    updates = [update for update in updates if update["end"] >= first]
    trace = TraceEvents(min([first, *(update["begin"] for update in updates)]))
    rewards: dict[str, dict[str, Any]] = defaultdict(dict)
    for score in scores:
        rewards[score["id"]][score["component"]] = score["status"] if score["value"] is None else score["value"]
    stops: Stops = defaultdict(list)
    _rollouts(trace, rows, rewards, stops)
    _rewards(trace, scores, stops)
    _buffer(trace, rows, stops)
    _learner(trace, rows, updates, stops)
    for name, chain in stops.items():
        trace.connect(name, sorted(chain, key=lambda stop: stop[1]))
    return trace


def _rollouts(trace: TraceEvents, rows: Rows, rewards: Mapping[str, Mapping[str, Any]], stops: Stops) -> None:
    for worker, held in sorted(_by(rows, "worker").items(), key=lambda item: str(item[0])):
        process = f"rollout {worker or UNKNOWN}"
        swaps = trace.track(process, "weights")
        for swap in _swaps(held):
            trace.add(swaps, swap)
        for row, track in _on_lanes(trace, process, "in flight", held, lambda r: (r["started_at"], r["finished_at"])):
            begin, end = row["started_at"], row["finished_at"]
            versions = list(zip(row["version_values"] or [], row["version_counts"] or [], strict=True))
            args = {key: row[key] for key in ("id", "attempt", "tokens", "num_sampled", "status", "finish_reason")}
            texts = {"completion": row["completion"], "answer": row["answer"]}
            stamps = [f"v{version} x {count}" for version, count in versions]
            shown = {**args, "versions": stamps, "reward": dict(rewards.get(row["id"], {})), **texts}
            trace.add(track, Slice(f"{row['group']}:{row['sample']}", begin, end, shown))
            for part in _spans(versions, begin, end) if len(versions) > 1 else ():
                trace.add(track, part)
            stops[row["id"]].append((track, begin))


def _spans(versions: Sequence[tuple[int, int]], begin: float, end: float) -> Iterator[Slice]:
    """Yield the stretches of a trajectory that one version sampled, as long as their share of its tokens."""
    total, done = sum(count for _, count in versions), 0
    for version, count in versions:
        edges = [begin + (end - begin) * tokens / total for tokens in (done, done + count)]
        yield Slice(f"v{version}", edges[0], edges[1], {"tokens": count})
        done += count


def _swaps(rows: Rows) -> Iterator[Slice]:
    """Yield one bracket for each version that a worker took."""
    ended = sorted((row["finished_at"], row["version_values"][-1]) for row in rows if row["version_values"])
    newest, since = ended[0][1] if ended else 0, 0.0
    for moment, version in ended:
        if version > newest:
            yield Slice(f"swap to v{version}", since, moment, {"version": version, "from": newest})
            newest = version
        since = moment


def _rewards(trace: TraceEvents, scores: Rows, stops: Stops) -> None:
    for component, held in _by(scores, "component").items():
        spans = _on_lanes(trace, f"reward {component}", "call", held, lambda s: (s["time"] - s["latency_s"], s["time"]))
        for score, track in spans:
            begin = score["time"] - score["latency_s"]
            name = score["status"] if score["value"] is None else f"{score['value']:.3g}"
            trace.add(track, Slice(name, begin, score["time"], score))
            stops[score["id"]].append((track, begin))


def _buffer(trace: TraceEvents, rows: Rows, stops: Stops) -> None:
    def stay(row: Mapping[str, Any]) -> tuple[float, float]:
        left = row["batched"] or row["ended"] or row["scored"] or row["generated"]
        return row["generated"], max(row["generated"], left)

    for row, track in _on_lanes(trace, "buffer", "waiting", rows, stay):
        begin, end = stay(row)
        fate = {"reason": row["reason"]} if row["reason"] else {}
        trace.add(track, Slice(row["id"], begin, end, {"id": row["id"], **fate}))
        scored = min(row["scored"] or end, end)
        trace.add(track, Slice("unscored", begin, scored, {}))
        if scored < end:
            trace.add(track, Slice("ready", scored, end, {}))
        stops[row["id"]].append((track, begin))


def _learner(trace: TraceEvents, rows: Rows, updates: Rows, stops: Stops) -> None:
    track, published = trace.track("learner", "updates"), trace.track("learner", "publications")
    begins: dict[tuple[int, int], float] = {}
    free = 0.0
    for update in updates:
        begin, end, version = max(update["begin"], free), update["end"], update["version"]
        if begin >= end:
            continue  # a crash cut this one short; the resume made the version again
        free, begins[update["lineage"], version] = end, begin
        args = {key: update[key] for key in ("version", "lineage", "samples")}
        trace.add(track, Slice(f"update {version + 1}", begin, end, args | {"makes": version + 1}))
        computed = min(begin + (update["compute_s"] or 0.0), end)
        trace.add(track, Slice("compute", begin, computed, {}))
        sent = min(computed + (update["publish_s"] or 0.0), end)
        made = {"version": version + 1, "weights_sha256": update["sha256"]}
        trace.add(published, Slice(f"publish v{version + 1}", computed, sent, made))
    for row in rows:
        stops[row["id"]] += [(track, begins[made]) for made in map(tuple, row["updates"] or ()) if made in begins]


def _on_lanes(
    trace: TraceEvents, process: str, lane: str, rows: Rows, span: Any
) -> Iterable[tuple[Mapping[str, Any], Track]]:
    """Yield rows with the track of their lane; as many lanes as rows that overlap."""
    chosen = lanes(map(span, rows))
    tracks = [trace.track(process, f"{lane} {number + 1}") for number in range(max(chosen, default=-1) + 1)]
    return [(row, tracks[number]) for row, number in zip(rows, chosen, strict=True)]


def _by(rows: Rows, key: str) -> dict[Any, list[Mapping[str, Any]]]:
    groups: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    return groups
