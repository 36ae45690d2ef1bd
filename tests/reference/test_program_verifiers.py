"""Verifiers that run what a model wrote: code against its tests, and SQL against its reference."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buffers.scores import Sample, Score, ScoreStatus
from rewards.sandbox import confinement
from rewards.sandbox.program import End, Outcome
from rewards.verifiers.code import CodeTests, same
from rewards.verifiers.sql import Sql, jaccard, same_rows, tokens

DEADLINE_S = 30.0


@pytest.fixture(autouse=True)
def confined() -> Iterator[None]:
    if refusal := confinement.refusal():
        (score,) = CodeTests().score([task("print(1)", [{"output": "1"}])])
        assert score.status is ScoreStatus.ERROR and refusal in score.detail
        pytest.skip(f"nothing runs here, and the score says why: {refusal}")
    yield


def task(completion: str, tests: Any, **metadata: Any) -> Sample:
    return Sample(id="s", group="g", prompt="", completion=completion, metadata={"tests": tests, **metadata})


def code(
    completion: str, tests: Any, *, partial: bool = False, deadline_s: float = DEADLINE_S, **metadata: Any
) -> Score:
    (score,) = CodeTests(partial=partial, deadline_s=deadline_s).score([task(completion, tests, **metadata)])
    return score


DOUBLE = [{"input": f"{n}\n", "output": f"{2 * n}\n"} for n in range(4)]


@pytest.mark.parametrize(
    ("program", "passed"),
    [
        ("print(2 * int(input()))", 4),
        ("Here it is:\n```python\nimport sys\nn = int(sys.stdin.read())\nprint(n + n, ' ')\n```\nDone.", 4),
        ("n = int(open(0).read())\nprint(n * n)", 2),  # 0 and 2
        ("print(2 * int(input()) if 1 else x)\nraise SystemExit(1)", 0),
        ("print(2 * int(input())", 0),
        ("I would double it.", 0),
        ("", 0),
    ],
)
def test_the_reward_is_one_if_all_tests_pass_or_the_share_that_does(program: str, passed: int) -> None:
    assert code(program, DOUBLE, partial=True).value == passed / 4
    assert code(program, DOUBLE).value == float(passed == 4)


def test_blanks_at_the_ends_of_lines_do_not_count() -> None:
    assert code("print('1 ')\nprint(2, end='')", [{"output": "1\n2\n"}]).value == 1.0
    assert code("print('1\\n\\n2')", [{"output": "1\n2\n"}]).value == 0.0


def test_functions_and_methods_are_called_with_their_arguments() -> None:
    tests = [{"arguments": [[3, 1, 2]], "expected": [1, 2, 3]}, {"arguments": [[]], "expected": []}]
    assert code("def solve(x): return tuple(sorted(x))", tests).value == 1.0
    method = "class Solution:\n    def order(self, x):\n        return sorted(x)"
    assert code(method, tests, function="Solution.order").value == 1.0
    assert "KeyError" in code(method, tests, function="Solution.sort").detail + code(method, tests).detail


def test_no_test_knows_what_another_did() -> None:
    counter = "import builtins\nbuiltins.n = getattr(builtins, 'n', 0) + 1\ndef solve(): return builtins.n"
    assert code(counter, [{"expected": 1}] * 3).value == 1.0


def test_the_detail_names_the_first_failure() -> None:
    assert code("print(1 / 0)", DOUBLE).detail == "test 0 failed: ZeroDivisionError: division by zero"
    assert code("import time; time.sleep(600)", DOUBLE, deadline_s=0.5).detail == "test 0 failed: deadline"
    assert code("print(0)", DOUBLE, partial=True).detail == "1 of 4 tests passed; test 1 failed: wrong answer"


@pytest.mark.parametrize(
    ("end", "used_s", "starved_s", "starved"),
    [
        (End.DEADLINE, 0.2, 0.7, True),
        (End.DEADLINE, 0.9, 0.7, False),  # by its own threads
        (End.DEADLINE, 0.0, 0.1, False),  # it slept
        (End.EXITED, 0.1, 0.8, False),
    ],
)
def test_only_a_program_that_others_kept_from_running_is_no_verdict(
    end: End, used_s: float, starved_s: float, starved: bool
) -> None:
    outcome = Outcome(end=end, code=-9, output=b"", errors="", used_s=used_s, starved_s=starved_s)
    assert outcome.starved(1.0) is starved


@pytest.mark.parametrize("tests", [None, [], [{}], ["x"]])
def test_without_tests_code_abstains(tests: Any) -> None:
    assert code("print(1)", tests).status is ScoreStatus.ABSTAINED


@pytest.mark.parametrize(
    ("given", "expected", "equal"),
    [
        (1, 1.0, True),
        (0.1 + 0.2, 0.3, True),
        (0.31, 0.3, False),
        (True, 1, False),
        (1, True, False),
        ("1", 1, False),
        ([1, [2.0]], [1, [2]], True),
        ([1], [1, 2], False),
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": 1}, {"b": 1}, False),
        (None, None, True),
        (float("nan"), 1.0, False),
        (10**400, 1.0, False),
    ],
)
def test_values_are_equal_as_json(given: Any, expected: Any, equal: bool) -> None:
    assert same(given, expected, 1e-9) is equal


# SQL --------------------------------------------------------------------------------------------------------------

SCRIPT = """
CREATE TABLE singer (id INTEGER, name TEXT, age INTEGER, country TEXT);
INSERT INTO singer VALUES (1, 'Ann', 30, 'NL'), (2, 'Bob', 20, 'FR'), (3, 'Cy', 41, 'NL'), (4, 'Ann', 25, 'DE');
"""
GOLD = "select name from singer where age > 20"


def sql(query: str, gold: str = GOLD, component: Sql | None = None, **metadata: Any) -> Score:
    text = f"<think>hm</think><answer>{query}</answer>"
    metadata = metadata or {"script": SCRIPT}
    sample = Sample(id="s", group="g", prompt="", completion=text, answer=gold, metadata=metadata)
    (score,) = (component or Sql(deadline_s=DEADLINE_S)).score([sample])
    return score


def test_the_partial_rewards_of_the_s081_oracle() -> None:
    wrong = "select name from singer where age >= 20"
    assert jaccard({"singer", "name", "age"}, {"singer", "name", "country"}) == 0.5
    score = sql(wrong)
    assert score.vector == pytest.approx((0.0, 1.0, 1.0, 5 / 9, 1.0))
    # The oracle: schema 0.5 and a judge's 0.5 with weight 2 make 4.055556 of 9.
    parts = {
        **dict(zip(("execution", "syntax", "schema", "ngram", "format"), score.vector, strict=True)),
        "schema": 0.5,
    }
    assert sum(Sql().weights[name] * part for name, part in parts.items()) + 2 * 0.5 == pytest.approx(4.055556)


def test_a_right_query_beats_every_wrong_one() -> None:
    right = sql("```sql\nSELECT name FROM singer WHERE age > 20;\n```")
    assert right.vector[0] == 1.0 and right.value is not None
    wrong = [sql(q).value or 0.0 for q in (GOLD + " and 1 = 0", "select name from singer", "select nothing")]
    rewritten = sql("select s.name from singer s where not s.age <= 20 order by s.id desc")
    assert rewritten.vector[0] == 1.0
    assert max(wrong) < (rewritten.value or 0.0) < right.value == 7.0


def test_the_schema_part_counts_tables_and_columns() -> None:
    assert sql("select country, name from singer").vector[2] == pytest.approx(2 / 4)


def test_rows_count_as_often_as_they_occur_and_in_order_if_asked() -> None:
    assert sql("select distinct name from singer where age > 20").vector[0] == 0.0
    assert same_rows([[1], [2]], [[2], [1.0]], ordered=False)
    assert not same_rows([[1], [2]], [[2], [1]], ordered=True)
    ordered = "select name from singer order by age"
    assert sql("select name from singer order by age desc", ordered).vector[0] == 0.0
    assert sql("select name from singer order by age asc", ordered).vector[0] == 1.0


@pytest.mark.parametrize(
    "query",
    [
        "delete from singer",
        "drop table singer",
        "insert into singer values (9, 'x', 1, 'x')",
        "attach database '/tmp/headrace-escape.db' as x",
        "vacuum into '/tmp/headrace-escape.db'",
        "select load_extension('/tmp/x.so')",
        "pragma journal_mode = wal",
        "create table x as select 1",
        "select 1; select 2",
        "select readfile('/etc/passwd')",
        "selec name",
        "",
        "select name from singer where age > 20 \0",
    ],
)
def test_a_query_that_reads_nothing_is_refused(query: str) -> None:
    assert sql(query).vector[:2] == (0.0, 0.0)
    assert not Path("/tmp/headrace-escape.db").exists()


def test_endless_queries_and_results_are_no_answers() -> None:
    component = Sql(deadline_s=2.0)
    endless = "with recursive n(x) as (select 1 union all select x + 1 from n) select"
    for query in (f"{endless} count(*) from n", f"{endless} x from n", f"{endless} zeroblob(1000000) from n"):
        assert sql(query, component=component).vector[:2] == (0.0, 0.0)


def test_a_reference_that_fails_abstains() -> None:
    score = sql(GOLD, "select x from nowhere")
    assert score.status is ScoreStatus.ABSTAINED and "no such table" in score.detail


def test_a_database_in_a_file_is_read_and_never_written(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "music.db") as connection:
        connection.executescript(SCRIPT)
    connection.close()
    before = (tmp_path / "music.db").read_bytes()
    component = Sql(databases=str(tmp_path), deadline_s=DEADLINE_S)
    assert sql(GOLD, component=component, database="music.db").vector[0] == 1.0
    assert sql("delete from singer", component=component, database="music.db").vector[1] == 0.0
    assert [f.name for f in tmp_path.iterdir()] == ["music.db"] and (tmp_path / "music.db").read_bytes() == before
    missing = sql(GOLD, component=component, database="none.db")
    assert missing.status is ScoreStatus.ERROR and "none.db" in missing.detail


def test_tokens_of_a_query() -> None:
    assert tokens("""SELECT "Name", 'It is' FROM t WHERE a>=1 AND b<>2""") == [
        *("select", "name", ",", "'it is'", "from", "t", "where", "a", ">=", "1", "and", "b", "<>", "2")
    ]


@pytest.mark.parametrize(
    ("component", "settings", "message"),
    [
        (CodeTests, {"deadline_s": 0.0}, "deadline_s is 0.0; it must be > 0"),
        (CodeTests, {"tolerance": -1.0}, "tolerance is -1.0; it must lie in"),
        (CodeTests, {"memory_mb": 1}, "memory_mb, scratch_mb are 1, 0; they must be >= 64"),
        (Sql, {"weights": {"speed": 1.0}}, r"weights names \['speed'\]"),
        (Sql, {"databases": "/no/such"}, "databases is '/no/such'; it must be a folder"),
        (Sql, {"deadline_s": -1.0}, "deadline_s is -1.0"),
    ],
)
def test_a_bad_setting_is_refused_with_its_name(component: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        component(**settings)
