"""Judges that grade, against a model of rules behind a real server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web
from endpoint_server import Handler, completion, replies, serving
from judge_model import RuleModel, quotations
from judge_scene import RIGHT, WRONG, answers, asked, by_length, judging, sample, says, sometimes, values

from buffers.scores import ScoreStatus
from rewards.judges.checklist import Checklist
from rewards.judges.log_odds import LogOdds, read_log_odds
from rewards.judges.principles import Principles
from rewards.judges.votes import Votes


def by_principle(prompt: str, answer: str) -> float:
    return by_length("", answer) if "- Long" in prompt else 1.0 - by_length("", answer)


BANK = [{"text": "Long answers are better.", "negation": "Short answers are better."}]
SHORT_AND_LONG = [sample("short"), sample("a long one")]


async def test_another_principle_turns_the_order_round():
    async with serving(RuleModel(by_principle)) as server:
        async with judging(Principles, server, principles=BANK) as judge:
            assert values(await judge.score(SHORT_AND_LONG)) == [0.5, 1.0]
        async with judging(Principles, server, principles=BANK, negated=1.0) as judge:
            assert values(await judge.score(SHORT_AND_LONG)) == [0.5, 0.0]


async def test_the_tasks_own_principles_come_before_the_bank_and_its_type_adds_to_it():
    extra = {"safety": [{"text": "Long refusals are better."}]}
    told = {"principles": ["Short is better."]}
    typed = [sample("x", metadata={"type": "safety"})]
    async with (
        serving(RuleModel(by_principle)) as server,
        judging(Principles, server, principles=BANK, by_type=extra) as judge,
    ):
        assert judge.stated(sample("x", metadata=told)) == ["Short is better."]
        assert judge.stated(sample("x")) == ["Long answers are better."]
        assert judge.stated(typed[0]) == ["Long answers are better.", "Long refusals are better."]


async def test_principles_are_drawn_and_negated_by_group_and_stay_what_they_are():
    bank = [{"text": f"+{i}", "negation": f"-{i}"} for i in range(6)]
    async with (
        serving(RuleModel()) as server,
        judging(Principles, server, principles=bank, drawn=3, negated=0.5) as judge,
    ):
        drawn = [judge.stated(sample("x", group=str(group))) for group in range(100)]
        assert drawn == [judge.stated(sample("y", group=str(group))) for group in range(100)]
    assert {len({text[1:] for text in stated}) for stated in drawn} == {3}
    negated = sum(text.startswith("-") for stated in drawn for text in stated)
    assert 100 < negated < 200


@pytest.mark.parametrize(
    "found",
    [
        {"scores": {"1": 5, "2": 1}, "best-to-worst": ["2", "1"]},  # contradicts itself
        {"scores": {"1": 5}, "best-to-worst": ["1", "2"]},
        {"scores": {"1": 5, "2": 1, "3": 1}, "best-to-worst": ["1", "2"]},
        {"scores": {"1": 6, "2": 1}, "best-to-worst": ["1", "2"]},
        {"scores": {"1": 5, "2": 1}, "best-to-worst": ["1"]},
        {"scores": [5, 1], "best-to-worst": ["1", "2"]},
    ],
)
async def test_grades_that_are_incomplete_or_contradict_their_ranking_are_abstained(found: dict[str, Any]):
    async with serving(says(**found)) as server, judging(Principles, server, principles=BANK) as judge:
        scores = await judge.score(SHORT_AND_LONG)
    assert [score.status for score in scores] == [ScoreStatus.ABSTAINED] * 2


async def test_log_odds_are_read_off_the_first_token():
    async with serving(RuleModel()) as server, judging(LogOdds, server, principle="It is right.") as judge:
        scores = await judge.score([RIGHT, WRONG])
    assert values(scores) == pytest.approx([2.9444, -2.9444], abs=1e-4)
    assert (server.bodies[0]["max_tokens"], server.bodies[0]["logprobs"]) == (1, True)


async def test_the_tasks_own_principle_is_the_one_that_is_asked_about():
    own = sample("4", metadata={"principle": "It RHYMES."})
    async with serving(RuleModel()) as server, judging(LogOdds, server, principle="It is right.") as judge:
        await judge.score([own])
    assert "It RHYMES." in asked(server.bodies[0]) and "It is right." not in asked(server.bodies[0])


async def test_an_endpoint_without_logprobs_is_an_error_and_a_task_without_principle_abstained():
    async with serving(replies("Yes")) as server:
        async with judging(LogOdds, server, principle="It is right.") as judge:
            (score,) = await judge.score([RIGHT])
            assert score.status is ScoreStatus.ERROR and "logprobs" in score.detail
        async with judging(LogOdds, server) as judge:
            (score,) = await judge.score([RIGHT])
            assert score.status is ScoreStatus.ABSTAINED and "no principle" in score.detail


def listed(*tokens: tuple[Any, Any]) -> dict[str, Any]:
    top = [{"token": token, "logprob": logprob} for token, logprob in tokens]
    return {"choices": [{"message": {"content": "x"}, "logprobs": {"content": [{"top_logprobs": top}]}}]}


def test_every_spelling_of_a_word_counts_and_a_missing_one_has_at_most_the_least_probability():
    spelt = read_log_odds(listed((" Yes", -1.6094), ("YES", -1.6094), ("No", -1.6094), ("Maybe", -2.3026)))
    assert spelt.value == pytest.approx(0.6931, abs=1e-3)
    missing = read_log_odds(listed(("Yes", -0.1), ("Maybe", -3.0)))
    assert missing.value == pytest.approx(2.9)
    assert read_log_odds(listed(("Maybe", -0.1), ("Well", -3.0))).status is ScoreStatus.ABSTAINED


@pytest.mark.parametrize("token", [("Yes", "high"), ("Yes", float("nan")), ("Yes", 5.0), (3, -1.0), ("Yes", None)])
def test_log_probabilities_that_are_none_are_an_error(token: tuple[Any, Any]):
    assert read_log_odds(listed(token)).status is ScoreStatus.ERROR


async def test_certainty_is_bounded():
    async with (
        serving(answers(listed(("Yes", 0.0), ("No", -9999.0)))) as server,
        judging(LogOdds, server, principle="It is right.", bound=8.0) as judge,
    ):
        assert values(await judge.score([RIGHT])) == [8.0]


async def test_a_checklist_is_the_mean_of_its_grades():
    async with (
        serving(says(grades={"1": 1, "3": 0, "2": 0.5, "4": 1})) as server,
        judging(Checklist, server, checklist=["a", "b", "c", "d"]) as judge,
    ):
        (score,) = await judge.score([RIGHT])
    assert (score.value, score.vector) == (0.625, (0.625,))
    assert "1. a\n2. b\n3. c\n4. d" in asked(server.bodies[0])


@pytest.mark.parametrize(
    "grades",
    [{"1": 1}, {"1": 1, "2": 0.7}, {"1": 1, "2": "yes"}, {"1": 1, "2": 1, "3": 1}, [1, 1], {"1": True, "2": 1}],
)
async def test_one_unreadable_grade_makes_the_answer_abstained_and_not_worse(grades: Any):
    async with serving(says(grades=grades)) as server, judging(Checklist, server, checklist=["a", "b"]) as judge:
        (score,) = await judge.score([RIGHT])
    assert score.status is ScoreStatus.ABSTAINED


async def test_without_a_checklist_the_judge_writes_one_for_each_question_once():
    samples = [RIGHT, WRONG, sample("3", prompt="1 + 2?", group="h")]
    async with serving(RuleModel()) as server, judging(Checklist, server) as judge:
        assert values(await judge.score(samples)) == [1.0, 0.0, 1.0]
    derived = [body for body in server.bodies if '"checklist"' in asked(body)]
    assert (len(derived), len(server.bodies)) == (2, 5)


async def test_the_tasks_own_checklist_comes_first_and_the_length_counts_on_top():
    essay = sample("one two three", metadata={"checklist": ["It rhymes."], "target_words": 4})
    async with (
        serving(says(grades={"1": 1})) as server,
        judging(Checklist, server, checklist=["x", "y"], length_weight=0.2) as judge,
    ):
        (score, other) = await judge.score([essay, sample("no target", metadata={"checklist": ["z"]})])
    assert score.value == pytest.approx(1.0 + 0.2 * 0.5) and score.vector == (1.0, 0.5)
    assert other.status is ScoreStatus.ABSTAINED and "target_words" in other.detail


def scripted_votes(rounds: list[dict[str, float]], marks: list[float]) -> tuple[Handler, Handler]:
    """Return a judge that gives answers the grades of one round after the other, and a meta judge with its marks."""
    state = {"round": 0}
    mark_of: dict[str, float] = {}

    async def judge(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        grades, name = rounds[state["round"]], f"round-{state['round']}"
        mark_of[name] = marks[state["round"]]
        state["round"] += 1
        quoted = {name.removeprefix("response "): text for name, text in quotations(asked(body)).items()}
        found = {name: grades[text] for name, text in quoted.items() if text in grades}
        return web.json_response(completion(json.dumps({"reason": name, "scores": found})))

    async def meta(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        said = json.loads(quotations(asked(body))["judgement"])["reason"]
        return web.json_response(completion(json.dumps({"reason": "", "score": 10 * mark_of[said]})))

    return judge, meta


ROUNDS = [{"4": 7.0, "5": 5.0}, {"4": 6.0, "5": 8.0}, {"4": 9.0, "5": 4.0}, {"4": 5.0, "5": 6.0}]
MARKS = [0.9, 0.1, 0.8, 0.2]


async def test_votes_are_averaged_and_with_a_meta_judge_its_better_half():
    judge_handler, meta_handler = scripted_votes(ROUNDS, MARKS)
    async with serving(judge_handler) as server, judging(Votes, server) as judge:
        assert values(await judge.score([RIGHT, WRONG])) == [27 / 4, 23 / 4]
    judge_handler, meta_handler = scripted_votes(ROUNDS, MARKS)
    async with (
        serving(judge_handler) as server,
        serving(meta_handler) as meta,
        judging(Votes, server, meta={"url": meta.url, "model": "meta"}) as judge,
    ):
        assert values(await judge.score([RIGHT, WRONG])) == [16 / 2, 9 / 2]
        assert judge.stats()["meta_requests"] == 4


async def test_votes_show_the_answers_in_different_orders():
    model = RuleModel()
    async with serving(model) as server, judging(Votes, server, votes=16) as judge:
        await judge.score([RIGHT, WRONG])
    assert {quoted["response 1"] for quoted in model.seen} == {"4", "5"} and len(model.seen) == 16


async def test_an_unreadable_vote_is_left_out_and_without_any_the_group_is():
    count = {"asked": 0}

    def every_other(quoted: dict[str, str]) -> bool:
        count["asked"] += 1
        return count["asked"] % 2 == 0

    async with serving(sometimes(RuleModel(), every_other)) as server, judging(Votes, server) as judge:
        scores = await judge.score([RIGHT, WRONG])
    assert values(scores) == [10.0, 1.0] and "2 of 4" in scores[0].detail
    async with serving(replies("hm")) as server, judging(Votes, server) as judge:
        assert {score.status for score in await judge.score([RIGHT, WRONG])} == {ScoreStatus.ABSTAINED}


async def test_a_meta_judge_that_fails_leaves_no_vote_unchecked():
    async with (
        serving(RuleModel()) as server,
        serving(replies("hm")) as meta,
        judging(Votes, server, meta={"url": meta.url, "model": "meta"}) as judge,
    ):
        scores = await judge.score([RIGHT, WRONG])
    assert {score.status for score in scores} == {ScoreStatus.ABSTAINED} and "meta judge" in scores[0].detail
