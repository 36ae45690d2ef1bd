"""Trajectories survive the round trip through Arrow, and old or foreign tables are read or refused by name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buffers.identity import Slot
from buffers.schema import TRAJECTORY, from_table, to_table, upgrade
from buffers.trajectory import Sampling, Source, Span, Status, Trajectory
from configs.errors import DataError

INT32 = st.integers(-(2**31), 2**31 - 1)
COUNT = st.integers(0, 2**31 - 1)
TEXT = st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | COUNT | TEXT, lambda x: st.lists(x, max_size=2) | st.dictionaries(TEXT, x)
)
FINITE = st.floats(allow_nan=False)


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    length = draw(st.integers(0, 5))

    def array(values: st.SearchStrategy[object], dtype: type) -> np.ndarray:
        return np.array(draw(st.lists(values, min_size=length, max_size=length)), dtype)

    return Trajectory(
        slot=draw(st.builds(Slot, TEXT, COUNT, st.integers(0, 2**40), COUNT)),
        tokens=array(INT32, np.int32),
        kinds=array(st.integers(0, 3), np.uint8),
        logprobs=array(st.floats(width=32, allow_nan=False), np.float32),
        loss_mask=draw(st.sampled_from([None, array(st.booleans(), np.bool_)])),
        versions=draw(st.lists(st.tuples(COUNT, st.integers(0, 1000)), max_size=3)),
        spans=draw(st.lists(st.builds(Span, TEXT, COUNT, COUNT), max_size=3)),
        metadata=draw(st.dictionaries(TEXT, JSON, max_size=2)),
        sampling=draw(st.builds(Sampling, temperature=FINITE, top_p=FINITE, top_k=COUNT, stop=st.tuples(TEXT))),
        status=draw(st.sampled_from(Status)),
        source=draw(st.sampled_from(Source)),
        **{
            n: draw(TEXT)
            for n in ("prompt", "completion", "answer", "finish_reason", "model", "role", "user", "tree_id")
        },
        **{
            n: draw(INT32)
            for n in ("attempt", "node", "episode", "turns", "node_id", "parent_id", "depth", "fork_token")
        },
        **{n: draw(FINITE) for n in ("started_at", "finished_at")},
    )


def plain(trajectory: Trajectory) -> dict[str, object]:
    """Return all fields in a form that `==` compares; arrays with their types."""
    fields = {f.name: getattr(trajectory, f.name) for f in dataclasses.fields(trajectory)}
    return {n: (v.dtype, v.tolist()) if isinstance(v, np.ndarray) else v for n, v in fields.items()}


def trajectory(task: int = 0, tokens: int = 4) -> Trajectory:
    return Trajectory(
        slot=Slot("add", 0, task, 0),
        attempt=0,
        tokens=np.arange(tokens, dtype=np.int32),
        kinds=np.ones(tokens, np.uint8),
        logprobs=np.full(tokens, -0.5, np.float32),
        versions=[(7, tokens - 1), (9, 1)],
        prompt="1+1=",
        completion="2",
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(trajectories(), max_size=4))
def test_trajectories_come_back_from_a_table_exactly(given_ones: list[Trajectory]) -> None:
    table = to_table(given_ones)
    table.validate(full=True)
    assert table.schema.equals(TRAJECTORY, check_metadata=True)
    assert [plain(t) for t in from_table(table)] == [plain(t) for t in given_ones]


def test_derived_columns_say_what_the_trajectory_says() -> None:
    row = to_table([trajectory(task=3)]).to_pylist()[0]
    assert (row["id"], row["group"]) == ("add:0:3:0.0.0", "add:0:3")
    assert (row["oldest_version"], row["num_sampled"]) == (7, 4)
    assert (row["version_values"], row["version_counts"]) == ([7, 9], [3, 1])
    assert row["observations"] is None and row["topk_tokens"] is None


def test_slices_and_selections_of_a_table_come_back_too() -> None:
    table = to_table([trajectory(task, tokens=2 + task) for task in range(5)])
    sliced = from_table(pa.concat_tables([table.slice(3, 2), table.take([0])]))
    assert [t.slot.task for t in sliced] == [3, 4, 0]
    assert [t.tokens.tolist() for t in sliced] == [list(range(5)), list(range(6)), [0, 1]]


def test_arrays_of_a_table_can_be_written_to() -> None:
    """torch warns of read-only memory."""
    again = from_table(to_table([trajectory()]))[0]
    again.tokens[0] = 5
    assert again.tokens[0] == 5


def test_extension_columns_are_kept_with_their_type() -> None:
    novelty = pa.array([0.25], pa.float16())
    table = upgrade(to_table([trajectory()]).append_column("x_novelty", novelty), TRAJECTORY)
    assert table.schema.field("x_novelty").type == pa.float16() and table["x_novelty"].to_pylist() == [0.25]
    assert from_table(table)[0].completion == "2"


def test_nullable_columns_that_an_older_table_lacks_are_filled_with_nulls() -> None:
    older = to_table([trajectory()]).drop_columns(["captions", "topk_tokens"]).replace_schema_metadata(None)
    table = upgrade(older, TRAJECTORY)
    assert table.schema.equals(TRAJECTORY, check_metadata=True)
    assert table["captions"].to_pylist() == [None] and table["tokens"].to_pylist() == [[0, 1, 2, 3]]


def test_a_table_of_a_newer_version_is_refused_by_name() -> None:
    newer = to_table([trajectory()]).replace_schema_metadata({"headrace.schema_version": "7"})
    with pytest.raises(DataError, match=r"trajectories has schema version 7.*upgrade"):
        upgrade(newer, TRAJECTORY)


def test_missing_required_and_unknown_columns_are_refused_by_name() -> None:
    table = to_table([trajectory()])
    with pytest.raises(DataError, match="lacks the column 'id'"):
        upgrade(table.drop_columns(["id"]), TRAJECTORY)
    with pytest.raises(DataError, match="x_novelty"):
        upgrade(table.append_column("novelty", pa.array([1.0])), TRAJECTORY)


def test_decision_rows_are_not_read_as_text() -> None:
    table = to_table([trajectory()])
    column = table.schema.get_field_index("tokens")
    table = table.set_column(column, TRAJECTORY.field("tokens"), pa.nulls(1, pa.list_(pa.int32())))
    with pytest.raises(DataError, match="text rows"):
        from_table(table)
