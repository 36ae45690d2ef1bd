"""Nothing that lies on a disk is executed, keys have no setting, and no server of ours is open to the network."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from learner_tables import MODEL, model_folder

import launch
from configs.errors import DataError
from configs.keys import known_keys
from configs.language import ModelConfig
from configs.learning import LearnerConfig
from configs.load import load_config
from learners.checkpoint import find, load_checkpoint, save_checkpoint
from learners.models.load import check_model_folder, load_transformers
from learners.models.tokenizer import load_tokenizer
from learners.policy_learner import PolicyLearner
from tests.unit.test_layers import modules

ROOT = Path(launch.__file__).parent
PRESETS = sorted((ROOT / "configs").glob("*.yaml"))
UNPICKLING = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
CALLS = {
    "torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "yaml.load", "yaml.unsafe_load", "eval", "exec",
}  # fmt: skip


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Yield (module, dotted name of what is called, call) of the whole source."""
    for name, file in modules().items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                yield name, ast.unparse(node.func), node


def test_the_source_neither_unpickles_nor_evaluates():
    found = [f"{module}: {called}" for module, called, _ in calls() if called in CALLS]
    found += [
        f"{module}: allow_pickle"
        for module, _, call in calls()
        if any(word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in call.keywords)
    ]
    for name, file in modules().items():
        tree = ast.parse(file.read_text())
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        found += [f"{name}: {module}" for module in imported if module.split(".")[0] in UNPICKLING]
    assert [line for line in found if not line.startswith(ALLOWED)] == []


ALLOWED = (
    "rewards.sandbox.",  # programs that a model writes are run there, and nowhere else
)


def test_code_of_a_model_is_trusted_only_where_a_setting_says_so():
    assert ModelConfig(architecture={"model_type": "qwen3"}).trust_remote_code is False
    assert [path.name for path in PRESETS if load_config([path], []).model.trust_remote_code] == []
    loads = [call for _, called, call in calls() if called.endswith(".from_pretrained")]
    words = [{word.arg: ast.unparse(word.value) for word in call.keywords} for call in loads]
    assert loads and all(given.get("local_files_only") == "True" for given in words), "nothing is downloaded"
    assert all(given.get("trust_remote_code", "").endswith("trust_remote_code") for given in words)


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self._mark,)


@pytest.fixture
def bomb(tmp_path: Path) -> Iterator[bytes]:
    mark = tmp_path / "exploded"
    text = pickle.dumps(Bomb(mark))
    pickle.loads(text)
    assert mark.exists(), "it works"
    mark.unlink()
    yield text
    assert not mark.exists(), "something was unpickled"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"])
def test_a_pickle_in_place_of_a_checkpoints_file_is_refused(name: str, bomb: bytes, folder: Path, tmp_path: Path):
    learner = PolicyLearner(LearnerConfig(), MODEL, folder, seed=0, total_updates=6)
    saved = save_checkpoint(tmp_path / "checkpoints", learner.state(), folder)
    (saved.path / name).write_bytes(bomb)
    with pytest.raises(DataError, match=name):
        load_checkpoint(find(tmp_path / "checkpoints", None).path)


def test_pickles_beside_a_checkpoints_files_are_left_alone(bomb: bytes, folder: Path, tmp_path: Path):
    learner = PolicyLearner(LearnerConfig(), MODEL, folder, seed=0, total_updates=6)
    saved = save_checkpoint(tmp_path / "checkpoints", learner.state(), folder)
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "rng_state.pth"):
        (saved.path / name).write_bytes(bomb)
    learner.load(load_checkpoint(find(tmp_path / "checkpoints", None).path))


@pytest.mark.parametrize("network", ["auto", "transformers"])
def test_a_model_folder_with_pickled_weights_alone_is_refused(network: str, folder: Path, tmp_path: Path, bomb: bytes):
    shutil.copytree(folder, tmp_path / "model")
    torch.save({}, tmp_path / "model" / "pytorch_model.bin")  # one that transformers would take
    (tmp_path / "model" / "model.safetensors").unlink()
    model = ModelConfig(path=str(tmp_path / "model"), architecture={}, network=network)
    with pytest.raises(DataError, match=r"model\.safetensors is missing; save the weights as safetensors"):
        check_model_folder(model, tmp_path / "model", 16)
    with pytest.raises(DataError, match="safetensors"):
        load_transformers(model, tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(bomb)
    with pytest.raises(DataError):
        load_transformers(model, tmp_path / "model")


def test_code_in_a_model_folder_is_not_run(folder: Path, tmp_path: Path):
    target, mark = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Model"}}
    (target / "config.json").write_text(json.dumps(config))
    words = json.loads((target / "tokenizer_config.json").read_text())
    words |= {"tokenizer_class": "MyTokens", "auto_map": {"AutoTokenizer": ["mine.MyTokens", None]}}
    (target / "tokenizer_config.json").write_text(json.dumps(words))
    (target / "mine.py").write_text(f"open({str(mark)!r}, 'w')\n")
    with pytest.raises(DataError):
        check_model_folder(ModelConfig(path=str(target), architecture={}), target, 16)
    with pytest.raises(DataError):
        load_tokenizer(target)
    assert not mark.exists()


def test_no_setting_holds_a_key():
    suspicious = [key for key in known_keys() if any(word in key.lower() for word in ("api_key", "token_", "secret"))]
    assert suspicious == []


def test_servers_bind_to_the_loopback_address():
    wide = [
        f"{name}: {node.value}"
        for name, file in modules().items()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::")
    ]
    assert wide == []
