"""A checkpoint resumes bit for bit, is whole or absent, and says which of its files is broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from learner_tables import MODEL, model_folder, random_table
from transformers import AutoModelForCausalLM, AutoTokenizer

from buffers.digest import chain_digest, weights_digest
from configs.errors import DataError, StaleEpoch
from configs.learning import LearnerConfig
from learners.checkpoint import checkpoints, load_checkpoint, newest, retain, save_checkpoint, verify
from learners.policy_learner import PolicyLearner
from learners.progress import LearnerState, Progress

torch.set_num_threads(1)
CONFIG = LearnerConfig(beta=0.1, num_iterations=2, schedule="cosine", warmup_updates=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


def learner(folder: Path, seed: int = 0) -> PolicyLearner:
    return PolicyLearner(CONFIG, MODEL, folder, seed=seed, total_updates=6)


def state(version: int) -> LearnerState:
    tensors = {"a": torch.full((2,), float(version))}
    return LearnerState(
        progress=Progress(version=version), model=tensors, optimiser={}, reference={}, rng=torch.get_rng_state()
    )


def test_a_resumed_run_ends_with_the_same_bits_as_one_without_interruption(folder, tmp_path):
    straight, first = learner(folder), learner(folder)
    for seed in range(5):
        straight.update(random_table(seed))
        if seed == 0:
            straight.set_reference()  # so that it is not what the folder holds
    for seed in range(3):
        first.update(random_table(seed))
        if seed == 0:
            first.set_reference()
    generator = torch.get_rng_state()
    saved = save_checkpoint(tmp_path, first.state(), folder, lineage="main", epoch=2, metrics={"eval": 0.5})
    resumed = learner(folder, seed=9)
    resumed.load(load_checkpoint(saved.path))
    assert torch.equal(torch.get_rng_state(), generator)
    for seed in range(3, 5):
        resumed.update(random_table(seed))
    assert resumed.digest() == straight.digest()
    assert resumed.progress == straight.progress
    assert weights_digest(resumed.state().optimiser) == weights_digest(straight.state().optimiser)


def test_the_folder_opens_in_transformers_with_the_trained_weights(folder, tmp_path):
    policy = learner(folder)
    policy.update(random_table())
    path = save_checkpoint(tmp_path, policy.state(), folder).path
    network = AutoModelForCausalLM.from_pretrained(path).eval()
    tokens = torch.tensor([[2, 3, 4]])
    with torch.no_grad():
        theirs = network(input_ids=tokens).logits
        ours = policy.network.logits(policy.network.forward(tokens, torch.arange(3)[None], None))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert AutoTokenizer.from_pretrained(path).eos_token == "<eos>"


def test_the_state_says_what_the_weights_are(folder, tmp_path):
    save_checkpoint(tmp_path, state(7), folder, lineage="b", epoch=3, metrics={"eval": 0.25})
    found = newest(tmp_path)
    assert found is not None
    assert (found.version, found.lineage, found.epoch, found.metrics) == (7, "b", 3, {"eval": 0.25})


def test_a_missing_folder_has_no_checkpoints(tmp_path):
    assert checkpoints(tmp_path / "none") == [] and newest(tmp_path / "none") is None


def test_a_version_that_is_reached_again_replaces_the_older_folder(folder, tmp_path):
    save_checkpoint(tmp_path, state(1), folder, lineage="old")
    save_checkpoint(tmp_path, state(1), folder, lineage="new")
    assert [c.lineage for c in checkpoints(tmp_path)] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["v00000001"]


def test_a_writer_that_was_fenced_off_leaves_the_checkpoints_as_they_are(folder, tmp_path):
    def fenced() -> None:
        raise StaleEpoch("epoch 1 was fenced off by epoch 2; end this process")

    save_checkpoint(tmp_path, state(1), folder, lineage="successor")
    for version in (1, 2):
        with pytest.raises(StaleEpoch):
            save_checkpoint(tmp_path, state(version), folder, lineage="orphan", fence=fenced)
    assert [c.lineage for c in checkpoints(tmp_path)] == ["successor"]
    assert [p.name for p in tmp_path.iterdir()] == ["v00000001"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"])
def test_one_flipped_bit_is_named(folder, tmp_path, name):
    path = save_checkpoint(tmp_path, state(1), folder).path / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"{name} does not match"):
        load_checkpoint(path.parent)


def test_missing_and_unreadable_files_are_named(folder, tmp_path):
    path = save_checkpoint(tmp_path, state(1), folder).path
    verify(path)
    (path / "config.json").unlink()
    with pytest.raises(DataError, match=r"config\.json is missing"):
        verify(path)
    (path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json cannot be read"):
        verify(path)
    (path / "state.json").write_text(json.dumps({"progress": {}}))
    with pytest.raises(DataError, match=r"state\.json lacks 'lineage'"):
        checkpoints(tmp_path)


def test_retention_keeps_the_newest_and_the_best_and_sweeps_what_a_crash_left(folder, tmp_path):
    for version, accuracy in enumerate([0.1, 0.9, 0.3, 0.9, 0.2, 0.4]):
        save_checkpoint(tmp_path, state(version), folder, metrics={"eval": accuracy})
    (tmp_path / ".partial-v00000006-1").mkdir()
    assert len(checkpoints(tmp_path)) == 6
    gone = retain(tmp_path, keep_last=2, keep_best=1, metric="eval")
    assert [c.version for c in checkpoints(tmp_path)] == [3, 4, 5] and len(gone) == 4
    retain(tmp_path, keep_last=1, keep_best=0, metric="eval")
    assert [p.name for p in tmp_path.iterdir()] == ["v00000005"]


@pytest.mark.parametrize("deleted", ["state.json", "manifest.json", "model.safetensors"])
def test_a_kill_while_a_checkpoint_is_deleted_leaves_no_half_of_one(folder, tmp_path, monkeypatch, deleted):
    for version in range(3):
        save_checkpoint(tmp_path, state(version), folder)

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if path.exists():
            (path / deleted).unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("learners.checkpoint.shutil.rmtree", killed)
        retain(tmp_path, keep_last=1, keep_best=0, metric="eval")
    assert [c.version for c in checkpoints(tmp_path)] == [1, 2]
    save_checkpoint(tmp_path, state(0), folder)  # a resumed run reaches the version again
    retain(tmp_path, keep_last=1, keep_best=0, metric="eval")
    assert [p.name for p in tmp_path.iterdir()] == ["v00000002"]


def test_a_checkpoint_of_another_model_is_refused(folder):
    with pytest.raises(DataError, match="model differs in"):
        learner(folder).load(state(1))


def test_weight_digests_see_names_and_bytes_but_not_order():
    a, b = torch.ones(2), torch.zeros(2)
    assert weights_digest({"a": a, "b": b}) == weights_digest({"b": b, "a": a})
    assert len({weights_digest(w) for w in ({"a": a}, {"b": a}, {"a": b})}) == 3


def test_id_digests_depend_on_the_update_an_id_was_in_but_not_on_its_place():
    assert chain_digest("", ["x", "y"]) == chain_digest("", ["y", "x"])
    together, apart = chain_digest("", ["x", "y"]), chain_digest(chain_digest("", ["x"]), ["y"])
    assert together != apart
    assert chain_digest("one history", ["x"]) != chain_digest("another", ["x"])
