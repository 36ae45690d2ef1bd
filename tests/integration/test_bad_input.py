"""Wrong input: an exit code, one sentence that names place, value, rule and remedy, and nothing left in the way."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import launch
from buffers.records.audit import audit
from buffers.records.query import query
from buffers.run_folder import RunFolder
from buffers.scores import Sample, Score
from configs.language import ModelConfig
from learners.models.load import create_model_folder
from learners.models.tokenizer import character_tokenizer
from rewards.base import Component

SMOKE = str(Path(launch.__file__).parent / "configs" / "smoke.yaml")
QUICK = (
    "cluster.address=local", "warm_start.updates=0", "eval.tasks=0", "updates=1", "logging.report=false",
    "logging.tensorboard=false", "logging.view=quiet", "cluster.progress_deadline_s=20",
)  # fmt: skip
SHORT = [f"{a}+{b}=" for a in range(5) for b in range(4)]
LONG = [f"{'1' * 40}+{a}=" for a in range(20)]

pytestmark = pytest.mark.integration

Play = Callable[..., tuple[int, str]]


@pytest.fixture
def play(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Play:
    """Return what runs the smoke preset, shortened, and returns exit code and message."""

    def run(*words: str, preset: str = SMOKE) -> tuple[int, str]:
        code = launch.main(["run", preset, *QUICK, "name=run", f"runs_folder={tmp_path}", *words])
        message = capsys.readouterr().err
        # What the supervisor did meanwhile depends on how fast the machine is.
        said = [line for line in message.splitlines(keepends=True) if not line.startswith("warning: ")]
        assert "Traceback" not in message and len(said) <= 1, message
        return code, "".join(said)

    return run


@pytest.fixture
def refused(play: Play, tmp_path: Path) -> Callable[..., str]:
    """Return the same for input that is refused: exit code 2, and the name is still free."""

    def run(*words: str, **preset: str) -> str:
        code, message = play(*words, **preset)
        assert code == 2 and message.startswith("error: "), message
        assert not (tmp_path / "run").exists()
        return message

    return run


def books(folder: Path) -> dict[str, int]:
    """Check the audit of a run, which also closes when the run failed; return the summary's totals."""
    found = audit(folder / "run")
    assert found.balanced, found.problems
    totals: dict[str, int] = json.loads((folder / "run" / "summary.json").read_text())["trajectories"]
    assert totals == found.totals and totals["in_flight"] == 0
    return totals


def distinct(folder: Path, what: str, where: str) -> set[Any]:
    return {row["x"] for row in query(folder / "run", f"SELECT DISTINCT {what} AS x FROM {where}").to_pylist()}


# -- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["updatez=3"], "override 'updatez=3': updatez is not a setting; did you mean 'updates'?"),
        (["updates=many"], "override 'updates=many': updates is 'many'; it must be a whole number; correct the value"),
        (["mode=sync", "max_staleness=2"], "max_staleness is 2; it must be 0 when mode=sync; set max_staleness=0, or"),
        (["foo"], "foo does not exist; it must be a YAML file, or a setting written key=value"),
        (["configs/smok.yaml"], "did you mean 'configs/smoke.yaml'?"),
        (["name=.."], "name is '..'; it must be a folder name; try name=first-run"),
        (["model.path=/m"], "model.path is '/m'; it must be set exactly when model.architecture is not; add model"),
        (["rewards.components.correct.component.target=exact"], "'exact', which is not known; did you mean 'exact_m"),
        (["rollout.context_length=128"], "rollout.context_length is 128; it must fit the 64 positions of"),
        (["warm_start.updates=1", "model.characters=0123456789+ "], "which the tokenizer does not know; add them to"),
    ],
)
def test_a_wrong_word_is_named_with_rule_and_remedy(words: list[str], message: str, refused: Callable[..., str]):
    assert message in refused(*words)


def test_a_syntax_error_is_named_by_file_and_line(tmp_path: Path, refused: Callable[..., str]):
    file = tmp_path / "bad.yaml"
    file.write_text("updates: 3\nmodel: {characters: ab\nname: x\n")
    assert f"{file}:3: malformed YAML: expected ',' or '}}'" in refused(preset=str(file))
    file.write_text("updates: 3\n\nlearner:\n  ranks: two\n")
    assert f"{file}:4: learner.ranks is 'two'; it must be a whole number" in refused(preset=str(file))


# -- model folders --------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 2}
    architecture = {"model_type": "qwen3", "num_hidden_layers": 1, "max_position_embeddings": 64, **sizes}
    config = ModelConfig(architecture=architecture, characters="0123456789+= ")
    return create_model_folder(config, tmp_path / "model", 0)


def drop_token(model: Path, name: str) -> None:
    file = model / "tokenizer_config.json"
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != name}))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda m: m.rename(m.with_name("moved")), "does not exist; set model.path to a Hugging Face folder"),
    "no config": (lambda m: (m / "config.json").unlink(), "has no config.json; set model.path to a Hugging"),
    "no weights": (lambda m: (m / "model.safetensors").unlink(), "model.safetensors is missing; save the weights as"),
    "torn weights": (lambda m: (m / "model.safetensors").write_bytes(b"torn"), "model.safetensors is damaged: "),
    "no tokenizer": (lambda m: [f.unlink() for f in m.glob("tok*")], "no usable tokenizer: it has no tokens; save one"),
    "no end token": (lambda m: drop_token(m, "eos_token"), "lacks eos_token; set eos_token in its tokenizer_config"),
    "large tokenizer": (
        lambda m: character_tokenizer("0123456789+= abcd").save_pretrained(m),
        "has ids up to 18, its model embeds 15 tokens; save the tokenizer that the model was trained with",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_an_unusable_model_folder_is_named(what: str, model: Path, refused: Callable[..., str]):
    damage, message = DAMAGE[what]
    damage(model)
    assert message in refused(f"model.path={model}", "model.architecture={}")


def test_a_tokenizer_without_pad_token_is_fine_because_the_padding_is_ours(model: Path, tmp_path: Path, play: Play):
    drop_token(model, "pad_token")
    assert play(f"model.path={model}", "model.architecture={}") == (0, "")
    assert books(tmp_path)["trained"] == 32


def test_on_ray_too_a_wrong_folder_ends_with_its_sentence_and_leaves_nothing(refused: Callable[..., str]):
    message = refused("cluster.address=null", "model.path=/nowhere", "model.architecture={}")
    assert message == "error: model folder /nowhere does not exist; set model.path to a Hugging Face folder\n"


# -- tasks ----------------------------------------------------------------------------------------


def tasks(folder: Path, text: str) -> str:
    (folder / "tasks.jsonl").write_text(text)
    return f"tasks.train={{target: jsonl, path: {folder / 'tasks.jsonl'}}}"


def rows(prompts: Sequence[str]) -> str:
    return "".join(json.dumps({"prompt": prompt, "answer": "1"}) + "\n" for prompt in prompts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "tasks.jsonl is empty; a task source must hold at least one task; add rows"),
        (rows(SHORT[:2]) + "{oops\n", "tasks.jsonl:3: malformed JSON, column 2: "),
        (rows(SHORT[:1]) + '{"promt": "", "answer": ""}', "tasks.jsonl:2: there is no key 'prompt'; did you mean"),
    ],
)
def test_a_task_file_is_refused_by_file_and_line(text: str, message: str, tmp_path: Path, refused: Callable[..., str]):
    assert message in refused(tasks(tmp_path, text))


def test_after_a_missing_task_file_the_corrected_run_may_have_the_name(tmp_path: Path, play: Play, refused: Any):
    word = tasks(tmp_path, rows(SHORT))
    (tmp_path / "tasks.jsonl").rename(tmp_path / "task.jsonl")
    assert "tasks.jsonl does not exist; did you mean 'task.jsonl'? known: task.jsonl\n" in refused(word)
    (tmp_path / "task.jsonl").rename(tmp_path / "tasks.jsonl")
    assert play(word) == (0, "")


def test_a_task_longer_than_the_context_fails_with_its_reason_and_the_run_goes_on(tmp_path: Path, play: Play):
    assert play(tasks(tmp_path, rows([*LONG[:2], *SHORT])), "updates=3") == (0, "")
    totals = books(tmp_path)
    assert totals["trained"] == 96 and totals["failed"] >= 4
    reasons = distinct(tmp_path, "reason", "events WHERE event = 'failed'")
    assert all("it must have 1 to 27 to fit rollout.context_length=32; raise that" in why for why in reasons)


@pytest.mark.parametrize("evaluated", [0, 2])
def test_when_all_tasks_are_too_long_the_run_ends_and_says_so(evaluated: int, tmp_path: Path, play: Play):
    words = ("buffer.max_failed_groups=10", f"eval.tasks={evaluated}", "tasks.held_out_fraction=0.3")
    code, message = play(tasks(tmp_path, rows(LONG)), *words)
    assert code == 1 and message.startswith("failed: the first "), message
    assert "groups have failed, and no sample has a reward (buffer.max_failed_groups is 10)" in message
    assert "tokens; with rollout.max_completion_length=5 it must have 1 to 27 to fit" in message
    assert books(tmp_path)["failed"] >= 40


# -- rewards --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Unruly(Component):
    """1.0 for everybody, unless the second sample of a group, or any, is among those to be scored."""

    manner: str
    always: bool = False

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        if self.always or any(sample.id.rpartition(":")[2].startswith("1.") for sample in samples):
            return MANNERS[self.manner](samples)
        return [Score(value=1.0) for _ in samples]


MANNERS: dict[str, Callable[[Sequence[Sample]], list[Score]]] = {
    "hangs": lambda samples: time.sleep(1.0) or [],
    "raises": lambda samples: [Score(value=1.0 / 0) for _ in samples],
    "is not finite": lambda samples: [Score(value=math.nan) for _ in samples],
}
WHY = {"hangs": "gave no answer for", "raises": "ZeroDivisionError", "is not finite": "must be finite, got nan"}


def unruly(manner: str, always: bool) -> str:
    component = f"{{target: '{__name__}:Unruly', manner: {manner}, always: {always}}}"
    server = "deadline_s: 0.3, retries: 0, breaker_failures: 20, breaker_reset_s: 0.2, max_restarts: 100"
    return f"rewards.components={{unruly: {{component: {component}, {server}}}}}"


@pytest.mark.parametrize("manner", MANNERS)
def test_samples_without_a_valid_reward_are_failed_and_never_zero(manner: str, tmp_path: Path, play: Play):
    assert play(unruly(manner, False)) == (0, "")
    totals = books(tmp_path)
    # Each of the eight groups is trained without its second sample.
    assert totals["trained"] == 24 and totals["failed"] >= 8
    assert all(WHY[manner] in why for why in distinct(tmp_path, "reason", "events WHERE event = 'failed'"))
    assert distinct(tmp_path, "sample", "events WHERE event = 'failed'") == {1}
    assert distinct(tmp_path, "sample", "events WHERE event = 'trained'") == {0, 2, 3}
    assert distinct(tmp_path, "value", "scores WHERE component = 'unruly'") == {1.0, None}


@pytest.mark.parametrize("manner", MANNERS)
def test_when_no_sample_gets_a_reward_the_run_ends_and_says_why(manner: str, tmp_path: Path, play: Play):
    code, message = play(unruly(manner, True), "buffer.max_failed_groups=20")
    assert code == 1 and message.startswith("failed: the first 2"), message
    assert "no sample has a reward" in message and WHY[manner] in message
    assert books(tmp_path)["failed"] >= 80


# -- run folders ----------------------------------------------------------------------------------


def test_a_name_is_given_once_and_a_resumed_run_survives_wrong_input(tmp_path: Path, play: Play):
    assert play() == (0, "")
    taken = f"error: run folder {tmp_path / 'run'} holds a run already; pass resume=true, or another name=\n"
    assert play() == (2, taken)
    code, message = play("resume=true", "model.path=/nowhere", "model.architecture={}")
    assert code == 2 and "model.architecture is {}; the run in" in message
    assert play("resume=true", "updates=2") == (0, "")
    assert books(tmp_path)["trained"] == 64


def test_a_folder_in_use_is_refused_by_its_owner(tmp_path: Path, play: Play):
    with RunFolder.create(tmp_path / "run"):
        code, message = play("resume=true")
    assert code == 2 and f"{tmp_path / 'run'} is in use by pid " in message
    assert "stop that run, or pass another name=" in message


def test_wrong_input_removes_nothing_that_was_there_before(tmp_path: Path, play: Play):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert play("tasks.train={target: jsonl, path: /nowhere}")[0] == 2
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
