"""The order of tasks: the permutation, the split, and the cursor."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.tasks.permutation import permute
from actors.tasks.split import Split
from actors.tasks.stream import HeldOut, TaskStream
from buffers.trajectory import Task
from configs.errors import ConfigError


class Listed:
    """A source of given prompts."""

    name = "listed"
    fingerprint = "0"

    def __init__(self, prompts: list[str], listed: bool = True) -> None:
        self.prompts = prompts
        self.listed = listed

    def __len__(self) -> int:
        return len(self.prompts)

    def task(self, index: int) -> Task:
        return Task(source=self.name, index=index, prompt=self.prompts[index], answer=str(index))


def numbers(count: int, listed: bool = True) -> Listed:
    return Listed([f"task {n}" for n in range(count)], listed)


# Permutation


@given(st.integers(1, 200), st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_permute_is_a_bijection_for_every_size_and_key(size: int, key: int) -> None:
    assert sorted(permute(n, size, key) for n in range(size)) == list(range(size))


def test_permute_sends_a_place_everywhere_equally_often() -> None:
    landed = Counter(permute(3, 7, key * 7919) for key in range(7000))
    assert set(landed) == set(range(7))
    # 1000 expected each, standard deviation 29.
    assert max(abs(count - 1000) for count in landed.values()) < 150


def test_permute_leaves_neighbours_no_closer_than_chance() -> None:
    places = [permute(n, 10_000, 5) for n in range(10_000)]
    mean_step = sum(abs(a - b) for a, b in itertools.pairwise(places)) / 9_999
    assert mean_step == pytest.approx(10_000 / 3, rel=0.05)  # of two uniform places


def test_permute_refuses_an_index_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"index 5 is out of range\(5\)"):
        permute(5, 5, 0)


# Split and stream


@given(st.lists(st.text(max_size=3), min_size=1, max_size=40), st.floats(0.05, 0.95), st.booleans())
@settings(max_examples=50, deadline=None)
def test_no_prompt_is_both_trained_on_and_held_out(prompts: list[str], fraction: float, listed: bool) -> None:
    split, source = Split(fraction), Listed(prompts * 2, listed)
    held_out = {task.prompt for task in HeldOut(source, split)}
    if held_out == set(prompts):
        return  # nothing to train on: refused, see below
    stream = TaskStream(source, split, seed=1)
    trained = {stream.next_group().task.prompt for _ in range(2 * stream.tasks_per_epoch)}
    assert not trained & held_out
    assert not listed or trained | held_out == set(prompts)


@pytest.mark.parametrize("listed", [True, False])
def test_a_split_that_leaves_nothing_to_train_on_is_refused(listed: bool) -> None:
    prompts = [task.prompt for task in HeldOut(numbers(50), Split(0.3))]
    with pytest.raises(ConfigError, match=r"(held|holds) out"):
        TaskStream(Listed(prompts, listed), Split(0.3), seed=0).next_group()


def test_the_split_is_a_fixed_property_of_the_text() -> None:
    held_out = [n for n in range(40) if Split(0.1).holds_out(f"{n}+{n}=")]
    assert held_out == [2, 4, 11, 25, 26, 35]  # changing the hash would mix old training into new evaluation


def test_the_held_out_share_is_the_fraction_asked_for() -> None:
    share = sum(Split(0.2).holds_out(f"{n}") for n in range(20_000)) / 20_000
    assert share == pytest.approx(0.2, abs=0.012)  # four standard deviations


def test_an_epoch_holds_every_training_task_once_and_in_another_order_than_the_next() -> None:
    stream = TaskStream(numbers(60), Split(0.25), seed=3)
    epochs = [[stream.next_group().task.index for _ in range(stream.tasks_per_epoch)] for _ in range(2)]
    expected = [n for n in range(60) if not Split(0.25).holds_out(f"task {n}")]
    assert sorted(epochs[0]) == sorted(epochs[1]) == expected
    assert epochs[0] != epochs[1] != expected


def test_groups_count_epochs_and_positions() -> None:
    stream = TaskStream(numbers(20), Split(0.5), seed=0)
    per_epoch = stream.tasks_per_epoch
    places = [(group.epoch, group.position) for group in (stream.next_group() for _ in range(per_epoch + 2))]
    assert places == [*((0, n) for n in range(per_epoch)), (1, 0), (1, 1)]
    assert stream.group_key(per_epoch + 1) == ("listed", 1, 1)


@pytest.mark.parametrize("listed", [True, False])
def test_an_ordinal_is_the_same_task_however_the_cursor_reached_it(listed: bool) -> None:
    straight = TaskStream(numbers(30, listed), Split(0.3), seed=9)
    groups = [straight.next_group() for _ in range(70)]
    resumed = TaskStream(numbers(30, listed), Split(0.3), seed=9)
    resumed.seek(41)
    assert [resumed.next_group() for _ in range(29)] == groups[41:]
    assert resumed.cursor == straight.cursor == 70
    assert resumed.task_at(5) == groups[5]
    assert resumed.cursor == 70


def test_seeds_change_the_order_and_not_the_split() -> None:
    first, second = (TaskStream(numbers(60), Split(0.25), seed=seed) for seed in (0, 1))
    orders = [[s.task_at(n).task.index for n in range(s.tasks_per_epoch)] for s in (first, second)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_without_shuffle_tasks_come_in_the_order_of_the_source() -> None:
    stream = TaskStream(numbers(40), Split(0.25), seed=3, shuffle=False)
    indices = [stream.next_group().task.index for _ in range(stream.tasks_per_epoch)]
    assert indices == sorted(indices)


def test_a_generator_replaces_held_out_tasks_and_keeps_its_epoch_length() -> None:
    stream = TaskStream(numbers(2000, listed=False), Split(0.1), seed=4)
    indices = [stream.next_group().task.index for _ in range(2000)]
    # 90 % of the positions keep their own task, the rest draw again.
    assert len(set(indices)) > 0.88 * 2000
    assert stream.next_group()[:2] == (1, 0)


def test_a_generator_in_order_replaces_only_what_is_held_out() -> None:
    stream = TaskStream(numbers(200, listed=False), Split(0.3), seed=4, shuffle=False)
    indices = [stream.next_group().task.index for _ in range(200)]
    kept = [n for n in range(200) if not Split(0.3).holds_out(f"task {n}")]
    assert [n for n in kept if indices[n] == n] == kept
    assert set(indices) == set(kept)


def test_held_out_tasks_with_the_same_prompt_count_once() -> None:
    held_out = HeldOut(Listed(["a", "b", "c", "d"] * 3), Split(0.9))
    prompts = [task.prompt for task in held_out.first(100)]
    assert len(prompts) == len(set(prompts)) > 1
    assert [task.prompt for task in held_out.first(2)] == prompts[:2]


def test_seeking_backwards_of_the_beginning_is_refused() -> None:
    with pytest.raises(ValueError, match="ordinal is -1"):
        TaskStream(numbers(9), Split(0.1), seed=0).seek(-1)
