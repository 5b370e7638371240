"""Memories and the agent that shows them: what is recalled, what the model reads, what is saved, and what it is worth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import CommandLine, small_world

import searchgym
from searchgym.agent import Agent, Turn
from searchgym.agents.memory.agent import MemoryAgent
from searchgym.agents.memory.clusters import Clusters, cluster_texts
from searchgym.agents.memory.experience import Experience
from searchgym.agents.memory.opening import MEMORIES, open_memory, open_memory_agent
from searchgym.agents.memory.protocol import Memory
from searchgym.agents.memory.reflections import Reflections, critique
from searchgym.agents.memory.skills import Skill, SkillBank, write_skills
from searchgym.agents.memory.trials import run_trials
from searchgym.dialects import Act
from searchgym.errors import CheckpointError, ConfigError, UnknownIdError
from searchgym.records.episode import Episode
from searchgym.rollouts.collection import collect, open_envs

WORLD = small_world("country-terse")


class Listener(Agent):
    """Reads texts: answers what its observation tells it to, else "nothing"; remembers what it read."""

    name = "listener"
    reads_text = True

    def __init__(self) -> None:
        self.read: list[str] = []

    def act(self, slots: Sequence[int], observations: Sequence[str], infos: Any) -> list[str]:
        self.read += observations
        answers = [text.rpartition("say ")[2] if "say " in text else "nothing" for text in observations]
        return [self.agent_context.dialect.write(Act("answer", answer=answer)) for answer in answers]


class Oracle(Reflections):
    """Critiques that tell the answer."""

    def __init__(self) -> None:
        super().__init__(writer=lambda episode: f"say {episode.gold['answers'][0]}")


def episodes(agent: str = "copy", count: int = 12, **arguments: Any) -> list[Episode]:
    return searchgym.rollout("SearchQA-Terse-v0", agent, count, corpus=WORLD, split="dev", **arguments)


# -- reflections -----------------------------------------------------------------------------------------


def test_a_failed_trial_is_recalled_with_its_question_and_a_success_forgets_it() -> None:
    memory = Reflections(last=2)
    failed = next(e for e in episodes() if not e.outcome.em)
    for _ in range(3):
        memory.observe(failed)
    text = memory.recall(failed.question, failed.question)
    assert text.count("\n- ") == 2
    query, answer = failed.rounds[0].action.queries[0], failed.outcome.answer
    assert (
        f"I did: search for {query}, then answer {answer}. The answer was wrong: do not answer {answer}"
        in text
    )
    assert memory.recall(failed.question, "a later observation") == ""
    assert memory.recall("another question", "another question") == ""
    (right,) = searchgym.rollout(
        "SearchQA-Terse-v0", "gold", task_ids=[failed.task_id], corpus=WORLD, split="dev"
    )
    memory.observe(right)
    assert memory.recall(failed.question, failed.question) == ""


def test_a_critique_reads_no_gold_data() -> None:
    for episode in episodes(count=6):
        shown = critique(episode)
        episode.gold = {}
        assert critique(episode) == shown
    silent = searchgym.rollout("SearchQA-Terse-v0", lambda o, i: "hm", 1, corpus=WORLD, max_rounds=2)[0]
    assert critique(silent).endswith("No answer was given in time: answer earlier.")


# -- skills ----------------------------------------------------------------------------------------------


def test_skills_come_from_causes_of_failure_and_plans_of_successes() -> None:
    found = write_skills(episodes("oracle", 6, types=["chain"], hops=[2]))
    assert {skill.kind for skill in found} == {"task"}
    assert found[0].text == (
        "In questions of this form, search for a name in the question, then for a name in the newest result; then answer."
    )
    silent = searchgym.rollout("SearchQA-Terse-v0", lambda o, i: "hm", 2, corpus=WORLD)
    assert [s.text for s in write_skills(silent)] == ["Write exactly one search or one answer in a message."]


def test_a_bank_grows_by_three_at_most_and_shows_six() -> None:
    skills = [Skill("task", f"skill {i}", f"mentor {i} ?") for i in range(9)]
    bank = SkillBank(size=5, writer=lambda _: skills)
    assert bank.recall("q", "q").splitlines()[1:] == [
        "- Answer only with what stands in a result.",
        "- Search for one fact at a time, and use what was found for the next search.",
    ]
    assert [bank.update([]) for _ in range(2)] == [3, 3]
    assert [s.text for s in bank.skills[2:]] == [f"skill {i}" for i in range(1, 6)]
    shown = bank.recall("whose mentor 5 ?", "whose mentor 5 ?").splitlines()
    assert len(shown) == 7
    assert shown[3] == "- skill 5"  # it shares most words with the question
    assert bank.recall("q", "a later observation") == ""


# -- experience --------------------------------------------------------------------------------------------


def test_the_library_shows_two_strategies_and_one_warning_after_the_warm_up() -> None:
    played = episodes("copy", 1)[0]
    library = Experience(warmup=1)
    query = played.rounds[0].action.queries[0]
    library.observe(played, [2.0, -1.0])
    assert library.recall(played.question, played.question) == ""
    library.advance()
    assert library.recall(played.question, played.question) == (
        f"From experience:\n- It helped here to search for {query}."
    )
    after = played.rounds[0].observation
    assert library.recall(played.question, after + " ").startswith(
        "From experience:\n- It did not help here to answer"
    )
    assert library.recall(played.question, "something else entirely") == ""


def test_admission_is_by_score() -> None:
    library = Experience(strategies=2, warnings=0, warmup=0)
    for score, episode in zip([1.0, 3.0, 0.5, 2.0], episodes("copy", 4), strict=True):
        library.observe(episode, [score, -1.0])
        library.observe(episode, [score / 2, 0.0])  # weaker than what is known of the same act
    held = library.to_json()
    assert sorted(score for *_, score in held["strategies"]) == [2.0, 3.0]
    assert held["warnings"] == []


def test_clusters_find_the_first_similar_text() -> None:
    clusters = Clusters(0.8)
    assert [clusters.add(text) for text in ("abcdefghij", "zzzz", "abcdefghik")] == [
        "abcdefghij",
        "zzzz",
        "abcdefghij",
    ]
    assert clusters.find("qqqq") is None
    many = [f"{i:05d} {'x' * (i % 7)} {i * i}" for i in range(60)]
    assert set(cluster_texts(many, 1.0).values()) == set(many)


# -- all of them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(MEMORIES))
def test_a_memory_survives_json_and_ignores_lost_episodes(name: str) -> None:
    memory = open_memory(name)
    assert isinstance(memory, Memory)
    before = json.dumps(memory.to_json())
    lost = episodes(count=1)[0]
    lost.valid_for_training = False
    memory.observe(lost)
    assert json.dumps(memory.to_json()) == before
    for episode in episodes():
        memory.observe(episode)
    copy = open_memory(name)
    copy.load_json(json.loads(json.dumps(memory.to_json())))
    for episode in episodes():
        assert copy.recall(episode.question, episode.question) == memory.recall(
            episode.question, episode.question
        )
    assert copy.to_json() == memory.to_json()


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        ("reflection", "Did you mean 'reflections'"),
        ({"name": "skills", "topp": 3}, "does not take these options"),
        ({"name": "skills", "top": 0}, "top"),
        ({"name": "experience", "similarity": 2}, "similarity"),
        (3, "unknown memory"),
    ],
)
def test_memories_that_cannot_be_opened(memory: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_memory(memory)


# -- the agent ---------------------------------------------------------------------------------------------


def test_what_is_recalled_is_read_and_not_recorded() -> None:
    memory = Oracle()
    listener = Listener()
    agent = MemoryAgent(listener, memory)
    envs = open_envs("SearchQA-Terse-v0", agent, 4, "dev", corpus=WORLD)
    tasks = [q.id for q in envs.config.tasks("dev")[:3]]
    first = collect(envs, agent, tasks)
    assert listener.read == [e.question for e in first]
    for episode in first:
        memory.observe(episode)
    listener.read.clear()
    second = collect(envs, agent, tasks)
    assert all(e.outcome.em for e in second)
    told = f"say {first[0].gold['answers'][0]}"
    assert listener.read[0] == f"{first[0].question}\n\nEarlier trials of this question failed:\n- {told}"
    assert [e.question for e in second] == [e.question for e in first]
    assert second[0].agent == "listener+reflections"


def test_the_agent_may_answer_some_of_the_observations_first() -> None:
    class Slow(Listener):
        def act_some(
            self, slots: Sequence[int], observations: Sequence[str], infos: Any
        ) -> list[Turn | None]:
            asked.append(list(observations))
            turn = super().act_some(slots[-1:], observations[-1:], infos[-1:])[0]
            return [*([None] * (len(slots) - 1)), turn]

    asked: list[list[str]] = []
    memory, slow = Oracle(), Slow()
    for episode in episodes(count=3):
        memory.observe(episode)
    played = searchgym.rollout("SearchQA-Terse-v0", MemoryAgent(slow, memory), 3, corpus=WORLD, split="dev")
    assert all(e.outcome.em for e in played)
    assert [len(texts) for texts in asked] == [3, 2, 1]
    assert asked[1] == asked[0][:2]  # an observation that waits is shown the same


def test_switched_off_the_observations_are_the_same_byte_for_byte() -> None:
    memory = Oracle()
    for episode in episodes(count=3):
        memory.observe(episode)
    listener = Listener()
    for recall, agent in (("never", MemoryAgent(listener, memory, "never")), ("", listener)):
        searchgym.rollout("SearchQA-Terse-v0", agent, 3, corpus=WORLD, split="dev")
        del recall
    assert listener.read[:3] == listener.read[3:]


def test_recalled_text_cannot_be_taken_for_an_act() -> None:
    memory = Reflections(writer=lambda e: "<answer> x </answer>")
    failed = next(e for e in episodes() if not e.outcome.em)
    memory.observe(failed)
    listener = Listener()
    searchgym.rollout(
        "SearchQA-Terse-v0",
        MemoryAgent(listener, memory),
        task_ids=[failed.task_id],
        corpus=WORLD,
        split="dev",
    )
    assert "< answer> x < /answer>" in listener.read[0]


def test_an_agent_that_reads_no_texts_is_refused() -> None:
    with pytest.raises(ConfigError, match="'copy' does not read observations as text"):
        open_memory_agent("copy", "skills")
    assert open_memory_agent("copy", "skills", recall="never").name == "copy+skills"
    with pytest.raises(UnknownIdError):
        open_memory_agent("copy", "skils", recall="never")


# -- trials ------------------------------------------------------------------------------------------------


def test_trials_measure_the_share_of_the_memory() -> None:
    agent = MemoryAgent(Listener(), Oracle(), "training")
    envs = open_envs("SearchQA-Terse-v0", agent, 8, "dev", corpus=WORLD)
    tasks = [q.id for q in envs.config.tasks("dev")[:8]]
    result = run_trials(envs, agent, tasks, trials=3)
    assert [one.value for one in result.solved] == [0.0, 1.0, 1.0]
    assert [one.value for one in result.control] == [0.0, 0.0, 0.0]
    assert result.share.value == 1.0
    assert [len(played) for played in result.episodes] == [8, 8, 0]
    assert agent.recall == "training"
    with pytest.raises(ConfigError, match="give each question once"):
        run_trials(envs, agent, [tasks[0], tasks[0]])
    queries = open_envs("RewriteQuery-v0", agent, 8, "dev", corpus=WORLD)
    with pytest.raises(ConfigError, match="choose an environment with answers"):
        run_trials(queries, agent, tasks)


# -- the policy --------------------------------------------------------------------------------------------


@pytest.fixture
def policy() -> Any:
    pytest.importorskip("torch", reason="the extra train is not installed")
    return open_memory_agent({"name": "tiny", "max_new_tokens": 24}, "skills")


def test_tokens_hold_what_was_read_and_evaluate_to_what_was_recorded(policy: Any) -> None:
    from searchgym.agents.policy import Sample

    played = searchgym.rollout("SearchQA-Terse-v0", policy, 3, corpus=WORLD, split="dev")
    tokenizer = policy.agent.tokenizer
    shown = tokenizer.decode(played[0].segments[0].tokens)
    assert "Answer only with what stands in a result." in shown
    samples = [Sample(e, segment) for e in played for segment in e.segments]
    recorded = [p for s in samples for p, m in zip(s.segment.logprobs, s.segment.mask, strict=True) if m]
    assert policy.evaluate_tokens(samples).logprobs_N.tolist() == pytest.approx(recorded, abs=1e-4)


def test_demonstrations_are_encoded_as_they_would_be_played(policy: Any) -> None:
    (played,) = searchgym.rollout("SearchQA-Terse-v0", policy, 1, corpus=WORLD, split="dev")
    (segment,) = policy.encode(played)
    assert (
        segment.tokens[: len(played.segments[0].tokens)] == played.segments[0].tokens[: len(segment.tokens)]
    )
    policy.recall = "never"
    assert policy.encode(played) == policy.agent.encode(played)


def test_recall_in_training_only(policy: Any) -> None:
    policy.recall = "training"
    assert policy.recalls
    policy.greedy = True
    assert not policy.recalls
    plain = searchgym.rollout("SearchQA-Terse-v0", policy.agent, 2, corpus=WORLD, split="dev")
    policy.agent.greedy = True
    greedy = searchgym.rollout("SearchQA-Terse-v0", policy.agent, 2, corpus=WORLD, split="dev")
    shown = searchgym.rollout("SearchQA-Terse-v0", policy, 2, corpus=WORLD, split="dev")
    assert [e.segments for e in shown] == [e.segments for e in greedy]
    assert len(plain) == 2


def test_the_memory_is_saved_with_the_weights(policy: Any, tmp_path: Path) -> None:
    policy.memory.skills.append(Skill("task", "kept"))
    policy.save(tmp_path / "w")
    other = open_memory_agent("tiny", "skills")
    other.load_weights(tmp_path / "w")
    assert other.memory.skills == policy.memory.skills
    wrong = open_memory_agent("tiny", "reflections")
    with pytest.raises(CheckpointError, match="holds the memory 'skills'"):
        wrong.load_weights(tmp_path / "w")
    (tmp_path / "w" / "memory.json").write_text('{"memory": "skills"}')
    with pytest.raises(CheckpointError, match="does not hold a memory"):
        other.load_weights(tmp_path / "w")


def test_the_command(cli: CommandLine) -> None:
    pytest.importorskip("torch", reason="the extra train is not installed")
    world = f"corpus={json.dumps(WORLD)}"
    status, text, _ = cli("trials", "--episodes", "2", "--trials", "2", "--env-option", world, "--json")
    assert status == 0
    result = json.loads(text)
    assert (result["agent"], result["questions"], len(result["solved"])) == ("tiny+reflections", 2, 2)
    assert cli("trials", "--episodes", "2", "--trials", "2", "--env-option", world).status == 0
    assert cli("trials", "--episodes", "-1", "--env-option", world).status == 2  # not all but one
    status, _, error = cli("trials", "--agent", "candidate")
    assert status == 2
    assert "does not read observations as text" in error
