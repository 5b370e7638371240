"""Search at inference: what the selectors choose, what they cannot see, what it costs and what is refused."""

from __future__ import annotations

import json

import pytest

import searchgym
from searchgym.agent import Agent, Turn
from searchgym.cli import main
from searchgym.errors import ConfigError
from searchgym.records.verdict import Verdict
from searchgym.rollouts.search import SearchOptions, _votes_for, evaluate_search

WORLD = {"name": "country", "size": 1000, "train": 5, "dev": 6, "test": 5}


class Scripted(Agent):
    """Searches once and then answers; its n-th episode answers the n-th of some answers, in turn."""

    name = "scripted"

    def __init__(self, answers, act="<search> Velm </search>"):
        self.answers, self.act_text = answers, act
        self.begun, self.slots = 0, {}

    def begin(self, slots):
        for slot in slots:
            self.slots[slot] = [self.begun, 0]
            self.begun += 1

    def fork(self, source, targets):
        for target in targets:
            self.slots[target] = [self.slots[target][0], self.slots[source][1]]

    def resume(self, slot, prefix, fork_round):
        self.slots[slot][1] = fork_round

    def act(self, slots, observations, infos):
        acts = []
        for slot in slots:
            number, done = self.slots[slot]
            self.slots[slot][1] += 1
            text = (
                self.act_text
                if done == 0
                else f"<answer> {self.answers[number % len(self.answers)]} </answer>"
            )
            acts.append(Turn(text, token_ids=[1], logprobs=[-1.0]))
        return acts


class Stuck(Scripted):
    """Cannot continue a recorded episode."""

    resume = Agent.resume


class Watching:
    """A judge that keeps what it is shown, and prefers messages that contain a word."""

    name = "watching"

    def __init__(self, word="", fails=False):
        self.word, self.fails, self.seen = word, fails, []

    def judge(self, traces):
        self.seen += traces
        if self.fails:
            return [Verdict.error("no reply") for _ in traces]
        return [Verdict.ok(0.0, float(self.word in trace.rounds[-1].text)) for trace in traces]


def search(agent, options, episodes=2, **arguments):
    return evaluate_search("SearchQA-v0", agent, options, episodes, corpus=WORLD, num_envs=8, **arguments)


def answers(result):
    return [episode.outcome.answer for episode in result.episodes]


def test_the_majority_decides():
    result = search(Scripted(["a", "b", "B.", "c"]), SearchOptions(n=4))
    assert answers(result) == ["b", "b"]  # the first of those with the most frequent normalized answer
    cost = {name: result.search[name] for name in ("episodes", "searches", "tokens", "judgements")}
    assert cost == {"episodes": 4.0, "searches": 4.0, "tokens": 8.0, "judgements": 0.0}
    assert result.search["upper_bound"] is False
    assert (result.questions, result.samples) == (2, 1)


def test_samples_that_are_all_alike_are_counted():
    assert search(Scripted(["a", "b"]), SearchOptions(n=2)).search["alike"] == 0.0
    assert search(Scripted(["a"]), SearchOptions(n=2)).search["alike"] == 1.0


def test_the_command_says_that_a_search_chose_nothing(capsys):
    command = ["eval", "--agent", "copy", "--search", "best-of-n", "--episodes", "2", "--corpus"]
    assert main([*command, json.dumps(WORLD)]) == 0
    assert "the agent does not sample" in capsys.readouterr().out


def test_episodes_without_an_answer_do_not_vote():
    result = search(Scripted(["a", "", "", ""]), SearchOptions(n=4), episodes=1)
    assert answers(result) == ["a"]


def test_a_judge_decides_and_sees_no_gold():
    judge = Watching("good")
    result = search(
        Scripted(["bad", "good", "bad"]), SearchOptions(n=3, selector="judge"), judge=judge, judge_when="end"
    )
    assert answers(result) == ["good", "good"]
    assert result.search["judgements"] == 6.0
    assert result.judged == {}  # the environment did not ask it, too
    for trace in judge.seen:
        assert (trace.question.answers, trace.question.supporting_ids, trace.question.chain) == ((), (), ())
        assert all(
            (r.outcome, r.gold, r.reward, r.reward_terms) == (None, None, 0.0, {}) for r in trace.rounds
        )


def test_a_judge_chooses_every_act():
    agent = Scripted(["bad", "bad", "good", "bad"])
    judge = Watching("good")
    result = search(agent, SearchOptions("value-guided", 4, "judge"), 1, judge=judge, judge_when="end")
    assert answers(result) == ["good"]
    (chosen,) = result.episodes
    assert [record.action.kind for record in chosen.rounds] == ["search", "answer"]
    assert result.search["episodes"] == 8.0  # four acts in each of two states
    assert (result.search["searches"], result.search["tokens"]) == (4.0, 8.0)


class Undecided(Scripted):
    """Every second episode answers at once."""

    def begin(self, slots):
        super().begin(slots)
        for slot in slots:
            self.slots[slot][1] = self.slots[slot][0] % 2


class Scores:
    """Gives a search u = 0.5 and v = 1, and an answer v = 0.7, as a step reward model does."""

    name = "scores"

    def judge(self, traces):
        answers = [trace.rounds[-1].action.kind == "answer" for trace in traces]
        return [Verdict.ok(0.0, 0.7) if answer else Verdict.ok(0.5, 1.0) for answer in answers]


def test_searches_and_answers_are_compared_by_the_score_of_a_reward_model():
    options = SearchOptions("value-guided", 2, "judge")
    result = search(Undecided(["x", "y"]), options, 1, judge=Scores(), judge_when="end")
    assert [len(episode.rounds) for episode in result.episodes] == [1]


def test_failed_verdicts_leave_the_first_sample():
    judge = Watching(fails=True)
    result = search(Scripted(["a", "b"]), SearchOptions(n=2, selector="judge"), judge=judge, judge_when="end")
    assert answers(result) == ["a", "a"]


def test_agreement_counts_what_continuations_answer():
    result = search(
        Scripted(["x", "y", "y", "x", "y"]), SearchOptions("value-guided", 2, "agreement", 3), episodes=1
    )
    assert result.search["episodes"] == 2 + 2 * 3 + 2  # acts, their continuations, and answers
    assert answers(result)[0] in ("x", "y")


def test_votes_by_hand():
    class Played:
        valid_for_training = True

        def __init__(self, answer):
            self.outcome = type("Outcome", (), {"answer": answer})

    x, y, none = Played("x"), Played("y"), Played("")
    assert _votes_for([x, y, y, none], [[x, y], [y, none]]) == [0.5, 0.5]
    assert _votes_for([x, y], [[x], [y]]) == [1.0, 0.0]  # ties: the first
    assert _votes_for([none], [[none]]) == [None]


def test_the_oracle_is_an_upper_bound():
    class Knows(Scripted):
        """Every third episode answers right."""

        needs_gold = True

        def act(self, slots, observations, infos):
            golds = {slot: info["gold"]["answers"][0] for slot, info in zip(slots, infos, strict=True)}
            turns = super().act(slots, observations, infos)
            for slot, turn in zip(slots, turns, strict=True):
                turn.text = turn.text.replace("GOLD", golds[slot])
            return turns

    for method in ("best-of-n", "value-guided"):
        result = search(Knows(["no", "no", "GOLD"]), SearchOptions(method, 3, "oracle", 3))
        assert result.metrics["em"].value == 1.0
        assert result.search["upper_bound"] is True


@pytest.mark.parametrize(
    ("agent", "options", "arguments", "message"),
    [
        (Scripted(["a"]), {"selector": "judge"}, {}, "needs a judge"),
        (Scripted(["a"]), {"selector": "judge"}, {"judge": "oracle", "judge_when": "end"}, "must not see"),
        (Stuck(["a"]), {"method": "value-guided", "selector": "agreement"}, {}, "use best-of-n"),
    ],
)
def test_what_is_refused_before_anything_is_played(agent, options, arguments, message):
    with pytest.raises(ConfigError, match=message):
        search(agent, SearchOptions(**options), **arguments)
    assert agent.begun == 0


def test_a_function_can_be_sampled():
    assert search(lambda observation, info: "<answer> a </answer>", SearchOptions(), 1).questions == 1


def test_a_greedy_agent_is_refused():
    agent = Scripted(["a"])
    agent.greedy = True
    with pytest.raises(ConfigError, match="greedy"):
        search(agent, SearchOptions())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "best-of-n", "selector": "agreement"}, "does not go with"),
        ({"method": "value-guided", "selector": "majority"}, "does not go with"),
        ({"method": "beam"}, "beam"),
        ({"n": 1}, "n is 1"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(searchgym.SearchGymError, match=message):
        SearchOptions(**options)


def test_infrastructure_failures_are_not_chosen():
    class Failing(Scripted):
        def act(self, slots, observations, infos):
            turns = super().act(slots, observations, infos)
            for slot, turn in zip(slots, turns, strict=True):
                if self.slots[slot][0] % 3 == 0:
                    turn.stop = searchgym.StopReason.AGENT_FAILED
            return turns

    result = search(Failing(["a", "b", "c"]), SearchOptions(n=3))
    assert answers(result) == ["b", "b"]
    assert result.failed == 0


def test_the_command_reports_the_cost(cli):
    arguments = [
        "eval",
        "--corpus",
        json.dumps(WORLD),
        "--agent",
        "random",
        "--episodes",
        "3",
        "--search",
        "best-of-n",
    ]
    shown = cli(*arguments, "--search-n", "3", "--search-selector", "oracle").out
    assert "UPPER BOUND" in shown
    assert "per question 3.0 episodes" in shown
    found = json.loads(cli(*arguments, "--json").out)
    assert found["search"]["selector"] == "majority"
    assert found["search"]["episodes"] == 4.0
    assert "search" not in json.loads(
        cli("eval", "--corpus", json.dumps(WORLD), "--episodes", "3", "--json").out
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--search-n", "3"], "--search-n 3 needs --search"),
        (["--search-selector", "oracle"], "--search-selector oracle needs --search"),
        (["--search", "best-of-n", "--search-continuations", "2"], "--search-continuations 2 has no effect"),
    ],
)
def test_options_without_effect_are_refused(cli, given, says):
    result = cli("eval", "--corpus", json.dumps(WORLD), "--agent", "random", *given)
    assert result.status == 2
    assert says in result.err
