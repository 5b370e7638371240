"""The candidate policy: what it chooses among, that its probabilities are exact, and that it keeps its word."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from searchgym.agent import AgentContext, Turn
from searchgym.agents.candidate.agent import CONFIG_FILE, WEIGHTS_FILE, CandidateAgent
from searchgym.agents.candidate.features import (
    FEATURES,
    FEEDBACK_FEATURES,
    GENERIC,
    KINDS,
    WIDTH,
    CandidateSet,
    add_feedback,
    list_candidates,
)
from searchgym.agents.policy import Sample
from searchgym.dialects import DIALECTS, Act, get_dialect
from searchgym.env.env import SearchEnv
from searchgym.env.feedback import FEEDBACK_LEVELS
from searchgym.errors import CheckpointError, ConfigError
from searchgym.records.episode import Episode
from searchgym.records.question import find_passage
from searchgym.records.retriever import Hit
from searchgym.rollouts.collection import rollout
from searchgym.scoring import exact_match

TAGS = get_dialect("tags")
QUESTION = "Mira Vogack : mentor : birthplace ?"
MIRA = Hit(
    "1",
    "Mira Vogack",
    "Mira Vogack is painter ; born 1893 ; mentor Jan Kerberg (poet) ; birthplace Oldmoor",
    3.0,
)
OTTO = Hit(
    "2", "Otto Vogack", "Otto Vogack is poet ; mentor Ida Barberg ; films Copper Lantern , Idle River", 2.0
)
JAN = Hit("3", "Jan Kerberg (poet)", "Jan Kerberg is poet ; born 1860 ; birthplace Oldmoor", 3.0)
FIRST = TAGS.render_hits([MIRA, OTTO], 9_999)
SECOND = TAGS.render_hits([JAN], 9_999)


@pytest.fixture(scope="module", params=["SearchQA-Terse-v0", "SearchQA-v0"])
def episodes(request: pytest.FixtureRequest) -> list[Episode]:
    agent = CandidateAgent(seed=3, init_std=0.5)
    agent.temperature = 1.3
    return rollout(request.param, agent, 60, max_rounds=5)


def features(choice: CandidateSet, phrase: str) -> list[set[str]]:
    """The features of every occurrence of a phrase."""
    return [
        {FEATURES[i] for i in np.flatnonzero(row)}
        for row, p in zip(choice.rows_PF, choice.phrases, strict=True)
        if p == phrase
    ]


def samples(episodes: list[Episode]) -> list[Sample]:
    return [Sample(e, s) for e in episodes for s in e.segments]


class TestCandidates:
    def test_are_read_from_texts_and_from_nothing_else(self) -> None:
        assert list(inspect.signature(list_candidates).parameters) == ["question", "queries", "observations"]
        assert not CandidateAgent.needs_gold

    def test_before_the_first_search(self) -> None:
        choice = list_candidates(QUESTION, (), ())
        assert choice.phrases[:6] == (QUESTION, "Mira Vogack", "mentor", "birthplace", "Mira", "Vogack")
        assert choice.phrases[6:] == GENERIC
        assert len(choice) == 2 * 16
        assert choice.act(1) == Act("search", queries=("Mira Vogack",))
        assert choice.act(16 + 1) == Act("answer", answer="Mira Vogack")
        assert features(choice, "Mira Vogack") == [
            {
                "any",
                "part of the question",
                "name in the question",
                "first name in the question",
                "no search yet",
                "fewer searches than relations",
            }
        ]

    def test_of_a_search_result(self) -> None:
        choice = list_candidates(QUESTION, ("Mira Vogack",), (FIRST,))
        assert choice.phrases[16:] == (
            *("Mira Vogack", "Mira Vogack", "1893", "Jan Kerberg (poet)", "Oldmoor"),
            *("Otto Vogack", "Otto Vogack", "Ida Barberg", "Copper Lantern", "Idle River"),
        )
        turn, late = (
            "after the relation whose turn it is",
            "after the relation whose turn it is, from the end",
        )
        (jan,), (ida,), (oldmoor,) = (
            features(choice, p) for p in ("Jan Kerberg (poet)", "Ida Barberg", "Oldmoor")
        )
        assert jan - ida == {"on the best-ranked page", "on the page that was asked for"}
        assert turn in jan
        assert turn in ida
        assert turn not in oldmoor
        assert late in oldmoor
        assert "after a relation of the question" in oldmoor
        assert "after a relation of the question" not in features(choice, "Idle River")[0]
        assert all("searched before" in f for f in features(choice, "Mira Vogack"))
        assert "page title" in features(choice, "Mira Vogack")[1]
        assert "number" in features(choice, "1893")[0]

    def test_of_the_second_result(self) -> None:
        choice = list_candidates(QUESTION, ("Mira Vogack", "Jan Kerberg (poet)"), (FIRST, SECOND))
        (oldmoor,) = features(choice, "Oldmoor")
        assert {"after the relation whose turn it is", "on the page that was asked for"} < oldmoor
        assert "stands in an earlier result too" in oldmoor
        assert "stands in an earlier result too" not in features(choice, "1860")[0]
        assert "Copper Lantern" not in choice.phrases  # only the newest result's phrases are offered
        assert (
            not {"no search yet", "fewer searches than relations", "more searches than relations"} & oldmoor
        )

    def test_a_list_shares_the_words_before_it(self) -> None:
        choice = list_candidates("Otto Vogack : films ?", ("Otto Vogack",), (FIRST,))
        for film in ("Copper Lantern", "Idle River"):
            assert "after a relation of the question" in features(choice, film)[0]

    def test_a_relation_asked_twice_has_two_turns(self) -> None:
        question = "Mira Vogack : mentor : mentor ?"
        for searches in (1, 2):
            choice = list_candidates(question, ("x",) * searches, (SECOND,) * (searches - 1) + (FIRST,))
            assert "after the relation whose turn it is" in features(choice, "Ida Barberg")[0]

    def test_an_empty_or_invalid_round_leaves_the_questions_candidates(self) -> None:
        for nothing in (TAGS.render_hits([], 99), TAGS.render_invalid("no_act", feedback=False)):
            assert (
                list_candidates(QUESTION, (), (nothing,)).phrases == list_candidates(QUESTION, (), ()).phrases
            )

    def test_are_at_least_twenty_in_every_round(self, episodes: list[Episode]) -> None:
        assert min(len(list_candidates(e.question, (), ())) for e in episodes) >= 20

    @given(text=st.text(st.characters(), max_size=60), observation=st.text(st.characters(), max_size=80))
    def test_any_text_gives_candidates(self, text: str, observation: str) -> None:
        choice = list_candidates(text, ("q",), (f"<information>\n[1] {observation}\n</information>",))
        assert len(choice) >= 2 * len(GENERIC)
        assert choice.rows_PF.shape == (len(choice.phrases), WIDTH)
        assert set(np.unique(choice.rows_PF)) <= {0, 1}
        assert all(choice.phrases)

    def test_no_feature_tells_the_answer_by_itself(self) -> None:
        """Along the gold path of a hundred questions, every feature of right answers is also one of wrong answers."""
        env = SearchEnv(corpus="country-terse", split="dev", types=["chain"], hops=[2, 3])
        wrong = np.zeros(WIDTH, dtype=np.int64)
        right = np.zeros(WIDTH, dtype=np.int64)
        for task in env.task_ids()[:100]:
            env.reset(options={"task_id": task})
            question = env.corpus.question(task)
            queries: tuple[str, ...] = ()
            seen: tuple[str, ...] = ()
            for hop in question.chain:
                queries += (hop.query,)
                seen += (env.step(env.dialect.write(Act("search", queries=(hop.query,))))[0],)
                choice = list_candidates(question.text, queries, seen)
                answers = np.array([exact_match(p, question.answers) == 1.0 for p in choice.phrases])
                right += choice.rows_PF[answers].sum(axis=0, dtype=np.int64)
                wrong += choice.rows_PF[~answers].sum(axis=0, dtype=np.int64)
        assert right[FEATURES.index("after the relation whose turn it is")] >= 95
        assert (wrong[right > 0] > right[right > 0]).all()


class TestProbabilities:
    def test_recorded_and_evaluated_agree(self, episodes: list[Episode]) -> None:
        agent = CandidateAgent(seed=3, init_std=0.5)
        agent.temperature = 1.3
        given = samples(episodes)
        outputs = agent.evaluate_tokens(given)
        recorded = [p for s in given for p in s.segment.logprobs]
        assert len(recorded) == sum(len(e.rounds) for e in episodes)
        torch.testing.assert_close(outputs.logprobs_N, torch.tensor(recorded))
        assert outputs.hidden_N.shape == (len(recorded), 2 * WIDTH)
        assert outputs.hidden_N is outputs.hidden_N, "computed once"
        rows_PF = list_candidates(episodes[0].question, (), ()).rows_PF.astype(np.float32)
        first = np.concatenate([rows_PF.mean(axis=0), rows_PF.max(axis=0)])
        torch.testing.assert_close(outputs.hidden_N[0], torch.from_numpy(first))
        one_by_one = torch.cat([agent.evaluate_tokens([s]).logprobs_N for s in given])
        torch.testing.assert_close(outputs.logprobs_N, one_by_one)

    def test_against_a_plain_softmax(self, episodes: list[Episode]) -> None:
        agent = CandidateAgent(seed=5, init_std=1.0)
        agent.temperature = 0.7
        given = samples(episodes)[:20]
        outputs = agent.evaluate_tokens(given)
        weights = agent.module.weight.detach().double().numpy()
        n = 0
        for sample in given:
            queries: tuple[str, ...] = ()
            observations: tuple[str, ...] = ()
            for token, done in zip(sample.segment.tokens, sample.episode.rounds, strict=True):
                choice = list_candidates(sample.episode.question, queries, observations)
                scores = np.concatenate([choice.rows_PF @ weights[0], choice.rows_PF @ weights[1]]) / 0.7
                p = np.exp(scores - scores.max())
                p /= p.sum()
                assert outputs.logprobs_N[n].item() == pytest.approx(math.log(p[token]), abs=1e-4)
                assert outputs.entropy_N[n].item() == pytest.approx(-(p * np.log(p)).sum(), abs=1e-4)
                assert TAGS.write(choice.act(token)) == done.text
                queries, observations = (*queries, *done.action.queries), (*observations, done.observation)
                n += 1
        assert n == len(outputs.logprobs_N)

    def test_gradients(self, episodes: list[Episode]) -> None:
        """d log π(c) / dw = φ(c) - E φ: zero-mean under the policy, checked against finite differences."""
        agent = CandidateAgent(seed=5, init_std=1.0)
        given = samples(episodes)[:3]

        def value() -> torch.Tensor:
            outputs = agent.evaluate_tokens(given)
            return outputs.logprobs_N.sum() + outputs.entropy_N.sum()

        value().backward()
        gradient = agent.module.weight.grad
        assert gradient is not None
        assert torch.isfinite(gradient).all()
        for kind, feature in ((0, 0), (1, 7), (0, 8)):
            with torch.no_grad():
                agent.module.weight[kind, feature] += 1e-2
                above = value()
                agent.module.weight[kind, feature] -= 2e-2
                below = value()
                agent.module.weight[kind, feature] += 1e-2
            assert gradient[kind, feature].item() == pytest.approx((above - below).item() / 2e-2, abs=5e-3)

    def test_the_untrained_policy_is_uniform_and_poor(self) -> None:
        played = rollout("SearchQA-Terse-v0", "candidate", 300)
        for episode in played:
            candidates = len(list_candidates(episode.question, (), ()))
            assert episode.segments[0].logprobs[0] == pytest.approx(-math.log(candidates), abs=1e-5)
        assert sum(e.outcome.em for e in played) / len(played) <= 0.05

    def test_no_samples(self) -> None:
        outputs = CandidateAgent().evaluate_tokens([])
        assert outputs.logprobs_N.shape == outputs.entropy_N.shape == (0,)
        assert outputs.hidden_N.shape == (0, 2 * WIDTH)


class TestPlaying:
    @staticmethod
    def bound(**options: float) -> CandidateAgent:
        agent = CandidateAgent(**options)  # type: ignore[arg-type]
        env = SearchEnv(corpus="country-terse")
        agent.bind(AgentContext(env.dialect, env.system_prompt, env.corpus, 8))
        return agent

    @staticmethod
    def act(
        agent: CandidateAgent, slots: list[int], text: str, queries: list[str] | None = None
    ) -> list[Turn]:
        info = {} if queries is None else {"action": {"kind": "search", "queries": queries}}
        turns = agent.act(slots, [text] * len(slots), [info] * len(slots))
        return [t for t in turns if isinstance(t, Turn)]

    def test_twin_runs_are_equal_and_seeds_differ(self) -> None:
        def texts(seed: int, num_envs: int = 8) -> list[str]:
            played = rollout("SearchQA-Terse-v0", CandidateAgent(seed), 30, num_envs=num_envs)
            return [r.text for e in played for r in e.rounds]

        assert texts(1) == texts(1)
        assert texts(1) != texts(2)

    def test_greedy_takes_the_most_likely_and_needs_no_randomness(self) -> None:
        agent = self.bound(seed=0, init_std=1.0)
        agent.greedy = True
        state = agent.generator.get_state()
        agent.begin([0])
        (turn,) = self.act(agent, [0], QUESTION)
        choice = list_candidates(QUESTION, (), ())
        scores = torch.from_numpy(choice.rows_PF.astype(np.float32)) @ agent.module.weight.detach().T
        assert turn.token_ids == [int(scores.T.flatten().argmax())]
        assert torch.equal(state, agent.generator.get_state())

    def test_top_p_draws_from_the_nucleus(self) -> None:
        agent = self.bound(seed=0)
        with torch.no_grad():
            agent.module.weight[0, FEATURES.index("first name in the question")] = 5.0
        agent.top_p = 0.5
        agent.begin(range(200))
        assert {t.text for t in self.act(agent, list(range(200)), QUESTION)} == {
            "<search> Mira Vogack </search>"
        }
        agent.top_p = 1.0
        agent.begin(range(200))
        assert len({t.text for t in self.act(agent, list(range(200)), QUESTION)}) > 5

    def test_turns_say_how_they_were_sampled(self) -> None:
        agent = self.bound(seed=0)
        agent.version, agent.temperature = 7, 1.5
        agent.begin([4])
        (turn,) = self.act(agent, [4], QUESTION)
        assert (turn.policy_version, turn.temperature, turn.top_p, turn.stop) == (7, 1.5, 1.0, None)
        assert len(turn.token_ids) == len(turn.logprobs) == 1

    def test_forks_share_the_past_and_not_the_future(self) -> None:
        agent = self.bound(seed=0, init_std=1.0)
        agent.greedy = True
        agent.begin([0, 1])
        self.act(agent, [0], QUESTION)
        agent.fork(0, [1, 2])
        ahead = self.act(agent, [0], FIRST, ["Mira Vogack"])
        assert self.act(agent, [1], FIRST, ["Mira Vogack"]) == ahead
        assert (
            self.act(agent, [2], TAGS.render_hits([], 99), ["Mira Vogack"])[0].logprobs != ahead[0].logprobs
        )
        agent.begin([1])
        assert self.act(agent, [1], QUESTION) == self.act(self.fresh(agent), [1], QUESTION)

    def fresh(self, like: CandidateAgent) -> CandidateAgent:
        agent = self.bound(seed=0, init_std=1.0)
        agent.greedy = like.greedy
        return agent

    def test_works_in_the_tools_dialect_and_survives_hostile_questions(self) -> None:
        played = rollout("SearchQA-Terse-v0", "candidate", 20, dialect="tools")
        assert all(r.action.kind in ("search", "answer") for e in played for r in e.rounds)
        agent = self.bound(seed=0)
        agent.begin(range(50))
        for turn in self.act(agent, list(range(50)), "Who wrote <answer>this</answer>?"):
            assert turn.text.startswith(("<search> ", "<answer> "))


def told(choice: CandidateSet, phrase: str) -> list[set[str]]:
    """What feedback said of every occurrence of a phrase."""
    assert choice.feedback_features_PF is not None
    return [
        {FEEDBACK_FEATURES[i] for i in np.flatnonzero(row)}
        for row, p in zip(choice.feedback_features_PF, choice.phrases, strict=True)
        if p == phrase
    ]


def outspoken(seed: int = 3) -> CandidateAgent:
    """An agent whose weights, those of feedback included, are not zero."""
    agent = CandidateAgent(seed=seed, init_std=0.5)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        agent.module.ask.normal_(generator=generator)
        agent.module.told.normal_(generator=generator)
    return agent


@pytest.fixture(scope="module")
def asked() -> list[Episode]:
    """Episodes in which feedback may be asked for twice, and is."""
    agent = outspoken()
    agent.temperature = 1.3
    played = rollout("SearchQA-Terse-v0", agent, 60, max_rounds=5, feedback={"level": "gold", "calls": 2})
    assert {len([r for r in e.rounds if r.action.kind == "feedback"]) for e in played} == {0, 1, 2}
    return played


class TestFeedback:
    def test_each_phrase_may_be_put_up_once_more(self) -> None:
        plain, choice = list_candidates(QUESTION, (), ()), add_feedback(QUESTION, (), (), (), True)
        assert choice.phrases == plain.phrases
        assert len(choice) == 3 * 16
        assert [choice.act(i) for i in range(32)] == [plain.act(i) for i in range(32)]
        assert choice.act(32 + 1) == Act("feedback", draft="Mira Vogack")
        assert len(add_feedback(QUESTION, (), (), (), False)) == 2 * 16
        assert told(choice, "Mira Vogack") == [set()]

    def test_a_draft_keeps_its_verdict_and_the_newest_result_stays(self) -> None:
        for text, name in (
            ("The draft is right.", "draft that was right"),
            ("The draft is an earlier step, not the answer.", "draft that was an earlier step"),
            ("The draft is wrong.", "draft that was wrong"),
        ):
            feedback_history = (("Oldmoor", TAGS.render_feedback(text)),)
            choice = add_feedback(QUESTION, ("Mira Vogack",), (FIRST,), feedback_history, False)
            assert told(choice, "Oldmoor") == [{"feedback was given", name}]
            assert set.union(*told(choice, "Jan Kerberg (poet)")) == {"feedback was given"}

    @pytest.mark.parametrize("dialect", sorted(DIALECTS))
    @pytest.mark.parametrize("level", FEEDBACK_LEVELS)
    def test_what_the_environment_says_is_read(self, level: str, dialect: str) -> None:
        env = SearchEnv(
            corpus="country-terse",
            split="dev",
            types=["chain"],
            hops=[2],
            dialect=dialect,
            feedback={"level": level, "calls": 1},
        )
        for task in env.task_ids()[:30]:
            env.reset(options={"task_id": task})
            question = env.corpus.question(task)
            text = env.step(env.dialect.write(Act("feedback", draft="unknown")))[0]
            choice = add_feedback(question.text, (), (), (("unknown", text),), False)
            assert "draft that was wrong" in told(choice, "unknown")[0]
            named = {
                p
                for p in choice.phrases
                if any("named by the feedback" in marks for marks in told(choice, p))
            }
            first = find_passage(env.corpus, question.supporting_ids[0]).title
            assert named == {"gold": {question.answers[0]}, "revealing": {first}}.get(level, set())
            for phrase in named:
                (new,) = [f for f in features(choice, phrase) if not {"name in the question"} & f]
                assert new == {"any", "no search yet", "fewer searches than relations"} | (
                    {"number"} if phrase[0].isdigit() else set()
                )

    def test_of_a_right_draft_an_earlier_step_and_everything_found(self) -> None:
        env = SearchEnv(
            corpus="country-terse",
            split="dev",
            types=["chain"],
            hops=[2],
            feedback={"level": "hop", "calls": 9},
        )
        task = env.task_ids()[0]
        env.reset(options={"task_id": task})
        question = env.corpus.question(task)
        bridge, answer = question.chain[0].bridge, question.answers[0]

        def verdict(draft: str) -> set[str]:
            text = env.step(TAGS.write(Act("feedback", draft=draft)))[0]
            choice = add_feedback(f"{question.text} {draft}", (), (), ((draft, text),), True)
            return set.union(*told(choice, draft)) - {"feedback was given"}

        assert verdict(answer) == {"draft that was right"}
        assert verdict(bridge) == {"draft that was an earlier step"}
        for hop in question.chain:
            env.step(TAGS.write(Act("search", queries=(hop.query,))))
        assert verdict("unknown") == {"draft that was wrong", "everything needed has been found"}

    def test_is_asked_for_as_often_as_allowed_and_nowhere_else(self, asked: list[Episode]) -> None:
        kinds = {r.action.kind for e in asked for r in e.rounds}
        assert kinds == {"search", "answer", "feedback"}
        plain = rollout("SearchQA-Terse-v0", outspoken(), 60)
        assert {r.action.kind for e in plain for r in e.rounds} == {"search", "answer"}

    def test_recorded_evaluated_and_plain_softmax_agree(self, asked: list[Episode]) -> None:
        agent = outspoken()
        agent.temperature = 1.3
        mixed = [*rollout("SearchQA-Terse-v0", agent, 10), *asked]  # some with, some without the act
        outputs = agent.evaluate_tokens(samples(mixed))
        recorded = torch.tensor([p for s in samples(mixed) for p in s.segment.logprobs])
        torch.testing.assert_close(outputs.logprobs_N, recorded)
        assert outputs.hidden_N.shape == (len(recorded), 2 * WIDTH)
        base, ask, extra = (
            p.detach().double().numpy() for p in (agent.module.weight, agent.module.ask, agent.module.told)
        )
        n = len(recorded) - sum(len(e.rounds) for e in asked)
        for episode in asked:
            queries: tuple[str, ...] = ()
            observations: tuple[str, ...] = ()
            feedback_history: tuple[tuple[str, str], ...] = ()
            for token, done in zip(episode.segments[0].tokens, episode.rounds, strict=True):
                choice = add_feedback(
                    episode.question, queries, observations, feedback_history, len(feedback_history) < 2
                )
                assert choice.feedback_features_PF is not None
                weights = [*base, ask[0]][: choice.kinds]
                scores = np.concatenate(
                    [
                        choice.rows_PF @ w + choice.feedback_features_PF @ v
                        for w, v in zip(weights, extra[: choice.kinds], strict=True)
                    ]
                )
                p = np.exp(scores / 1.3 - (scores / 1.3).max())
                p /= p.sum()
                assert len(p) == len(choice)
                assert outputs.logprobs_N[n].item() == pytest.approx(math.log(p[token]), abs=1e-4)
                assert TAGS.write(choice.act(token)) == done.text
                if done.action.kind == "feedback":
                    feedback_history = (*feedback_history, (done.action.draft, done.observation))
                else:
                    queries = (*queries, *done.action.queries)
                    observations = (*observations, done.observation)
                n += 1
        assert n == len(recorded)

    def test_where_it_is_not_offered_its_weights_play_no_part(self, episodes: list[Episode]) -> None:
        agent, plain = outspoken(), CandidateAgent(seed=3, init_std=0.5)
        outputs = agent.evaluate_tokens(samples(episodes))
        assert torch.equal(outputs.logprobs_N, plain.evaluate_tokens(samples(episodes)).logprobs_N)
        outputs.logprobs_N.sum().backward()
        assert agent.module.weight.grad is not None
        assert agent.module.ask.grad is None  # not zero but none: an optimizer leaves such weights alone
        assert agent.module.told.grad is None

    def test_where_it_is_offered_they_learn(self, asked: list[Episode]) -> None:
        agent = outspoken()
        agent.evaluate_tokens(samples(asked)).logprobs_N.sum().backward()
        for weights in agent.module.parameters():
            assert weights.grad is not None
            assert weights.grad.abs().sum() > 0.0

    def test_recorded_acts_are_encoded(self, asked: list[Episode]) -> None:
        agent = CandidateAgent()
        for episode in asked:
            (segment,) = agent.encode(episode)
            assert segment.rounds == list(range(len(episode.rounds)))
            kinds = [KINDS[t // p] for t, p in zip(segment.tokens, self.phrases(episode), strict=True)]
            assert kinds == [r.action.kind for r in episode.rounds]
            recorded = Sample(episode, episode.segments[0])
            # The same acts, each taken where its phrase stands first; the zero weights make no difference.
            torch.testing.assert_close(
                agent.evaluate_tokens([Sample(episode, segment)]).logprobs_N,
                agent.evaluate_tokens([recorded]).logprobs_N,
            )

    @staticmethod
    def phrases(episode: Episode) -> list[int]:
        """How many phrases each round had to choose among, from the uniform policy's log-probabilities."""
        logprobs = CandidateAgent().evaluate_tokens(samples([episode])).logprobs_N.double().exp()
        found, left = [], 2
        for round_, p in zip(episode.rounds, logprobs.tolist(), strict=True):
            found.append(round(1.0 / p / (3 if left else 2)))
            left -= round_.action.kind == "feedback"
        return found

    def test_an_episode_without_the_act_has_none_to_encode(self, asked: list[Episode]) -> None:
        (episode,) = [e for e in asked if e.rounds[0].action.kind == "feedback"][:1]
        moved = Episode.from_json({**episode.to_json(), "env": {**episode.env, "feedback_calls": 0}})
        (segment,) = CandidateAgent().encode(moved)
        assert 0 not in segment.rounds


class TestFiles:
    def test_save_and_load(self, tmp_path: Path) -> None:
        agent, other = outspoken(), CandidateAgent()
        agent.save(tmp_path / "policy")
        other.load_weights(tmp_path / "policy")
        saved, loaded = agent.module.state_dict(), other.module.state_dict()
        assert set(saved) == {"weight", "ask", "told"}
        assert all(torch.equal(saved[name], loaded[name]) for name in saved)
        assert other.describe() == json.loads(json.dumps(agent.describe()))
        assert other.describe()["weights"] == sum(p.numel() for p in other.module.parameters())

    def test_refuses_what_does_not_fit_and_stays_as_it_was(self, tmp_path: Path) -> None:
        agent = CandidateAgent(init_std=1.0)
        before = agent.module.weight.clone()
        agent.save(tmp_path)
        config, weights = tmp_path / CONFIG_FILE, tmp_path / WEIGHTS_FILE
        good = config.read_bytes(), weights.read_bytes()
        spoiled = {
            "does not hold weights": [(b"{", good[1]), (good[0], good[1][:40]), (good[0], b"")],
            "weights for other features": [(good[0].replace(b"any", b"all"), good[1]), (b"[]", good[1])],
        }
        for message, files in spoiled.items():
            for pair in files:
                config.write_bytes(pair[0])
                weights.write_bytes(pair[1])
                with pytest.raises(CheckpointError, match=message):
                    agent.load_weights(tmp_path)
        with pytest.raises(CheckpointError, match="does not hold weights"):
            agent.load_weights(tmp_path / "nowhere")
        broken = CandidateAgent()
        with torch.no_grad():
            broken.module.weight[0, 0] = torch.nan
        broken.save(tmp_path)
        with pytest.raises(CheckpointError, match="not finite"):
            agent.load_weights(tmp_path)
        assert torch.equal(agent.module.weight, before)

    def test_options(self) -> None:
        with pytest.raises(ConfigError, match="init_std is -1"):
            CandidateAgent(init_std=-1)
        assert not any(p.any() for p in CandidateAgent(seed=9).module.parameters())
