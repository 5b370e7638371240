"""SFT: which tokens pass the filters, what the loss is, learning from own and from recorded episodes, refusals."""

import numpy as np
import pytest
import torch
from helpers import small_world
from judged_episodes import episode, group_of
from toy_bandit import VOCABULARY, ToyGRPO, make_trainer

from searchgym import rollout
from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.agents.tiny.agent import TinyAgent
from searchgym.dialects import Act
from searchgym.errors import ConfigError, TrainingError
from searchgym.records.episode import load_episodes, save_episodes
from searchgym.trainers.algorithms.sft import SFT
from searchgym.trainers.conformance import TabularPolicy, check_trainer, synthetic_groups
from searchgym.trainers.core.batch import pack
from searchgym.trainers.core.credit import Credit
from searchgym.trainers.core.groups import Groups
from searchgym.trainers.runs.directory import RunDirectory
from searchgym.trainers.training.api import resume, train

WORLD = small_world("country-terse", train=200, dev=100)
OPTIONS = {"corpus": WORLD, "types": ["chain"], "hops": [1, 2]}
S, F, A, X = "search", "feedback", "answer", "invalid"


def said(made, *texts):
    for round_, text in zip(made.rounds, texts, strict=True):
        round_.text = text
    return made


def kept(groups, **settings):
    """Per episode, which rounds are learned from (one token per round)."""
    algorithm = SFT(settings)
    credit = algorithm.credit(groups)
    values = [[int(v) for v in array] for group in credit.values for array in group]
    assert credit.loss_mask_N.tolist() == [bool(v) for array in values for v in array]
    return values, credit.metrics, algorithm.select(groups)


def test_only_successes_and_no_invalid_act():
    groups = group_of(
        said(episode([None] * 3, 1.0, [S, X, A]), "a", "?", "b"),
        said(episode([None] * 2, 0.0), "a", "c"),
        said(episode([None] * 2, 0.5, [S, "none"], em=0), "a", ""),
    )
    values, metrics, chosen = kept(groups)
    assert values == [[1, 0, 1], [0, 0], [0, 0]]
    assert metrics == {"kept_episodes": 1.0, "kept_tokens": pytest.approx(2 / 7)}
    assert chosen == [True]
    assert kept(groups, min_reward=0.5)[0] == [[1, 0, 1], [0, 0], [1, 0]]
    assert kept(groups, min_reward=2.0)[2] == [False]


def test_of_equal_episodes_one_whatever_their_order():
    def made():
        return [said(episode([None] * 2, 1.0), *t) for t in (("a", "b"), ("a", "b"), ("c", "b"))]

    groups = group_of(*made())
    assert kept(groups)[0] == [[1, 1], [0, 0], [1, 1]]
    turned = Groups([groups[0][::-1]])
    assert kept(turned)[0] == [[1, 1], [0, 0], [1, 1]]
    assert kept(groups, deduplicate=False)[0] == [[1, 1]] * 3


def test_contributing_rounds_only():
    groups = group_of(
        said(episode([1, 0, None, 0.3, None], 1.0, [S, S, S, S, A]), *"abcde"),
        said(episode(["error", 0], 1.0), "a", "f"),
        said(episode([1, None, 0], 1.0, [S, F, A]), "a", "draft", "g"),
    )
    values, metrics, _ = kept(groups, rounds="contributing")
    assert values == [[1, 0, 0, 1, 1], [0, 1], [1, 0, 1]]
    assert metrics["unjudged"] == 2.0


def test_the_control_permutes_what_is_kept():
    good, bad = said(episode([None], 1.0), "a"), said(episode([None], 0.0), "b")
    groups = Groups([group_of(good, bad)[0]], [[0.0, 1.0]])
    assert kept(groups)[0] == [[0], [1]]


def test_the_loss_is_the_mean_over_kept_tokens_and_the_rest_is_not_computed():
    policy = TabularPolicy()
    played = synthetic_groups(policy)
    for group in played:
        for one in group:
            for round_ in one.rounds:
                round_.text = one.episode_id
    groups, algorithm = Groups(played), SFT()
    credit = algorithm.credit(groups)
    batch = pack(groups, credit).weighted("token-mean", 1)
    assert {s.episode.outcome.em for s in batch.samples} == {1.0}
    assert len(batch.samples) < len(groups.samples)
    with torch.no_grad():
        loss = algorithm.loss(batch, policy.evaluate_tokens(batch.samples)).total
    logprobs = [
        lp
        for e in groups.episodes
        if e.outcome.em
        for s in e.segments
        for lp, m in zip(s.logprobs, s.mask, strict=True)
        if m
    ]
    assert loss.item() == pytest.approx(-np.mean(logprobs), rel=1e-5)


@pytest.mark.parametrize("settings", [{}, {"rounds": "contributing", "deduplicate": False}])
def test_conformance(settings):
    check_trainer(SFT(settings))


def test_counted_tokens_of_the_wrong_shape_and_of_shared_rounds():
    groups = group_of(episode([None] * 2, 1.0), episode([None] * 2, 0.0))
    with pytest.raises(TrainingError, match=r"loss_mask_N has shape \(3,\), not \(4,\)"):
        pack(groups, Credit("token", [[np.ones(2)] * 2], loss_mask_N=np.ones(3, dtype=bool)))
    for one in groups.episodes:
        one.rounds[0].uid = "shared"
    values = [[np.array([1.0, 1.0]), np.array([3.0, 3.0])]]
    both = pack(groups, Credit("token", values))
    assert (both.advantages_N[0].item(), both.loss_mask_N.tolist()) == (2.0, [True, True, False, True])
    second = pack(groups, Credit("token", values, loss_mask_N=np.array([False, False, True, True])))
    assert [s.episode for s in second.samples] == [groups.episodes[1]]
    assert second.advantages_N.tolist() == [3.0, 3.0]
    none = pack(groups, Credit("token", values, loss_mask_N=np.zeros(4, dtype=bool)))
    assert none.samples == []


class ToySFT(SFT):
    collect = ToyGRPO.collect


@pytest.mark.usefixtures("no_curve")
def test_rejection_fine_tuning_learns(tmp_path):
    with RunDirectory.create(tmp_path / "run", {}) as run:
        result = make_trainer(run, ToySFT({"group_size": 8}), iterations=40).run_to_end()
    assert result.before["em"].value <= 0.2
    assert result.after["em"].value == 1.0


@pytest.mark.usefixtures("no_curve")
def test_nothing_to_keep_is_no_update(tmp_path):
    policy = TabularPolicy(VOCABULARY)
    before = policy.module.weight.detach().clone()
    with RunDirectory.create(tmp_path / "run", {}) as run:
        row = make_trainer(run, ToySFT({"group_size": 2, "min_reward": 9.0}), policy).loop.iterate().metrics
    assert (row["updates"], row["skipped_groups"]) == (0, 6)
    assert torch.equal(before, policy.module.weight)


# -- recorded episodes ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    path = tmp_path_factory.mktemp("demonstrations") / "oracle.jsonl"
    made = rollout("SearchQA-Terse-v0", "oracle", episodes=120, seed=0, judge="oracle", **OPTIONS)
    save_episodes(path, made)
    return path


def taught(path, demonstrations, **changes):
    settings = {"episodes": str(demonstrations), "group_size": 4, **changes.pop("settings", {})}
    config = {
        "trainer": "sft",
        "agent": "candidate",
        "env_options": OPTIONS,
        "iterations": 12,
        "questions": 16,
        "lr": 0.15,
        "eval_episodes": 50,
        "checkpoint_every": 5,
        "settings": settings,
    }
    return train({**config, **changes}, path)


@pytest.mark.usefixtures("no_curve")
@pytest.mark.parametrize("rounds", ["all", "contributing"])
def test_a_blank_policy_learns_from_records(tmp_path, demonstrations, rounds):
    result = taught(tmp_path / "run", demonstrations, settings={"rounds": rounds})
    assert result.before["em"].value <= 0.1
    assert result.after["em"].value >= 0.9
    first, last = result.metrics[1], result.metrics[-1]
    assert last["loss"] < 0.2 * first["loss"]
    assert (
        first["surprisal"] is None
    )  # the policy did not sample these tokens, so there is nothing to compare with
    assert not {"step_kl", "log_ratio_max", "sampling_gap"} & first.keys()
    assert all(row["alarms"] == [] for row in result.metrics[1:])


@pytest.mark.usefixtures("no_curve")
def test_a_stopped_run_continues_with_the_next_records(tmp_path, demonstrations):
    taught(tmp_path / "a", demonstrations, iterations=4, eval_every=2, eval_episodes=10)
    taught(tmp_path / "b", demonstrations, iterations=2, eval_every=2, eval_episodes=10)
    resume(tmp_path / "b", iterations=4)
    a, b = ((tmp_path / n / "metrics.jsonl").read_bytes() for n in "ab")
    assert a == b


def test_every_record_once_before_any_a_second_time(demonstrations):
    from searchgym.env.vector import make_vec
    from searchgym.trainers.core.tasks import TaskSampler

    algorithm, policy = SFT({"episodes": str(demonstrations), "group_size": 3}), CandidateAgent()
    envs, tasks = make_vec("SearchQA-Terse-v0", 2, **OPTIONS), TaskSampler(["any"], 4, seed=1)
    count = len(algorithm._recorded)
    drawn = []
    while len(drawn) < count:
        drawn += [group[0].episode_id for group in algorithm.collect(policy, envs, tasks)]
    assert len(set(drawn[:count])) == count
    assert tasks.drawn == len(drawn)


def test_records_are_filtered_once_and_for_all(tmp_path, demonstrations):
    records = list(load_episodes(demonstrations))
    records[0].valid_for_training = False
    records[1].rounds[-1].reward = 0.0
    save_episodes(tmp_path / "some.jsonl", [*records, *records])
    texts = {(e.task_id, *(r.text for r in e.rounds)) for e in records[2:]}
    assert len(SFT({"episodes": str(tmp_path / "some.jsonl")})._recorded) == len(texts)
    both = SFT({"episodes": str(tmp_path / "some.jsonl"), "deduplicate": False})._recorded
    assert len({e.episode_id for e in both}) == len(both) == 2 * (len(records) - 2)


def test_refusals(tmp_path, demonstrations):
    with pytest.raises(ConfigError, match="sft has no ratio to clip: leave clip_high out"):
        SFT({"clip_high": 0.3})
    with pytest.raises(ConfigError, match="no such file; `searchgym eval --save FILE` writes one"):
        SFT({"episodes": str(tmp_path / "nothing.jsonl")})
    with pytest.raises(
        ConfigError, match=r"none of 120 episodes in .* is valid with a reward of at least 2.0"
    ):
        SFT({"episodes": str(demonstrations), "min_reward": 2.0})
    with pytest.raises(ConfigError, match="has episodes of split 'train', and the run trains on 'dev'"):
        taught(tmp_path / "run", demonstrations, split="dev", eval_split="test")
    with pytest.raises(ConfigError, match="rounds=contributing needs a judge's verdicts"):
        train(
            {
                "trainer": "sft",
                "agent": "candidate",
                "env_options": OPTIONS,
                "settings": {"rounds": "contributing"},
            },
            tmp_path / "run",
        )
    unjudged = rollout("SearchQA-Terse-v0", "oracle", episodes=3, **OPTIONS)
    save_episodes(tmp_path / "unjudged.jsonl", unjudged)
    with pytest.raises(ConfigError, match=r"no round in .* has a verdict: record it with --judge"):
        SFT({"episodes": str(tmp_path / "unjudged.jsonl"), "rounds": "contributing"})
    with pytest.raises(
        ConfigError, match=r"agent 'tabular' cannot learn from recorded texts: it has no encode\(\)"
    ):
        TabularPolicy().encode(unjudged[0])
    assert not (tmp_path / "run").exists()


# -- encoding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", [None, 1, 2])
def test_the_tiny_agent_encodes_its_own_texts_as_it_sampled_them(history):
    """Greedily: a sampled text can also consist of other tokens than the tokenizer would choose for it."""
    agent = TinyAgent(seed=3, history=history)
    agent.greedy = True
    for played in rollout("SearchQA-Terse-v0", agent, episodes=8, seed=0, **OPTIONS):
        encoded = agent.encode(played)
        assert [(s.tokens, s.mask, s.rounds) for s in encoded] == [
            (s.tokens, s.mask, s.rounds) for s in played.segments
        ]


def test_the_tiny_agent_leaves_out_what_is_too_long():
    agent = TinyAgent(seed=3, max_context=40)
    (played,) = rollout("SearchQA-Terse-v0", "oracle", episodes=1, **{**OPTIONS, "hops": [2]})
    (segment,) = agent.encode(played)
    assert len(segment.tokens) <= 40
    assert set(segment.rounds) < {0, 1, 2}


def test_the_candidate_agent_encodes_acts_among_its_candidates():
    agent = CandidateAgent(seed=5)
    for played in rollout("SearchQA-Terse-v0", agent, episodes=20, seed=0, **OPTIONS):
        (own,), (encoded,) = played.segments, agent.encode(played)
        assert (encoded.mask, encoded.rounds) == (own.mask, own.rounds)
        again = [agent.agent_context.dialect.write(a) for a in acts(played, encoded)]
        assert again == [r.text for r in played.rounds]
    played.rounds[0].action = Act("search", ("words that occur in no text",))
    assert 0 not in agent.encode(played)[0].rounds


def acts(played, segment):
    from searchgym.agents.candidate.features import list_candidates

    queries, observations = (), ()
    for token, round_ in zip(segment.tokens, played.rounds, strict=True):
        yield list_candidates(played.question, queries, observations).act(token)
        queries, observations = (*queries, *round_.action.queries), (*observations, round_.observation)
