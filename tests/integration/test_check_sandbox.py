"""`launch.py check` tries the sandbox of components that hand to programs what a model wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest

import launch
from rewards.sandbox import confinement, probe
from tests.integration.played_runs import SMOKE

pytestmark = pytest.mark.integration
CODE = "rewards.components.right={component: {target: code}, deadline_s: 60}"


@pytest.fixture(autouse=True)
def _not_probed_yet():
    probe._probed.cache_clear()
    yield
    probe._probed.cache_clear()


def checked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[dict[str, Any]]]:
    code = launch.main(["check", str(SMOKE), *words, "--json"])
    lines = json.loads(capsys.readouterr().out)
    return code, [line for line in lines if line["subject"] == "sandbox"]


def test_a_machine_that_contains_hostile_programs_is_said_to(capsys: pytest.CaptureFixture[str]):
    if refusal := confinement.refusal():
        pytest.skip(f"this machine confines nothing: {refusal}")
    code, [line] = checked(capsys, CODE)
    assert (code, line["status"]) == (0, "OK") and "contained" in line["text"]


def test_what_gets_out_fails_the_check_by_name(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    if refusal := confinement.refusal():
        pytest.skip(f"this machine confines nothing: {refusal}")
    # A program that is wrongly held to be hostile and contained: it is neither stopped nor silent.
    monkeypatch.setattr(probe, "HOSTILE", {"read the clock": "def attempt():\n    return ['it is noon']\n"})
    code, [line] = checked(capsys, CODE)
    assert (code, line["status"]) == (2, "FAIL")
    assert "right: this machine does not contain" in line["text"] and "read the clock: ['it is noon']" in line["text"]
    assert "replace right by a reward that runs nothing a model wrote" in line["remedy"]


def test_a_machine_that_confines_nothing_fails_the_check(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(confinement, "refusal", lambda: "this kernel has no Landlock")
    code, [line] = checked(capsys, "rewards.components.right={component: {target: math}}")
    assert (code, line["status"]) == (2, "FAIL") and "no Landlock" in line["text"]


def test_a_configuration_that_runs_nothing_is_not_probed(capsys: pytest.CaptureFixture[str]):
    assert checked(capsys) == (0, [])
    assert probe._probed.cache_info().currsize == 0
