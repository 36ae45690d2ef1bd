"""Where tasks come from: generators, files, mixes, and how a section of the settings builds them."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.tasks import build, build_source, held_out_tasks, training_stream, warm_start_examples
from buffers.trajectory import Task
from configs.errors import ConfigError, DataError
from configs.language import TasksConfig

SUMS = {"target": "reasoning_gym", "dataset": "chain_sum", "prompt": "{expression}=", "max_digits": 2, "max_terms": 2}


def jsonl(folder: Path, *rows: Any) -> Path:
    file = folder / "tasks.jsonl"
    file.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return file


def source_of(target: str, path: Path, **arguments: Any) -> Any:
    return build_source({"target": target, "path": str(path), **arguments}, 0, "tasks.train")


def sums(**settings: Any) -> Any:
    return build_source({"target": "running_sums", **settings}, 0, "tasks.train")


# Generators


def test_reasoning_gym_tasks_repeat_by_seed_and_carry_what_their_scorer_needs() -> None:
    first, again, other = (build_source(SUMS, seed, "tasks.train") for seed in (0, 0, 1))
    task = first.task(17)
    assert task == again.task(17) != other.task(17)
    assert task.prompt == f"{task.metadata['entry']['metadata']['expression']}="
    assert str(sum(int(n) for n in task.prompt[:-1].replace("- ", "-").replace("+ ", "").split())) == task.answer
    assert task.metadata["dataset"] == "chain_sum"
    assert json.loads(json.dumps(task.metadata)) == task.metadata


def test_neighbouring_seeds_do_not_share_tasks_shifted_by_one() -> None:
    zero, one = (build_source(SUMS, seed, "tasks.train") for seed in (0, 1))
    shifted = sum(zero.task(n + 1).prompt == one.task(n).prompt for n in range(50))
    assert shifted < 5


def test_a_fingerprint_changes_with_every_setting() -> None:
    variants = [SUMS, {**SUMS, "size": 7}, {**SUMS, "max_digits": 3}, {**SUMS, "prompt": "{question}"}]
    prints = {build_source(section, 0, "t").fingerprint for section in variants}
    assert len(prints | {build_source(SUMS, 1, "t").fingerprint}) == 5
    assert build_source(SUMS, 0, "t").fingerprint in prints


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "chain_sun"}, r"tasks.train.dataset is 'chain_sun'.*did you mean 'chain_sum'"),
        ({"max_digit": 3}, r"tasks.train.max_digit is not a setting of 'chain_sum'; did you mean 'max_digits'"),
        ({"max_digits": 0}, r"'chain_sum' refuses its settings.*max_digits"),
        ({"prompt": "{expresion}"}, r"tasks.train.prompt names 'expresion'.*did you mean 'expression'"),
        ({"prompt": "{"}, r"tasks.train.prompt is '\{'.*write fields as \{question\}"),
        ({"size": 0}, r"tasks.train.size is 0; it must be >= 1"),
        ({"seed": 3}, r"tasks.train.*seed"),
    ],
)
def test_a_wrong_generator_setting_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_source({**SUMS, **change}, 0, "tasks.train")


def test_running_sums_are_answered_line_by_line_and_restate_as_many_lines_as_asked() -> None:
    plain = sums().task(5)
    told = sums(conclusion="#").task(5)
    assert told.answer == f"{plain.answer}\n#{plain.answer[-1]}" and told.prompt == plain.prompt
    idle = sums(conclusion="#", restated=0.25)
    count = Counter[str]()
    for index in range(2000):
        lines = idle.task(index).answer.splitlines()
        own = sums(conclusion="#").task(index).answer.splitlines()
        assert [line for line, _ in itertools.groupby(lines)] == [line for line, _ in itertools.groupby(own)]
        count.update(needed=2, restated=len(lines) - 3)
    # A line is said 1 / (1 - p) times: 1333 more expected of 4000, standard deviation 42.
    assert abs(count["restated"] - 1333) < 200


@pytest.mark.parametrize("change", [{"restated": 1.0}, {"restated": -0.1}, {"digits": 0}, {"min_terms": 9}])
def test_a_wrong_setting_of_running_sums_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"tasks\.train\.{next(iter(change))} is "):
        sums(**change)


# Files


ROWS = [{"q": "1+1=", "a": "2", "level": [1]}, {"q": "2+2=", "a": "4", "level": [2]}]
COLUMNS = {"prompt_column": "q", "answer_column": "a", "metadata_columns": ["level"]}


def write(kind: str, folder: Path) -> Path:
    if kind == "jsonl":
        return jsonl(folder, *ROWS, "\n")
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), folder / "tasks.parquet")
        return folder / "tasks.parquet"
    with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file:
        table = pa.Table.from_pylist(ROWS)
        with pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    return folder


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "datasets_folder"])
def test_every_file_source_reads_the_same_tasks(kind: str, tmp_path: Path) -> None:
    source = source_of(kind, write(kind, tmp_path), name="sums", **COLUMNS)
    assert [source.task(n) for n in range(len(source))] == [
        Task(source="sums", index=0, prompt="1+1=", answer="2", metadata={"level": [1]}),
        Task(source="sums", index=1, prompt="2+2=", answer="4", metadata={"level": [2]}),
    ]
    with pytest.raises(IndexError, match="task 2 of sums; it has 2"):
        source.task(2)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "datasets_folder"])
def test_a_missing_column_names_the_nearest(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no (key|column) 'qq'; did you mean 'q'"):
        source_of(kind, write(kind, tmp_path), **{**COLUMNS, "prompt_column": "qq"})


def test_a_folder_that_the_datasets_library_saved_is_read(tmp_path: Path) -> None:
    import datasets  # slow to import, and needed by this test only

    parts = datasets.DatasetDict({name: datasets.Dataset.from_list(ROWS) for name in ("train", "test")})
    parts.save_to_disk(tmp_path / "sums")
    source = source_of("datasets_folder", tmp_path / "sums", split="test", **COLUMNS)
    assert (source.name, len(source), source.task(1).prompt) == ("sums", 2, "2+2=")
    with pytest.raises(DataError, match="no split 'tset'; did you mean 'test'"):
        source_of("datasets_folder", tmp_path / "sums", split="tset", **COLUMNS)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (({"prompt": "a", "answer": "b"}, '{"prompt": \n'), r"tasks.jsonl:2: malformed JSON"),
        (({"prompt": "a", "answer": "b"}, "\n", {"prompt": 3, "answer": "b"}), r"tasks.jsonl:3: 'prompt' is 3"),
        (({"prompt": "a", "anwser": "b"},), r"tasks.jsonl:1: there is no key 'answer'; did you mean 'anwser'"),
        ((["a", "b"],), r"tasks.jsonl:1: list instead of an object"),
        (("\n",), r"tasks.jsonl is empty"),
    ],
)
def test_a_broken_jsonl_file_names_its_line(rows: tuple[Any, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        source_of("jsonl", jsonl(tmp_path, *rows))


def test_line_separators_inside_strings_do_not_split_rows(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text(json.dumps({"prompt": "a\u2028b", "answer": "c\x85d"}, ensure_ascii=False), encoding="utf-8")
    assert source_of("jsonl", file).task(0).prompt == "a\u2028b"


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(DataError, match=r"tasks.jsonl:1: not UTF-8 at byte 12"):
        source_of("jsonl", tmp_path / "tasks.jsonl")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array(["a", None]), "row 1 has no 'prompt'"),
        (pa.array([1, 2]), "column 'prompt' has type int64; it must hold strings"),
    ],
)
def test_a_parquet_column_that_is_not_all_strings_is_refused(column: pa.Array, message: str, tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"prompt": column, "answer": ["x", "y"]}), file)
    with pytest.raises(DataError, match=message):
        source_of("parquet", file)


def test_a_folder_of_parquet_files_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b", "a"):
        pq.write_table(pa.table({"prompt": [name], "answer": ["x"]}), tmp_path / f"{name}.parquet")
    source = source_of("parquet", tmp_path)
    assert [source.task(n).prompt for n in range(2)] == ["a", "b"]


@pytest.mark.parametrize(
    ("target", "name", "message"),
    [
        ("jsonl", "taks.jsonl", "does not exist; did you mean 'tasks.jsonl'"),
        ("parquet", "tasks.jsonl", "cannot be read as Parquet"),
        ("parquet", "", r"holds no \*.parquet"),
        ("datasets_folder", "", "state.json does not exist; it is no folder of Dataset.save_to_disk"),
        ("jsonl", "", "cannot be read: Is a directory"),
    ],
)
def test_an_unusable_path_says_what_is_expected(target: str, name: str, message: str, tmp_path: Path) -> None:
    jsonl(tmp_path, {"prompt": "a", "answer": "b"})
    with pytest.raises(DataError, match=message):
        source_of(target, tmp_path / name)


def test_a_file_fingerprint_follows_the_contents_and_not_the_place(tmp_path: Path) -> None:
    file = jsonl(tmp_path, {"prompt": "a", "answer": "b"})
    before = source_of("jsonl", file).fingerprint
    moved = file.rename(tmp_path / "moved.jsonl")
    assert source_of("jsonl", moved).fingerprint == before
    assert source_of("jsonl", jsonl(tmp_path, {"prompt": "a", "answer": "c"})).fingerprint != before


# Mix


def mix_of(tmp_path: Path, *weights: Any, rows: int = 30) -> Any:
    sections = []
    for at, weight in enumerate(weights):
        (tmp_path / f"{at}").mkdir()
        file = jsonl(tmp_path / f"{at}", *({"prompt": f"{at}/{n}", "answer": ""} for n in range(rows)))
        sections.append({"target": "jsonl", "path": str(file), "name": f"s{at}", "weight": weight})
    return build_source({"target": "mix", "sources": sections}, 0, "tasks.train")


def test_a_mix_keeps_its_proportions_and_reads_every_task(tmp_path: Path) -> None:
    mix = mix_of(tmp_path, 1, 3.0)
    tasks = [mix.task(n) for n in range(len(mix))]
    counts = Counter(task.source for task in tasks)
    assert (counts["s0"], counts["s1"]) == (250, 750)
    assert {(task.source, task.index) for task in tasks} == {(f"s{at}", n) for at in (0, 1) for n in range(30)}
    assert Counter(task.source for task in tasks[:100])["s0"] == pytest.approx(25, abs=15)  # interleaved


def test_a_mix_of_large_sources_goes_on_where_its_last_round_ended(tmp_path: Path) -> None:
    mix = mix_of(tmp_path, 1, 3.0, rows=600)
    indices: dict[str, list[int]] = {"s0": [], "s1": []}
    for task in (mix.task(n) for n in range(len(mix))):
        indices[task.source].append(task.index)
    assert len(mix) == 3000  # 600 tasks at 250 a round
    assert indices["s0"] == [n % 600 for n in range(750)]
    assert indices["s1"] == [n % 600 for n in range(2250)]


def test_a_mix_of_a_file_and_a_generator_can_be_streamed(tmp_path: Path) -> None:
    file = jsonl(tmp_path, *({"prompt": f"{n}", "answer": ""} for n in range(5)))
    sources = [{"target": "jsonl", "path": str(file)}, {**SUMS, "size": 100}]
    stream, held_out = build(TasksConfig(train={"target": "mix", "sources": sources}), seed=0)
    assert stream.name == "mix"
    assert {stream.next_group().task.source for _ in range(50)} == {"tasks", "chain_sum"}
    assert len(held_out.first(3)) == 3


@pytest.mark.parametrize("weight", [0, -1, "x", float("nan"), float("inf")])
def test_a_weight_that_is_not_positive_is_named(weight: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tasks.train.sources\[1\].weight is"):
        mix_of(tmp_path, 1, weight)


def test_a_source_too_light_to_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sources\[1\].weight is 0.0001; a share must be >= 1/1000"):
        mix_of(tmp_path, 1, 0.0001)


def test_an_error_inside_a_mix_names_the_member() -> None:
    with pytest.raises(ConfigError, match=r"tasks.train.sources\[0\].dataset is 'chain_sun'"):
        build_source({"target": "mix", "sources": [{**SUMS, "dataset": "chain_sun"}]}, 0, "tasks.train")


# Building


def test_evaluation_and_warm_start_take_their_own_sides_of_the_split() -> None:
    section = TasksConfig(train={**SUMS, "size": 400}, held_out_fraction=0.2)
    held_out = held_out_tasks(section, 0, 20)
    examples = warm_start_examples(section, 0, 60)
    assert (len(held_out), len(examples)) == (20, 60)
    assert not {task.prompt for task in held_out} & {prompt for prompt, _ in examples}
    stream = training_stream(section, 0)
    stream.seek(400)
    assert examples[:5] == [(task.prompt, task.answer) for *_, task in (stream.next_group() for _ in range(5))]


def test_a_section_without_a_target_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tasks.train.target is missing"):
        build(TasksConfig(train={}), seed=0)


def test_an_unknown_source_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'jsnl'.*did you mean 'jsonl'"):
        build(TasksConfig(train={"target": "jsnl", "path": "x"}), seed=0)
