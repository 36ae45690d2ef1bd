"""`launch.py score` and `list`: stored responses through a reward graph."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import launch
from rewards.scoring import command
from rewards.scoring.source import chunks, read_samples

RIGHT = "rewards.components.right.component={target: exact_match}"
ROWS = [
    {"prompt": "1+1", "completion": "2", "answer": "2"},
    {"prompt": "1+2", "completion": "3", "answer": "3"},
    {"prompt": "1+1", "completion": "3", "answer": "2"},
    {"prompt": "1+3", "completion": "4"},
]


def jsonl(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "responses.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(folder: Path, kind: str) -> list[dict[str, object]]:
    return [row for file in sorted(folder.glob(f"{kind}-*.parquet")) for row in pq.read_table(file).to_pylist()]


def told(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, object]:
    assert launch.main(["score", *map(str, words), "--json"]) == 0
    answer: dict[str, object] = json.loads(capsys.readouterr().out)
    return answer


def test_a_file_is_scored_with_statuses_and_every_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = "rewards.components.short={component: {target: length_penalty, target_tokens: 9}, weight: 0.5}"
    found = told(capsys, jsonl(tmp_path, ROWS), tmp_path / "out", RIGHT, short)
    assert (found["status"], found["missing"]) == ({"ok": 3, "abstained": 1}, 0)
    totals = {row["id"]: (row["total"], row["status"]) for row in rows_of(tmp_path / "out", "totals")}
    assert totals == {"1": (1.0, "ok"), "3": (0.0, "ok"), "2": (1.0, "ok"), "4": (None, "abstained")}
    parts = {(row["trajectory_id"], row["component"]): row["value"] for row in rows_of(tmp_path / "out", "scores")}
    assert parts[("3", "right")] == 0.0
    assert parts[("4", "right")] is None
    assert len(parts) == 8


def test_parquet_says_the_same_as_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "responses.parquet")
    told(capsys, tmp_path / "responses.parquet", tmp_path / "a", RIGHT)
    told(capsys, jsonl(tmp_path, ROWS), tmp_path / "b", RIGHT)
    assert rows_of(tmp_path / "a", "totals") == rows_of(tmp_path / "b", "totals")


def test_what_is_missing_is_scored_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "CHUNK", 2)
    source, folder = jsonl(tmp_path, ROWS), tmp_path / "out"
    whole = told(capsys, source, folder, RIGHT)
    before = rows_of(folder, "totals")
    (folder / "totals-000001.parquet").unlink()  # its scores may be there: the totals are written last
    assert told(capsys, source, folder, RIGHT, "--dry-run")["missing"] == 2
    again = told(capsys, source, folder, RIGHT)
    assert (whole["scored_now"], again["scored_now"]) == (4, 2)
    assert rows_of(folder, "totals") == before


def test_groups_stay_whole_wherever_their_members_stand(tmp_path: Path) -> None:
    samples = read_samples(jsonl(tmp_path, ROWS), frozenset())
    assert [[s.id for s in chunk] for chunk in chunks(samples, 1)] == [["1", "3"], ["2"], ["4"]]


def test_other_keys_of_a_row_are_metadata(tmp_path: Path) -> None:
    (sample,) = read_samples(jsonl(tmp_path, [{"completion": "x", "tests": [1], "metadata": {"a": 2}}]), frozenset())
    assert sample.metadata == {"tests": [1], "a": 2}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "rewards.components is empty; give a YAML file with one"),
        ([RIGHT, "rewards.components.right.weight=2.0"], "holds scores of other responses or of another graph"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    source, folder = jsonl(tmp_path, ROWS), tmp_path / "out"
    told(capsys, source, folder, RIGHT)
    assert launch.main(["score", str(source), str(folder), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "x"}', r"row 1 has no completion; it has \['prompt'\]; rename the key that holds the response"),
        ("[1]", "line 1 is list; it must be an object with a `completion`"),
        ("{", "line 1 is not JSON"),
        ('{"completion": "a", "answer": 3}', "row 1: answer is 3; it must be text"),
        ("", "holds no responses"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "responses.jsonl"
    path.write_text(text)
    with pytest.raises(launch.DataError, match=message):
        read_samples(path, frozenset())


def test_the_list_of_rewards_shows_source_and_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["list", "rewards"]) == 0
    shown = capsys.readouterr().out
    assert "component: {target: exact_match, ignore_case: true}" in shown
    assert "Source: the exact-match metric of SQuAD" in shown
