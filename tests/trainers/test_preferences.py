"""DPO, step DPO, WebSTAR, InT: losses and filters with numbers worked by hand, exact gradients, what is refused."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from judged_episodes import episode, group_of

from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.agents.tiny.agent import TinyAgent
from searchgym.env.vector import make_vec
from searchgym.errors import ConfigError, TrainingError
from searchgym.judges.protocol import Verdict
from searchgym.records.episode import Episode
from searchgym.rollouts.collection import open_agent
from searchgym.trainers.algorithms.preferences.dpo import DPO
from searchgym.trainers.algorithms.preferences.int import INTERVENED, REPAIRED, InT, first_error
from searchgym.trainers.algorithms.preferences.step_dpo import StepDPO
from searchgym.trainers.algorithms.preferences.webstar import WebSTAR, grade
from searchgym.trainers.components.compared_acts import acts_of, score_acts
from searchgym.trainers.components.preference import Pairs, dpo_coefficients, dpo_loss, dpo_margins
from searchgym.trainers.conformance import TabularPolicy, synthetic_groups
from searchgym.trainers.core.algorithm import TrainContext
from searchgym.trainers.core.batch import micro_batches, pack
from searchgym.trainers.core.groups import Groups
from searchgym.trainers.core.tasks import TaskSampler
from searchgym.trainers.runs.metrics import collection_metrics
from searchgym.trainers.training.api import train

pytestmark = pytest.mark.usefixtures("no_curve")
FORKS = {"corpus": {"name": "forks", "family": "decoys", "train": 8, "dev": 2, "test": 2}, "max_rounds": 6}
JUDGED = {**FORKS, "judge": "oracle", "judge_when": "end"}


def pairs_of(chosen, rejected, weights):
    return Pairs(torch.tensor(chosen), torch.tensor(rejected), torch.tensor(weights, dtype=torch.float64))


# -- the losses -------------------------------------------------------------------------------------------------


def test_dpo_by_hand():
    logprobs = torch.tensor([-1.0, -3.0, -2.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-2.0, -2.0, -2.0], dtype=torch.float64)
    one = pairs_of([0], [1], [1.0])
    margins = dpo_margins(logprobs, reference, one, beta=0.5)  # 0.5 ((-1 + 2) - (-3 + 2)) = 1
    assert margins.tolist() == [1.0]
    assert dpo_loss(margins, one.weight_P).item() == pytest.approx(math.log(1 + math.exp(-1)))
    pull = 0.5 / (1 + math.e)  # beta sigma(-1)
    np.testing.assert_allclose(dpo_coefficients(logprobs, reference, one, 0.5), [pull, -pull, 0.0])
    # A second pair of three times the weight: 0.5 ((-1 + 2) - 0) = 0.5.
    two = pairs_of([0, 0], [1, 2], [1.0, 3.0])
    margins = dpo_margins(logprobs, reference, two, 0.5)
    loss = dpo_loss(margins, two.weight_P)
    by_hand = (math.log(1 + math.exp(-1)) + 3 * math.log(1 + math.exp(-0.5))) / 4
    assert loss.item() == pytest.approx(by_hand)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    np.testing.assert_allclose(dpo_coefficients(logprobs, reference, two, 0.5), -gradient)


@pytest.mark.parametrize(
    ("chosen", "rejected", "weights"), [([0], [1, 2], [1.0]), ([0], [1], [0.0]), ([1], [1], [1.0])]
)
def test_pairs_that_mean_nothing_are_refused(chosen, rejected, weights):
    with pytest.raises(TrainingError):
        pairs_of(chosen, rejected, weights)


@pytest.mark.parametrize("algorithm", [DPO({"beta": 0.7}), StepDPO({"beta": 0.7})], ids=["dpo", "step-dpo"])
def test_the_gradient_is_exact_at_every_step_and_in_every_division(algorithm):
    policy = TabularPolicy(seed=1)
    played = synthetic_groups(policy, groups=3)
    algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
    with torch.no_grad():  # away from the reference
        policy.module.weight.add_(0.5 * torch.randn(8, 8, generator=torch.Generator().manual_seed(5)))
    groups = Groups(played)
    algorithm.prepare(policy, groups)
    side_N, pairs = algorithm.sides(groups)
    reference_N = groups.columns["ref_logprobs"].double()
    batch = pack(groups, algorithm.credit(groups)).weighted("seq-mean-token-sum-norm", 1)

    def whole():
        logprobs_N = policy.evaluate_tokens(groups.samples).logprobs_N.double()
        sums = [
            torch.zeros(int(side_N.max()) + 1).double().index_add(0, torch.tensor(side_N), x)
            for x in (logprobs_N, reference_N)
        ]
        loss = dpo_loss(dpo_margins(*sums, pairs, 0.7), pairs.weight_P)
        return torch.autograd.grad(loss, policy.module.weight)[0]

    for _ in range(3):
        wanted = whole()
        assert float(wanted.abs().max()) > 1e-4
        for budget in (10**9, 20):
            policy.module.weight.grad = None
            for part in micro_batches(batch, policy, budget):
                algorithm.loss(part, policy.evaluate_tokens(part.samples)).total.backward()
            torch.testing.assert_close(policy.module.weight.grad, wanted, rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            policy.module.weight -= 3.0 * wanted
        policy.version += 1


def test_pairs_of_a_group_and_their_weights():
    groups = Groups([
        [episode([1, 1], r, name=f"a{i}") for i, r in enumerate([1.0, 0.0, 0.0])],
        [episode([1, 1], r, name=f"b{i}") for i, r in enumerate([1.0, 0.5])],
    ])  # fmt: skip
    side_N, pairs = DPO().sides(groups)
    assert side_N.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]  # episodes
    assert list(zip(pairs.chosen_P.tolist(), pairs.rejected_P.tolist(), strict=True)) == [
        (0, 1),
        (0, 2),
        (3, 4),
    ]
    assert pairs.weight_P.tolist() == [0.5, 0.5, 1.0]  # every question weighs the same
    three = Groups([[episode([1], r, name=f"c{i}") for i, r in enumerate([1.0, 0.5, 0.0])]])
    np.testing.assert_allclose(DPO({"weight": "gap"}).sides(three)[1].weight_P, [0.25, 0.5, 0.25])
    assert len(DPO({"min_gap": 0.5}).sides(three)[1]) == 1
    assert DPO({"min_gap": 0.5}).select(groups) == [True, False]


def test_dpo_moves_the_policy_from_failures_to_successes():
    result = train(
        trainer="dpo", agent="candidate", agent_options={"start": "lookup", "memory": False}, env="SearchQA-Forks-v0",
        env_options=FORKS, iterations=8, questions=8, lr=0.2, settings={"group_size": 4}, eval_episodes=0,
    )  # fmt: skip
    rows = result.metrics[1:]
    assert rows[0]["preference_loss"] == pytest.approx(math.log(2))  # the policy is its reference
    assert np.mean([r["em"] for r in rows[-3:]]) > np.mean([r["em"] for r in rows[:3]]) + 0.2
    assert rows[-1].get("preference_margin", 1.0) > 0.0


# -- acts of one state ------------------------------------------------------------------------------------------


def told(name, texts, reward, p=None):
    made = episode(p or [1] * len(texts), reward, name=name)
    for record, text in zip(made.rounds, texts, strict=True):
        record.text = text
    return made


def test_acts_of_a_state_and_their_values():
    groups = Groups(
        [
            [
                told("c", ["x", "y", "!"], 0.0),
                told("a", ["x", "z", "!"], 1.0),
                told("b", ["w", "!"], 0.0),
                told("d", ["x", "z", "?"], 0.0),
            ]
        ]
    )
    states = acts_of(groups)
    # the question: x (episodes 1, 0, 3 by id) or w; after x: z twice or y; after x z: ! or ?
    assert states == [
        [[(1, 0), (0, 0), (3, 0)], [(2, 0)]],
        [[(1, 1), (3, 1)], [(0, 1)]],
        [[(1, 2)], [(3, 2)]],
    ]
    rewards = np.array([0.0, 1.0, 0.0, 0.0])
    assert score_acts(groups, states[0], rewards, by_judge=False) == [
        ((1, 0), round(1 / 3, 9)),
        ((2, 0), 0.0),
    ]
    assert score_acts(groups, states[1], rewards, by_judge=False) == [((1, 1), 0.5), ((0, 1), 0.0)]
    side_N, pairs = StepDPO().sides(groups)
    assert side_N.tolist() == list(range(11))  # rounds
    assert list(zip(pairs.chosen_P.tolist(), pairs.rejected_P.tolist(), strict=True)) == [
        (3, 6),
        (4, 1),
        (5, 10),
    ]
    imitated = StepDPO({"objective": "sft"})
    given = imitated.credit(groups)
    assert given.loss_mask_N.tolist() == [i in (3, 4, 5) for i in range(11)]
    assert given.metrics["compared"] == 3


def test_scores_of_a_judge():
    groups = Groups(
        [
            [
                told("a", ["x", "!"], 0.0, [0.9, 1]),
                told("b", ["y", "!"], 0.0, [0.2, 1]),
                told("c", ["z", "!"], 0.0, [None, 1]),
                told("d", ["!"], 1.0, [0]),
            ]
        ]
    )
    (acts,) = acts_of(groups)
    scored = score_acts(groups, acts, np.array([0.0, 0.0, 0.0, 1.0]), by_judge=True)
    assert scored == [((0, 0), 0.9), ((1, 0), 0.2), ((3, 0), 1.0)]  # a right answer; no verdict: no score
    algorithm = StepDPO({"score": "judge", "objective": "sft"})
    assert algorithm.select(groups) == [True]
    given = algorithm.credit(groups)
    assert given.loss_mask_N.tolist() == [False] * 6 + [True]
    assert given.metrics["unjudged"] == 1


def test_branches_start_in_drawn_states_and_enter_the_loss_once():
    envs, policy = make_vec("SearchQA-Forks-v0", 8, **FORKS), CandidateAgent(start="lookup", memory=False)
    algorithm = StepDPO({"group_size": 14, "states": 2, "actions": 4})
    algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
    played = algorithm.collect(policy, envs, TaskSampler(envs.task_ids(), 3, 0))
    assert [len(group) for group in played] == [14] * 3
    for group in played:
        chains = [e for e in group if e.parent_id is None]
        assert len(chains) == 2
        forks = Counter((e.parent_id, e.fork_round) for e in group if e.parent_id is not None)
        for made in chains:
            counts = sorted(n for (parent, _), n in forks.items() if parent == made.episode_id)
            assert counts == ([6] if len(made.rounds) == 1 else [3, 3])
    groups = Groups([group for group in played if len({e.reward for e in group}) > 1])
    algorithm.prepare(policy, groups)
    given = algorithm.credit(groups)
    batch = pack(groups, given)
    learned = Counter((groups.episodes[e].rounds[r].uid) for e, r in zip(
        groups.tokens.episode_N[given.loss_mask_N], groups.tokens.round_N[given.loss_mask_N], strict=True
    ))  # fmt: skip
    assert set(learned.values()) == {1}
    assert int(batch.loss_mask_N.sum()) == len(learned)
    assert np.abs(given.to_tokens(groups)[given.loss_mask_N]).min() > 0.0


# -- filters ----------------------------------------------------------------------------------------------------


def graded(u, v, kind="search", em=0.0):
    made = episode([1], em, [kind], em=em)
    made.rounds[0].judge = Verdict.ok(u, v)
    return made


def test_grades_and_the_rounds_that_they_keep():
    assert grade(graded(1, 1).rounds[0]) == 10.0
    assert grade(graded(1, 0).rounds[0]) == 5.5
    assert grade(graded(0, 0).rounds[0]) == 1.0
    assert grade(graded(0, 0.5, "answer").rounds[0]) == 5.5
    assert grade(graded(0, 1, "answer").rounds[0], right=0.0) == 1.0
    assert grade(episode([None], 0.0, ["search"]).rounds[0]) is None
    made = episode([1, 0.2, None, 0], 0.0, ["search", "search", "search", "answer"])
    right = episode([0.5, 0], 1.0)
    made.rounds[3].judge = right.rounds[1].judge = Verdict.ok(0.0, 1.0)
    groups = group_of(made, right)
    # u = p and v = 1: grades 10, 6.4, none; a wrong answer 1; 7.75; a right answer 10
    assert WebSTAR().credit(groups).loss_mask_N.tolist() == [True, False, False, False, True, True]
    by_verdict = WebSTAR({"answers": "verdict", "threshold": 8})
    assert by_verdict.credit(groups).loss_mask_N.tolist() == [True, False, False, True, False, True]
    assert WebSTAR({"min_reward": 1}).credit(groups).loss_mask_N.tolist() == [False] * 4 + [True, True]


def test_first_errors():
    assert first_error(episode([1, 1, 0, 0.5, 1], 0.0)) == 2
    assert first_error(episode([1, 0.5, 1], 0.0)) == 2  # all liked: the last round
    assert first_error(episode([None, 0, 1], 0.0)) == 1
    assert first_error(episode([None, None], 0.0)) is None
    unsupported = episode([1, 0], 0.0)
    unsupported.rounds[1].judge = Verdict.ok(0.0, 1.0)
    assert first_error(unsupported) == 1
    assert first_error(episode([1, "error", 0, 1], 0.0, ["search", "search", "invalid", "answer"])) == 2


@pytest.mark.parametrize("kind", ["candidate", "tiny", "tiny with history"])
def test_interventions_are_the_policys_own_tokens_after_its_own_rounds(kind):
    policy = CandidateAgent(start="lookup", memory=False)
    if kind != "candidate":
        policy = TinyAgent(start="forks", history=1 if kind.endswith("history") else None)
    envs = make_vec("SearchQA-Forks-v0", 8, **JUDGED)
    algorithm = InT({"group_size": 4, "interventions": 3, "continuations": 3})
    algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
    played = algorithm.collect(policy, envs, TaskSampler(envs.task_ids(), 4, 0))
    episodes = {e.episode_id: e for e in chain.from_iterable(played)}
    kept = [e for e in episodes.values() if REPAIRED in e.extra]
    assert kept
    for made in kept:
        failed, t = episodes[made.parent_id], made.extra[REPAIRED]
        assert failed.extra[INTERVENED] == "kept"
        assert failed.reward < 1.0
        assert first_error(failed) == t == made.fork_round
        assert made.rounds[:t] == failed.rounds[:t]
        assert made.rounds[t].action != failed.rounds[t].action
        others = [e for e in episodes.values() if e.parent_id == made.episode_id]
        assert all(e.rounds[: t + 1] == made.rounds[: t + 1] for e in others)
        assert max(e.reward for e in (made, *others)) == 1.0
        # The tokens are those that the policy writes for these messages, behind what it saw.
        assert_same_tokens(policy, made, t)
    statuses = Counter(e.extra.get(INTERVENED) for e in episodes.values())
    assert statuses["kept"] == len(kept)
    assert all(sum(INTERVENED in e.extra for e in group) <= 3 for group in played)
    groups = Groups([g for g, wanted in zip(played, algorithm.select(Groups(played)), strict=True) if wanted])
    given = algorithm.credit(groups)
    tokens = groups.tokens
    for e, made in enumerate(groups.episodes):
        mine = tokens.episode_N == e
        until = made.extra.get(REPAIRED, -1)
        assert (given.loss_mask_N[mine] == (tokens.round_N[mine] <= until)).all()
    assert given.metrics["interventions_kept"] == len(kept)
    # Tokens that another agent's acts were written in were not sampled.
    sampled = [
        logprob
        for e in episodes.values()
        for s in e.segments
        for logprob, m, r in zip(s.logprobs, s.mask, s.rounds, strict=True)
        if m and not (REPAIRED in e.extra and r == e.extra[REPAIRED]) and e.rounds[r].temperature is not None
    ]
    metrics = collection_metrics([list(episodes.values())])
    assert metrics["surprisal"] == pytest.approx(-sum(sampled) / len(sampled))
    assert len(pack(groups, given).samples) > 0


def assert_same_tokens(policy, made: Episode, t: int) -> None:
    def columns(segments):
        return [
            (token, sampled)
            for s in segments
            for token, sampled, r in zip(s.tokens, s.mask, s.rounds, strict=True)
            if r == t
        ]

    assert columns(made.segments) == columns(policy.encode(made))
    assert any(sampled for _, sampled in columns(made.segments))


# -- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "options", "words"),
    [
        (StepDPO({"score": "judge"}), {}, "judge=oracle"),
        (StepDPO({"score": "judge"}), {"judge": "oracle", "judge_when": "success"}, "judge_when=step, end"),
        (WebSTAR(), {}, "judge=oracle"),
        (WebSTAR(), {"judge": "oracle", "judge_when": "unequal-success"}, "judge_when=step, end"),
        (InT(), {}, "judge=oracle"),
        (InT(), {"judge": "oracle", "judge_when": "success"}, "judge_when=step, end"),
    ],
)
def test_an_environment_without_the_verdicts_is_refused(algorithm, options, words):
    with pytest.raises(ConfigError, match=words):
        algorithm.configure_env(make_vec("SearchQA-Forks-v0", 1, **FORKS, **options).config)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (DPO, {"group_size": 1}, "group_size"),
        (DPO, {"clip_low": 0.1}, "no ratio"),
        (StepDPO, {"group_size": 6}, "multiple of 4"),
        (StepDPO, {"group_size": 1, "states": 0}, "group_size"),
        (StepDPO, {"objective": "sft", "beta": 0.2}, "leave beta out"),
        (StepDPO, {"score": "judge", "permute_rewards": True}, "permute_rewards"),
        (InT, {"proposer": "gold_digger"}, "gold_digger"),
        (InT, {"permute_rewards": True}, "permute_rewards"),
        (WebSTAR, {"permute_rewards": True}, "permute_rewards"),
        (WebSTAR, {"threshold": 11}, "threshold"),
    ],
)
def test_settings_that_cannot_be_used(kind, settings, words):
    with pytest.raises(ConfigError, match=words):
        kind(settings)


def test_an_environment_in_which_the_oracle_cannot_act_is_refused():
    with pytest.raises(ConfigError, match="max_rounds is 1"):
        InT().configure_env(make_vec("SearchQA-Forks-v0", 1, **{**JUDGED, "max_rounds": 1}).config)


def test_a_policy_that_cannot_write_the_acts_of_others_is_refused():
    planner = open_agent({"name": "planner", "planner": "candidate", "answerer": "copy"})
    with pytest.raises(ConfigError, match=r"int learns from another agent's acts, and agent 'planner"):
        InT().check_policy(planner)
    InT().check_policy(CandidateAgent())


def test_a_corpus_without_gold_sub_queries_has_no_oracle(toy, tmp_path):
    shutil.copytree(toy, tmp_path / "plain")
    for path in (tmp_path / "plain").glob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for line in lines:
            line.pop("chain", None)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    config = make_vec(
        "SearchQA-v0", 1, corpus=str(tmp_path / "plain"), judge="oracle", judge_when="end", split="dev"
    ).config
    with pytest.raises(ConfigError, match="proposer=demonstrator"):
        InT().configure_env(config)
    InT({"proposer": "demonstrator"}).configure_env(config)
