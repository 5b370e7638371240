"""The controls: gold tests the scorer, the oracle tests world, index and scorer together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from searchgym.agent import AgentContext
from searchgym.agents.scripted import CopyAgent, GoldAgent, OracleAgent, RandomAgent
from searchgym.corpora import open_bm25
from searchgym.corpora.world import World
from searchgym.env.env import SearchEnv
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode
from searchgym.records.question import Corpus, Hop, Passage, Question
from searchgym.records.retriever import Hit, Retriever, SearchResult
from searchgym.rollouts.collection import rollout

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
STYLES = ["terse", "encyclopedia"]


class ListCorpus:
    """A hand-made corpus."""

    name, hash = "list", "0"

    def __init__(self, passages: Sequence[Passage], questions: Sequence[Question]) -> None:
        self.passages, self._questions = list(passages), list(questions)

    splits = ("train",)

    def questions(self, split: str) -> list[Question]:
        return self._questions

    def question(self, task_id: str) -> Question:
        return next(q for q in self._questions if q.id == task_id)


class ShuffledRetriever:
    """Finds with the true index and shows other passages: the answer to a search no longer says anything."""

    def __init__(self, retriever: Retriever, corpus: Corpus) -> None:
        self._inner, self._passages = retriever, corpus.passages
        self.name, self.index_hash = "shuffled", "shuffled"

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        shuffled: list[SearchResult] = []
        for result in self._inner.search(queries, k):
            assert isinstance(result, list)
            moved = [self._passages[(int(h.id) * 7 + 311) % len(self._passages)] for h in result]
            shuffled.append([Hit(p.id, p.title, p.text, 1.0) for p in moved])
        return shuffled


def em(episodes: Sequence[Episode]) -> float:
    return sum(e.outcome.em for e in episodes) / len(episodes)


@pytest.fixture(scope="module", params=STYLES)
def env(request: pytest.FixtureRequest) -> SearchEnv:
    world = World(size=2_000, style=request.param, train=300, dev=300, test=20)
    return SearchEnv(corpus=world, retriever=open_bm25(world), split="dev")


@pytest.mark.parametrize("dialect", ["tags", "tools"])
def test_gold_and_oracle_are_always_right_in_the_world(env: SearchEnv, dialect: str) -> None:
    env = SearchEnv(corpus=env.corpus, retriever=env.retriever, split="dev", dialect=dialect)
    assert em(rollout(env, "gold", None)) == 1.0
    by_type = defaultdict(list)
    for episode in rollout(env, "oracle", None):
        by_type[episode.extra["type"]].append(episode)
        assert episode.outcome.searches == len(episode.gold["chain"])
        assert episode.outcome.recall == 1.0
    assert set(by_type) == {"chain", "comparison", "intersection", "obscured"}
    assert {kind: em(episodes) for kind, episodes in by_type.items()} == dict.fromkeys(by_type, 1.0)


def test_the_oracle_fails_on_a_shuffled_index(env: SearchEnv) -> None:
    shuffled = ShuffledRetriever(env.retriever, env.corpus)
    assert em(rollout(SearchEnv(corpus=env.corpus, retriever=shuffled, split="dev"), "oracle", None)) < 0.1


def test_baselines_earn_little(env: SearchEnv) -> None:
    assert em(rollout(env, "random", None)) <= 0.05
    assert em(rollout(env, "copy", None)) <= 0.25


def test_random_is_deterministic_and_seeded(env: SearchEnv) -> None:
    def texts(seed: int) -> list[str]:
        return [r.text for e in rollout(env, RandomAgent(seed), 20) for r in e.rounds]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


@pytest.mark.parametrize("dataset", ["hotpotqa", "2wiki"])
def test_gold_is_always_right_on_real_data(dataset: str) -> None:
    if not (DATA / dataset).is_dir():
        pytest.skip("the real data sets are not next to this checkout")
    from searchgym.corpora import open_jsonl

    class NoRetriever:
        name = index_hash = "none"

        def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
            raise AssertionError("the gold agent searched")

    corpus = open_jsonl(str(DATA / dataset))
    for split in corpus.splits:
        assert (
            em(rollout(SearchEnv(corpus=corpus, retriever=NoRetriever(), split=split), "gold", None)) == 1.0
        )


PASSAGES = [
    Passage("1", "Mira", "Mira is painter ; mentor Jan"),
    Passage("2", "Jan", "Jan is poet ; born 1893"),
]
CHAIN = (Hop("Mira", "mentor", ("1",), "Jan"), Hop("Jan", "born", ("2",), "1893"))


class ExactTitles:
    """Finds the passage whose title is the query; can be told to show nothing for some."""

    name = index_hash = "titles"

    def __init__(self, missing: str = "") -> None:
        self._missing = missing

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        return [[Hit(*self._fields(p), 1.0) for p in PASSAGES if p.title == q] for q in queries]

    def _fields(self, passage: Passage) -> tuple[str, str, str]:
        return passage.id, passage.title, "" if passage.title == self._missing else passage.text


def play(agent: str, question: Question, retriever: Retriever | None = None, **arguments: object) -> Episode:
    corpus = ListCorpus(PASSAGES, [question])
    env = SearchEnv(corpus=corpus, retriever=retriever or ExactTitles(), **arguments)
    return rollout(env, agent, 1)[0]


class TestOracle:
    question = Question("q", "Mira : mentor : born ?", ("1893",), "train", "chain", 2, ("1", "2"), CHAIN)

    def test_walks_the_chain(self) -> None:
        episode = play("oracle", self.question)
        assert [r.action.queries for r in episode.rounds] == [("Mira",), ("Jan",), ()]
        assert episode.outcome.answer == "1893"

    @pytest.mark.parametrize("missing", ["Mira", "Jan"])
    def test_does_not_know_what_it_was_not_shown(self, missing: str) -> None:
        assert play("oracle", self.question, ExactTitles(missing)).outcome.answer == "unknown"

    def test_takes_an_alternative_from_the_question(self) -> None:
        hops = (Hop("Jan", "born", ("2",), "1893"), Hop("Mira", "mentor", ("1",), "Jan"))
        question = Question("q", "Jan or Otto ?", ("Otto",), "train", "comparison", 2, ("2", "1"), hops)
        assert play("oracle", question).outcome.answer == "Otto"
        assert play("oracle", question, ExactTitles("Jan")).outcome.answer == "unknown"

    def test_needs_gold_sub_queries(self) -> None:
        bare = Question("q", "When?", ("1893",), "train")
        with pytest.raises(
            ConfigError, match=r"'list' has no gold sub-queries.*use the agent 'gold' or 'copy'"
        ):
            play("oracle", bare)

    def test_needs_enough_rounds(self) -> None:
        with pytest.raises(ConfigError, match=r"max_rounds is 2.*at least 3"):
            play("oracle", self.question, max_rounds=2)

    def test_forks_with_its_state(self) -> None:
        env = SearchEnv(corpus=ListCorpus(PASSAGES, [self.question]), retriever=ExactTitles())
        agent = OracleAgent()
        agent.bind(AgentContext(env.dialect, env.system_prompt, env.corpus, 8))
        agent.begin([0, 5])
        gold = {"answers": ["1893"], "chain": [{"query": h.query, "bridge": h.bridge} for h in CHAIN]}
        shown = env.dialect.render_hits([Hit("1", "Mira", PASSAGES[0].text, 1.0)], 999)
        assert agent.act([0], [self.question.text], [{"gold": gold}]) == ["<search> Mira </search>"]
        agent.fork(0, [5])
        assert agent.act([0, 5], [shown, shown], [{"gold": gold}] * 2) == ["<search> Jan </search>"] * 2
        agent.fork(0, [7])
        agent.begin([0])
        assert agent.act([7], ["nothing"], [{"gold": gold}]) == ["<answer> unknown </answer>"]


def test_controls_need_revealed_gold() -> None:
    env = SearchEnv(corpus=ListCorpus(PASSAGES, [TestOracle.question]), retriever=ExactTitles())
    observation, info = env.reset()
    agent = GoldAgent()
    agent.bind(AgentContext(env.dialect, env.system_prompt, env.corpus, 8))
    with pytest.raises(ConfigError, match="reveal_gold=True"):
        agent.act([0], [observation], [info])


@pytest.mark.parametrize(
    ("question", "shown", "answer"),
    [
        ("Are Oslo and Bergen cities?", "Oslo is one.", "yes"),
        ("Who is older, Mira Vogack or Jan Kerberg?", "Jan Kerberg met Mira Vogack.", "Jan Kerberg"),
        ("Who is older, Mira Vogack or Jan Kerberg?", "Nobody.", "Mira Vogack"),
        ("Of the Oldmoor Herald and Mira, which is older?", "Mira and the Oldmoor Herald", "Mira"),
        ("When was Mira born?", "Mira had 12 cats in 1931.", "1931"),
        ("How many cats had Mira?", "In 1931 Mira had 12 cats.", "12"),
        ("Where was Mira born?", "Mira was born in Oldmoor (town).", "Oldmoor (town)"),
        ("Where was Mira born?", "mira was nowhere.", "Mira"),
    ],
)
def test_what_copy_copies(question: str, shown: str, answer: str) -> None:
    block = f"<information>\n[1] Mira\n{shown}\n</information>"
    assert CopyAgent().copy(question, block) == answer


def test_copy_answers_when_nothing_was_found() -> None:
    question = Question("q", "two\nlines ?", ("x",), "train")
    episode = play("copy", question, max_queries=3)
    assert [r.action.kind for r in episode.rounds] == ["search", "answer"]
    assert episode.rounds[0].action.queries == ("two lines ?",)
    assert episode.outcome.answer == "unknown"
