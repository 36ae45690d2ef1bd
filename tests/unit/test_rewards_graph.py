"""The reward graph, the combine and the wiring from configuration."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

import rewards
from buffers.scores import Sample, Score, ScoreStatus
from buffers.transport import HandleSet, LocalHandle
from configs.catalogue import read_entry
from configs.errors import ConfigError
from configs.registry import resolve
from configs.rewarding import RewardComponentConfig, RewardsConfig
from configs.schema import RunConfig
from rewards import asking
from rewards.base import Component
from rewards.combine import Combine, Term
from rewards.graph import RewardGraph, RewardPart
from rewards.schedules import Constant
from rewards.server import RewardServer


class Replica:
    """Answers a constant, after `seconds`; notes what it was given."""

    def __init__(self, value: float = 1.0, seconds: float = 0.0) -> None:
        self.value = value
        self.seconds = seconds
        self.seen: list[Sample] = []
        self.at_once: set[str] = set()

    async def score(self, samples: Sequence[Sample], patient: bool = True) -> list[Score]:
        self.seen += samples
        await asyncio.sleep(self.seconds)
        return [Score(value=self.value) for _ in samples]


class Judge(Component):
    """Reads another component."""

    after = frozenset({"first"})
    needs = frozenset({"tokens"})
    scope = "group"


def pool(name: str, *replicas: Replica) -> HandleSet:
    handles = HandleSet(name)
    for number, replica in enumerate(replicas):
        handles.attach(LocalHandle(f"{name}-{number}", replica))
    return handles


def part(handles: HandleSet, deadline_s: float = 5.0, **settings: Any) -> RewardPart:
    return RewardPart(replicas=handles, deadline_s=deadline_s, **settings)


def graph(ignore_invalid: Sequence[str] = (), **parts: RewardPart) -> RewardGraph:
    return RewardGraph(parts, weighted(dict.fromkeys(parts, 0.5), ignore_invalid))


def weighted(weights: Mapping[str, float], ignore_invalid: Iterable[str] = ()) -> Combine:
    return Combine({n: Term(weight=Constant(w)) for n, w in weights.items()}, ignore_invalid=ignore_invalid)


def samples(count: int) -> list[Sample]:
    return [Sample(id=str(i), group="g", prompt="", completion="") for i in range(count)]


INVALID = Score.invalid(ScoreStatus.TIMEOUT, "too slow")


async def test_components_are_kept_apart_unweighted_beside_the_weighted_total() -> None:
    wired = graph(a=part(pool("a", Replica(2.0))), b=part(pool("b", Replica(-6.0))))
    for verdict in await wired.score(samples(3), 0):
        assert (verdict.total, verdict.status) == (-2.0, "ok")
        assert {name: score.value for name, score in verdict.scores.items()} == {"a": 2.0, "b": -6.0}


async def test_components_run_side_by_side() -> None:
    first, second = Replica(seconds=0.05), Replica(seconds=0.05)
    scoring = asyncio.create_task(graph(a=part(pool("a", first)), b=part(pool("b", second))).score(samples(1), 0))
    await asyncio.sleep(0.02)
    assert first.seen and second.seen and not scoring.done()
    await scoring


async def test_a_later_component_sees_the_values_of_those_it_runs_after() -> None:
    late = Replica(3.0)
    early = part(pool("early", Replica(7.0, 0.01)))
    await graph(late=part(pool("late", late), after=frozenset({"early"})), early=early).score(samples(2), 0)
    assert [sample.metadata["scores"] for sample in late.seen] == [{"early": 7.0}] * 2


async def test_requests_go_to_the_replica_with_the_least_to_do() -> None:
    busy, idle = Replica(seconds=0.05), Replica(seconds=0.05)
    wired = graph(a=part(pool("a", busy, idle)))
    await asyncio.gather(wired.score(samples(5), 0), wired.score(samples(1), 0), wired.score(samples(2), 0))
    assert sorted([len(busy.seen), len(idle.seen)]) == [3, 5]


async def test_a_dying_replica_is_left_for_a_living_one() -> None:
    dying, living = Replica(1.0, seconds=0.05), Replica(2.0)
    handles = pool("a", dying)
    scoring = asyncio.create_task(graph(a=part(handles)).score(samples(2), 0))
    await asyncio.sleep(0.01)
    handles.attach(LocalHandle("a-1", living))
    handles["a-0"].kill()
    assert [v.scores["a"].value for v in await scoring] == [2.0, 2.0]


class Hanging(Component):
    """Never answers."""

    async def score(self, samples: Sequence[Sample]) -> list[Score]:  # type: ignore[override]
        await asyncio.sleep(3600.0)
        return []


class Prompt(Component):
    """Answers at once."""

    async def score(self, samples: Sequence[Sample]) -> list[Score]:  # type: ignore[override]
        return [Score(value=2.0) for _ in samples]


class Counted(LocalHandle):
    """Counts the calls that go to another handle."""

    def __init__(self, handle: LocalHandle) -> None:
        self.name, self.calls, self._handle = handle.name, 0, handle

    async def call(self, method: str, *args: Any, deadline_s: float, awaiting: str) -> Any:
        self.calls += 1
        return await self._handle.call(method, *args, deadline_s=deadline_s, awaiting=awaiting)


def calls_to(handles: Iterable[Counted]) -> HandleSet:
    counted = HandleSet("a")
    for handle in handles:
        counted.attach(handle)
    return counted


def hosted(component: Component) -> RewardServer:
    """Return a server whose breaker opens with the first failure, for an hour."""
    return RewardServer(
        component, name="a", rng=random.Random(0), batch_size=1, concurrency=2,
        deadline_s=0.02, breaker_failures=1, breaker_reset_s=3600.0,
    )  # fmt: skip


async def test_what_a_hung_replica_does_not_answer_another_one_scores() -> None:
    hung, sound = hosted(Hanging()), hosted(Prompt())
    verdicts = await graph(a=part(pool("a", hung, sound))).score(samples(9), 0)
    assert [v.scores["a"].value for v in verdicts] == [2.0] * 9
    assert (hung.stats()["breaker"], sound.stats()["breaker"]) == ("open", "closed")


async def test_a_replica_with_an_open_breaker_is_not_asked_first_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "REST_S", 0.3)
    calls = [Counted(handle) for handle in pool("a", hosted(Hanging()), hosted(Prompt()))]
    wired = graph(a=part(calls_to(calls)))
    await wired.score(samples(1), 0)  # it opens, and says so
    before = calls[0].calls
    for _ in range(20):
        assert (await wired.score(samples(1), 0))[0].total is not None
    assert calls[0].calls - before <= 1, "twenty that it would have been asked first, by its load"
    await asyncio.sleep(0.3)
    await wired.score(samples(1), 0)
    assert calls[0].calls > before, "or nobody would find out that it works again"


async def test_the_last_replica_is_waited_for_until_its_breaker_lets_a_call_through() -> None:
    class Mending(Hanging):
        async def score(self, samples: Sequence[Sample]) -> list[Score]:  # type: ignore[override]
            return await (Prompt() if mended else super()).score(samples)

    mended: list[bool] = []
    replicas = [hosted(Mending()) for _ in range(2)]
    for replica in replicas:
        replica._breaker._reset_s = 0.5
        assert await replica.score(samples(1), False) == [None]
    handles = pool("a", *replicas)
    calls = [Counted(handle) for handle in handles]
    scoring = asyncio.create_task(graph(a=part(calls_to(calls))).score(samples(1), 0))
    mended.append(True)
    assert [v.scores["a"].value for v in await scoring] == [2.0]
    assert sum(handle.calls for handle in calls) <= 2  # nobody asks again and again meanwhile


async def test_a_replacement_under_the_same_name_is_waited_for() -> None:
    handles = pool("a", Replica())
    handles["a-0"].kill()
    scoring = asyncio.create_task(graph(a=part(handles)).score(samples(1), 0))
    await asyncio.sleep(0.01)
    assert not scoring.done()
    handles.attach(LocalHandle("a-0", Replica(4.0)))
    assert (await scoring)[0].total == 2.0


async def test_without_any_replica_a_score_is_an_error_after_the_deadline() -> None:
    handles = pool("a", Replica())
    handles["a-0"].kill()
    verdict = (await graph(a=part(handles, deadline_s=0.05)).score(samples(1), 0))[0]
    assert (verdict.total, verdict.status) == (None, ScoreStatus.ERROR)
    assert verdict.detail.startswith("a: no replica of 'a' within 0.05 s, 1 died meanwhile")


async def test_a_hung_replica_is_a_timeout_that_names_what_was_awaited() -> None:
    wired = graph(a=part(pool("a", Replica(seconds=60.0)), deadline_s=0.05), b=part(pool("b", Replica(8.0))))
    verdict = (await wired.score(samples(3), 0))[0]
    assert (verdict.total, verdict.status, verdict.scores["b"].value) == (None, ScoreStatus.TIMEOUT, 8.0)
    assert "a-0.score: no scores of 3 samples from 0 on" in verdict.detail


async def test_no_samples_need_no_replica() -> None:
    assert await graph(a=part(HandleSet("a"), deadline_s=0.0)).score([], 0) == []


def test_an_after_that_cannot_be_met_is_refused() -> None:
    with pytest.raises(ValueError, match="'a' runs after \\['nobody'\\]"):
        graph(a=part(HandleSet("a"), after=frozenset({"nobody"})))
    with pytest.raises(ValueError, match="'a', 'b'\\] wait for each other"):
        graph(a=part(HandleSet("a"), after=frozenset({"b"})), b=part(HandleSet("b"), after=frozenset({"a"})))


@pytest.mark.parametrize(
    ("a", "b", "ignored", "total", "status"),
    [
        (Score(value=3.0), Score(value=-1.0), (), 5.0, "ok"),
        (Score(value=0.0), Score(value=0.0), (), 0.0, "ok"),
        (INVALID, Score(value=-1.0), (), None, "timeout"),
        (Score(value=3.0), INVALID, ("a",), None, "timeout"),
        (INVALID, Score(value=-1.0), ("a",), -1.0, "ok"),
        (Score(value=3.0), INVALID, "b", 6.0, "ok"),
        (INVALID, INVALID, ("a", "b"), None, "abstained"),
    ],
)
def test_an_invalid_part_makes_the_sum_invalid_unless_it_is_ignored(
    a: Score, b: Score, ignored: Sequence[str], total: float | None, status: str
) -> None:
    verdict = weighted({"a": 2.0, "b": 1.0}, ignored)({"a": a, "b": b}, 0)
    assert (verdict.total, verdict.status) == (total, status)
    assert verdict.scores == {"a": a, "b": b}


def section(**components: dict[str, Any]) -> RunConfig:
    sections = {name: RewardComponentConfig(component=c) for name, c in components.items()}
    return RunConfig(rewards=RewardsConfig(components=sections))


async def test_a_configured_graph_scores_with_configured_servers() -> None:
    config = section(right={"target": "numeric"}, short={"target": "length_penalty", "target_tokens": 2})
    config.rewards.components["short"].weight = 0.1
    pools = {name: HandleSet(name) for name in config.rewards.components}
    for name, component in config.rewards.components.items():
        pools[name].attach(LocalHandle(f"{name}-0", rewards.build_server(component, name=name, rng=random.Random(0))))
    asked = [
        Sample(id="right", group="g", prompt="", completion="7 m", answer="7", num_tokens=2),
        Sample(id="long", group="g", prompt="", completion="1234", answer="7", num_tokens=4),
    ]
    verdicts = await rewards.build(config, pools).score(asked, 0)
    assert [v.total for v in verdicts] == [1.0, -0.1]


def test_the_graph_knows_what_its_components_need() -> None:
    config = section(first={"target": "numeric"}, judge={"target": f"{__name__}:Judge"})
    wired = rewards.build(config, {name: HandleSet(name) for name in config.rewards.components})
    assert wired.needs == {"tokens"} and wired.scopes == {"sample", "group"}
    assert wired._parts["judge"].after == {"first"}


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ({"target": "numerc"}, "rewards.components.x.component.target is 'numerc'.*did you mean 'numeric'"),
        ({"target": "rewards.rules:WeightedSum"}, "must be a subclass of rewards.base.Component"),
        ({"target": f"{__name__}:Judge"}, "'x' runs after \\['first'\\]"),
    ],
)
def test_a_wrong_component_is_a_config_error_that_names_its_key(component: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rewards.build(section(x=component), {"x": HandleSet("x")})


def test_an_empty_graph_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"rewards\.components is empty"):
        rewards.build(RunConfig(), {})


def test_a_refused_argument_is_a_config_error_that_names_the_component() -> None:
    config = RewardComponentConfig(component={"target": "length_penalty", "target_tokens": 0})
    with pytest.raises(ConfigError, match=r"rewards.components.short.component .*target_tokens is 0; it must be >= 1"):
        rewards.build_server(config, name="short", rng=random.Random(0))


def test_ignoring_an_unknown_component_is_refused() -> None:
    with pytest.raises(ValueError, match="ignore_invalid names \\['c'\\]; the components are \\['a'\\]"):
        weighted({"a": 1.0}, ["c"])


def test_every_reward_of_the_table_is_a_component_with_a_line_and_a_source() -> None:
    entries = [read_entry(resolve(rewards.REWARDS, name, "rewards")) for name in rewards.REWARDS]
    assert list(rewards.REWARDS) == sorted(rewards.REWARDS)
    assert all(e.line.endswith(".") and len(e.line) <= 120 and e.source and "target:" in e.yaml for e in entries)
    assert all(issubclass(resolve(rewards.REWARDS, name, "rewards"), Component) for name in rewards.REWARDS)


def test_every_combine_of_the_table_can_be_imported() -> None:
    assert all(resolve(rewards.COMBINES, name, "combine")()({}, {}) is not None for name in rewards.COMBINES)
