"""Methods whose credit comes from verdicts or rules on single rounds: worked numbers, invariances, refusals."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import small_world
from judged_episodes import episode, group_of, verdict
from numpy.testing import assert_allclose

from searchgym.dialects import Act
from searchgym.env.vector import make_vec
from searchgym.errors import ConfigError
from searchgym.records.retriever import Hit
from searchgym.records.verdict import Verdict
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.algorithms.judged.capo import CAPO
from searchgym.trainers.algorithms.judged.match_tir import MatchTIR, match_queries
from searchgym.trainers.algorithms.judged.r3_rag import R3RAG
from searchgym.trainers.algorithms.judged.scribe import SCRIBE, grade, route
from searchgym.trainers.algorithms.judged.step_search import StepSearch
from searchgym.trainers.algorithms.judged.tp_grpo import TPGRPO, merge_rounds
from searchgym.trainers.algorithms.judged.vimrag import VimRAG, answer_path, evidence_graph
from searchgym.trainers.algorithms.judged.virl import ViRL, label_acts
from searchgym.trainers.components.matching import best_assignment, greedy_assignment, transport_plan
from searchgym.trainers.components.round_scores import standardize
from searchgym.trainers.conformance import TabularPolicy, check_trainer
from searchgym.trainers.core.algorithm import TrainContext
from searchgym.trainers.core.groups import Groups

WORLD = small_world("country-terse")
CHAIN = [
    {"query": "Ada home", "relation": "home", "passage_ids": ["p1"], "bridge": "Velm"},
    {"query": "Velm mayor", "relation": "mayor", "passage_ids": ["p2"], "bridge": "Bo Tarn"},
]
ADA = Hit("p1", "Ada", "Ada lives in Velm.", 1.0)
VELM = Hit("p2", "Velm", "The mayor of Velm is Bo Tarn.", 1.0)
OSTBY = Hit("p3", "Ostby", "The mayor of Ostby is Cy Moor.", 1.0)


def played(acts, reward, judged=None, name="e"):
    """An episode about "Who is the mayor of the home of Ada?".

    Args:
        acts: (query, hits), an answer as a string, or None for an invalid act.
        reward: paid in the last round.
        judged: contribution of each round.
        name: its id.
    """
    kinds = ["answer" if isinstance(a, str) else "search" if a else "invalid" for a in acts]
    made = episode(judged or [None] * len(acts), reward, kinds, name)
    made.question = "Who is the mayor of the home of Ada?"
    made.gold = {"answers": ["Bo Tarn"], "supporting_ids": ["p1", "p2"], "chain": CHAIN}
    for round_, act in zip(made.rounds, acts, strict=True):
        round_.results = []
        if isinstance(act, str):
            round_.action = Act("answer", answer=act)
        elif act:
            round_.action, round_.results = Act("search", queries=(act[0],)), [list(act[1])]
        else:
            round_.action = Act("invalid", error="no_act")
    return made


def rewarded(algorithm, groups):
    return Groups(list(groups), [algorithm.rewards(group) for group in groups])


# -- shared arithmetic ---------------------------------------------------------------------------------------


def test_the_best_assignment_is_that_of_all_permutations():
    rng = np.random.default_rng(0)
    for rows, columns in itertools.product(range(1, 6), repeat=2):
        scores = rng.integers(4, size=(rows, columns)) / 3.0
        pairs = [(r, c) for r, c in enumerate(best_assignment(scores)) if c is not None]
        assert len({c for _, c in pairs}) == len(pairs) == min(rows, columns)
        wide = scores if rows <= columns else scores.T
        orders = itertools.permutations(range(wide.shape[1]), wide.shape[0])
        best = max(sum(wide[i, j] for i, j in enumerate(order)) for order in orders)
        assert math.isclose(sum(scores[pair] for pair in pairs), best, abs_tol=1e-9)


def test_greedy_takes_the_best_pair_first_and_is_worse():
    scores = np.array([[0.9, 0.8], [0.8, 0.0]])
    assert best_assignment(scores) == [1, 0]
    assert greedy_assignment(scores) == [0, 1]


def test_the_transport_plan_keeps_its_marginals_and_prefers_high_scores():
    plan = transport_plan(np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]), 0.1)
    assert_allclose(plan.sum(axis=0), [0.5, 0.5], atol=1e-8)
    assert_allclose(plan.sum(axis=1), [1 / 3] * 3, atol=1e-8)
    assert_allclose(plan, [[1 / 3, 0], [0, 1 / 3], [1 / 6, 1 / 6]], atol=1e-4)


def test_standardized_inside_sets():
    x = np.array([1.0, 3.0, np.nan, 2.0, 2.0, 7.0])
    sets = np.array([5, 5, 5, 1, 1, 9])
    s = math.sqrt(0.5)
    assert_allclose(standardize(x, sets), [-s, s, 0, 0, 0, 0], rtol=1e-5)
    assert_allclose(standardize(x, sets, alone="raw")[-1], 7.0, rtol=1e-5)
    double = standardize(np.array([0.0, 1.0]), np.zeros(2, dtype=int), weights_R=np.array([3.0, 1.0]))
    assert_allclose(double, standardize(np.array([0.0, 0.0, 0.0, 1.0]), np.zeros(4, dtype=int))[[0, 3]])


# -- StepSearch ----------------------------------------------------------------------------------------------


def test_step_search_pays_rounds_and_replaces_everything_in_a_broken_episode():
    good = episode([0, 0, 0], 1.5)
    good.rounds[0].reward, good.rounds[1].reward = 0.5, -0.25
    broken = episode([0, 0], 0.3, ["search", "search"])
    broken.rounds[0].reward = 0.5
    algorithm = StepSearch()
    groups = rewarded(algorithm, group_of(good, broken))
    assert_allclose(groups.rewards[0], [1.75, -1.0])
    assert_allclose(algorithm.round_rewards(groups), [0.5, -0.25, 1.5, 0.0, -1.0])
    permuted = StepSearch({"permute_rewards": True, "group_size": 2})
    assert_allclose(permuted.round_rewards(groups), [0.0, 0.0, 1.75, 0.0, -1.0])


# -- MatchTIR ------------------------------------------------------------------------------------------------

KEYS = ("Ada home", "Velm mayor")


def test_matched_rewards():
    queries = (("Velm mayor",), ("Ada home", "Ada"), (), ("Ada home",))
    assert_allclose(match_queries(queries, KEYS), [1.0, 0.5, 0.0, 0.0])
    assert_allclose(match_queries(queries, KEYS, similarity="call"), [1.0, 0.5, 0.0, 0.0])
    assert_allclose(match_queries((("Ada",), ("Bo",)), KEYS, similarity="call"), [2 / 3, 2 / 3])
    assert_allclose(match_queries((("Ada",), ("Bo",)), KEYS), [2 / 3, 0.0])
    soft = match_queries((("Ada home",), ("Velm mayor",)), KEYS, "soft")
    assert_allclose(soft, [0.5, 0.5], atol=1e-3)  # each row of the plan holds a half
    assert match_queries(((), ()), KEYS).tolist() == match_queries((("Ada",), ()), ()).tolist() == [0.0, 0.0]


def test_match_tir_worked_by_hand():
    groups = group_of(
        played([("Ada home", [ADA]), "Bo Tarn"], 1.0), played([("Cy", [OSTBY]), "Cy Moor"], 0.0)
    )
    algorithm = MatchTIR({"discount": 0.9})
    groups = rewarded(algorithm, groups)
    assert_allclose(groups.rewards[0], [2.0, 0.0])
    # Rewards of the rounds (1, 1) and (0, 0), returns (1.9, 1) and (0, 0); with two episodes every z-score is ±√½.
    s = math.sqrt(0.5)
    assert_allclose(algorithm.credit(groups).values[0], [[s, s], [-s, -s]], rtol=1e-5)


def test_match_tir_credits_the_round_that_matched():
    groups = group_of(
        played([("Ada home", [ADA]), ("Cy", [OSTBY]), "Cy Moor"], 0.0),
        played([("Cy", [OSTBY]), ("Ada home", [ADA]), "Cy Moor"], 0.0),
    )
    algorithm = MatchTIR()
    groups = rewarded(algorithm, groups)
    assert algorithm.select(groups) == [True]
    assert GRPO().select(Groups(list(groups))) == [False]
    # Returns (1, 0, 0) and (0.9, 1, 0): the totals are equal, the turns are not.
    s = math.sqrt(0.5) / 2
    assert_allclose(algorithm.credit(groups).values[0], [[s, -s, 0], [-s, s, 0]], rtol=1e-4)
    assert MatchTIR({"permute_rewards": True}).select(Groups(list(groups))) == [False]


def test_a_turn_that_no_other_episode_reaches_keeps_its_return():
    groups = group_of(played([("Ada home", [ADA]), ("x", []), "Bo Tarn"], 1.0), played(["Cy Moor"], 0.0))
    algorithm = MatchTIR()
    values = algorithm.credit(rewarded(algorithm, groups)).values[0]
    s = math.sqrt(0.5)
    assert_allclose(values[0], [s, (s + 0.9) / 2, (s + 1.0) / 2], rtol=1e-5)


# -- CAPO ----------------------------------------------------------------------------------------------------


def test_capo_pays_the_four_cases():
    groups = group_of(episode([1, 1], 1.0), episode([1, 1], 1.0), episode([1, 1], 0.0), episode([1, 1], 0.0))
    for one in (groups[0][1], groups[0][3]):
        one.rounds[0].judge = Verdict.ok(1.0, 0.0)
    algorithm = CAPO()
    assert_allclose(algorithm._paid(groups), [2, 2, 1, 2, 0, 0, -1, 0])
    paid = np.array([2, 2, 1, 2, 0, 0, -1, 0.0])
    z = (paid - paid.mean()) / paid.std(ddof=1)
    assert_allclose(np.concatenate(algorithm.credit(groups).values[0]), z, rtol=1e-5)
    whole = np.array([2, 1, 0, -1.0])
    z = (whole - whole.mean()) / whole.std(ddof=1)
    assert_allclose(
        np.concatenate(CAPO({"unit": "episode"}).credit(groups).values[0]), np.repeat(z, 2), rtol=1e-5
    )


def test_capo_weighs_tokens_and_no_verdict_is_no_penalty():
    groups = group_of(episode([None, "error"], 1.0, tokens=3), episode([1, 1], 1.0, tokens=1))
    groups[0][1].rounds[1].judge = Verdict.ok(0.0, 0.2)
    credit = CAPO().credit(groups)
    tokens = np.array([2.0] * 7 + [1.0])
    z = (tokens - tokens.mean()) / tokens.std(ddof=1)
    assert_allclose(credit.to_tokens(groups), z, rtol=1e-5)
    assert credit.metrics == {"wrong_rounds": 0.25, "unjudged": 0.5}
    assert CAPO().select(groups) == [True]
    assert CAPO({"permute_rewards": True}).select(groups) == [False]


def test_capo_refuses_a_penalty_that_outweighs_the_outcome():
    with pytest.raises(ConfigError, match="below correct"):
        CAPO({"penalty": 2.0})


# -- TP-GRPO -------------------------------------------------------------------------------------------------


def test_runs_of_equal_rounds_are_one_thought():
    scores = np.array([1, 1, 0, 0, 0, np.nan, np.nan, 0.0])
    assert merge_rounds(scores, np.array([0, 0, 0, 0, 1, 1, 1, 1])).tolist() == [0, 0, 1, 1, 2, 3, 4, 5]
    assert merge_rounds(np.zeros(0), np.zeros(0, dtype=int)).tolist() == []


def test_a_thought_is_paid_once_however_long_it_is():
    long, short = episode([1, 1, 1, 1, 0], 0.0), episode([1, 0], 0.0)
    groups = group_of(long, short)
    algorithm = TPGRPO({"beta": 1.0})
    # Scores of thoughts: 1 (four rounds), 0 (the wrong answer), 1, 0. z = ±√¾ with four of them; difficulty 1.
    z = math.sqrt(0.75)
    assert_allclose(
        np.concatenate(algorithm.credit(groups).values[0]), [z / 4] * 4 + [-z] + [z, -z], rtol=1e-5
    )
    unshared = np.concatenate(TPGRPO({"beta": 1.0, "share": False}).credit(groups).values[0])
    assert_allclose(unshared, [z] * 4 + [-z] + [z, -z], rtol=1e-5)


def test_difficulty_weighs_the_process():
    groups = group_of(episode([1, 1], 1.0), episode([0, 1], 0.0))
    half, full = (
        np.concatenate(TPGRPO({"beta": 1.0, "difficulty": d}).credit(groups).values[0]) for d in (True, False)
    )
    outcome = np.concatenate(GRPO().credit(groups).values[0])[[0, 0, 1, 1]]
    assert_allclose(half - outcome, (full - outcome) / 2, rtol=1e-5)
    assert (full - outcome).any()


# -- R3-RAG --------------------------------------------------------------------------------------------------


def test_r3_rag_rewards_as_released():
    searched = episode([0.5, 0.25, 1], 1.0)
    failed = episode([0.5, 1], 0.0)
    malformed = episode([0.5, 0, 1], 1.0, ["search", "invalid", "answer"])
    guessed = episode([1], 1.0)
    spent = episode([0.5, 0.5], 0.0, ["search", "search"])
    groups = group_of(searched, failed, malformed, guessed, spent)
    expected = [0.8, 0.4, 1.6, 0.4, 0.0, 0.5, -1.0, 1.0, 0.0, 0.4, 0.4]
    assert_allclose(R3RAG().round_rewards(groups), expected)


def test_r3_rag_credits_a_round_for_itself_or_for_what_follows():
    groups = group_of(episode([0.5, 1], 1.0), episode([0, 1], 0.0))
    policy = TabularPolicy()
    for flow, expected in (("round", [0.8, 1.6, 0.0, 0.0]), ("episode", [2.4, 1.6, 0.0, 0.0])):
        algorithm = R3RAG({"flow": flow, "whiten": False})
        algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
        algorithm.prepare(policy, groups)
        assert_allclose(algorithm.credit(groups).to_tokens(groups), expected, atol=1e-6)


def test_r3_rag_leaves_searches_without_a_verdict_out_of_the_loss():
    groups = group_of(episode(["error", 1, 1], 1.0, tokens=2), episode([0, 1], 0.0))
    algorithm = R3RAG()
    algorithm.setup(TrainContext(TabularPolicy(), np.random.default_rng(0)))
    algorithm.prepare(algorithm.context.policy, groups)
    credit = algorithm.credit(groups)
    assert credit.loss_mask_N.tolist() == [False] * 2 + [True] * 6
    assert credit.metrics["unjudged"] == 0.2


# -- ViRL and SCRIBE -----------------------------------------------------------------------------------------


def test_acts_are_correct_redundant_or_wrong():
    one = played(
        [
            ("Ada", [ADA]),
            ("ada", [ADA, OSTBY]),  # the words of an earlier query
            ("home of Ada", [ADA]),  # nothing new
            ("Ostby mayor", [Hit("p4", "Moor", "A moor.", 1.0)]),
            None,
            ("Velm", [VELM]),
            ("mayors", [Hit("p5", "Mayor", "A mayor.", 1.0)]),  # everything was found
            "Bo Tarn",
        ],
        1.0,
    )
    labels = ["correct", "redundant", "redundant", "wrong", "wrong", "correct", "redundant", "correct"]
    assert label_acts(one) == labels
    assert label_acts(played(["Cy Moor"], 0.0)) == ["wrong"]
    algorithm = ViRL({"redundant": -0.5})
    groups = group_of(one, played(["Cy Moor"], 0.0))
    scores = np.array([1, -0.5, -0.5, -1, -1, 1, -0.5, 1, -1])
    assert_allclose(algorithm.scores(groups), scores)
    added = 0.5 * (scores - scores.mean()) / scores.std(ddof=1)
    s = math.sqrt(0.5)
    assert_allclose(
        np.concatenate(algorithm.credit(groups).values[0]), added + np.array([s] * 8 + [-s]), rtol=1e-4
    )


def test_rounds_are_routed_to_hops_and_graded():
    one = played(
        [
            ("Ada home", [ADA]),
            ("Velm", [OSTBY]),  # asks for the second hop, finds nothing
            ("mayor Velm", [VELM]),
            ("more", []),
            None,
            "Bo Tarn",
        ],
        1.0,
    )
    routed = route(one)
    assert [r.prototype for r in routed] == ["locate", "follow", "follow", "surplus", "", "conclude"]
    assert [grade(r) for r in routed] == [1.0, 0.75, 1.0, 0.0, 0.0, 1.0]
    early = route(played([("Cy", [OSTBY]), "Bo Tarn"], 1.0))
    assert [grade(r) for r in early] == [
        pytest.approx(1 / 3),
        0.0,
    ]  # fresh only; neither complete nor supported


def test_scribe_with_a_judge_reads_what_the_prototype_asks_for():
    one = played(
        [("Ada home", [ADA]), ("Velm mayor", [VELM]), ("more", []), "Bo Tarn"], 1.0, [0.5, 0.5, 1, 0]
    )
    assert [grade(r, judged=True) for r in route(one)] == [0.75, 0.75, 0.0, 1.0]
    one.rounds[0].judge = verdict("error")
    assert math.isnan(grade(route(one)[0], judged=True))
    assert (
        SCRIBE({"rubric": "judge"})
        .credit(group_of(one, played(["Cy Moor"], 0.0, [1])))
        .metrics["scored_rounds"]
        == 0.8
    )


def test_without_weight_or_under_the_control_the_credit_is_grpos():
    groups = group_of(
        played([("Ada home", [ADA]), "Bo Tarn"], 1.0, [1, 0]),
        played([("Cy", [OSTBY]), "Cy Moor"], 0.0, [0, 1]),
    )
    plain = GRPO().credit(groups).to_tokens(groups)
    for kind in (ViRL, SCRIBE, TPGRPO):
        assert kind().credit(groups).to_tokens(groups).tolist() != plain.tolist()
        for settings in ({"beta": 0.0}, {"permute_rewards": True}):
            assert kind(settings).credit(groups).to_tokens(groups).tolist() == plain.tolist()
            assert kind(settings).group_relative
    for kind in (CAPO, VimRAG):
        assert kind({"permute_rewards": True}).credit(groups).loss_mask_N is None
    assert_allclose(
        CAPO({"permute_rewards": True}).credit(groups).to_tokens(groups), plain * math.sqrt(1.5), rtol=1e-5
    )


# -- VimRAG --------------------------------------------------------------------------------------------------


def test_the_evidence_graph_and_the_answers_path():
    one = played(
        [
            ("Ada", [ADA]),
            ("Ostby mayor", [OSTBY]),
            ("mayor of Velm", [VELM]),
            ("Tarn", [Hit("p6", "Tarn", "Bo Tarn is old.", 1.0)]),
            "Bo Tarn",
        ],
        1.0,
    )
    # "mayor of Velm" is in no text as a whole, so its name counts; "Ostby" was never read; "Tarn" stands in round 2 first.
    assert evidence_graph(one) == [[], [], [0], [2], [2]]
    assert answer_path(evidence_graph(one), 4) == {0, 2, 4}
    assert evidence_graph(played([("Ada", [ADA]), "Cy Moor"], 0.0)) == [[], []]


def test_vimrag_masks_dead_ends_of_successes_and_finds_of_failures():
    right = played([("Ada", [ADA]), ("Ostby mayor", [OSTBY]), ("Velm mayor", [VELM]), "Bo Tarn"], 1.0)
    wrong = played([("Ada", [ADA]), ("Ostby mayor", [OSTBY]), "Cy Moor"], 0.0)
    groups = group_of(right, wrong)
    credit = VimRAG().credit(groups)
    assert credit.loss_mask_N.tolist() == [True, False, True, True, False, True, True]
    s = math.sqrt(0.5)
    assert_allclose(credit.to_tokens(groups), [s] * 4 + [-s] * 3, rtol=1e-5)
    assert credit.metrics["masked_rounds"] == pytest.approx(2 / 7)
    assert VimRAG({"mask": "valid"}).credit(groups).loss_mask_N.tolist() == [True] * 4 + [False, True, True]
    wrong.rounds[1].judge = verdict(0.7)
    judged = VimRAG({"mask": "valid", "valid": "judge"}).credit(groups)
    assert judged.loss_mask_N.tolist() == [True] * 5 + [False, True]


def test_an_episode_without_an_answer_has_no_dead_ends():
    spent = played([("Ada", [ADA]), ("Ostby mayor", [OSTBY])], 1.0)
    assert VimRAG({"mask": "dead-ends"}).credit(group_of(spent, played(["x"], 0.0))).loss_mask_N.all()


# -- environments --------------------------------------------------------------------------------------------


def config(**options):
    return make_vec("SearchQA-Terse-v0", 1, corpus=WORLD, **options).config


class Undocumented:
    """A corpus whose questions have neither gold passages nor derivations."""

    def __init__(self, inner):
        self._inner = inner
        self.name, self.hash, self.passages, self.splits = "plain", inner.hash, inner.passages, inner.splits

    def questions(self, split):
        return [replace(q, supporting_ids=(), chain=()) for q in self._inner.questions(split)]

    def question(self, task_id):
        return replace(self._inner.question(task_id), supporting_ids=(), chain=())


@pytest.mark.parametrize(
    ("kind", "needed"),
    [
        (StepSearch, "stepsearch, f1, search_key"),
        (CAPO, "judge=oracle"),
        (TPGRPO, "judge=oracle"),
        (R3RAG, "judge=oracle"),
    ],
)
def test_an_environment_that_lacks_what_a_method_needs_is_refused(kind, needed):
    with pytest.raises(ConfigError, match=needed):
        kind().configure_env(config())


def test_verdicts_on_successes_alone_are_refused():
    for kind in (CAPO, TPGRPO, R3RAG):
        with pytest.raises(ConfigError, match="judge_when is 'success'"):
            kind().configure_env(config(judge="oracle", judge_when="success"))
        accepted = config(judge="oracle", judge_when="unequal")
        assert kind().configure_env(accepted) is accepted


@pytest.mark.parametrize("kind", [MatchTIR, SCRIBE, ViRL, VimRAG, StepSearch])
def test_questions_without_gold_are_refused(kind):
    known = config(**StepSearch.audit_env)
    plain = make_vec(
        "SearchQA-Terse-v0",
        1,
        corpus=Undocumented(known.corpus),
        retriever=known.retriever,
        **StepSearch.audit_env,
    ).config
    with pytest.raises(
        ConfigError, match=r"50 of 50 questions of split 'train' of corpus 'plain' have no gold"
    ):
        kind().configure_env(plain)
    assert kind().configure_env(known) is known


def test_settings_that_need_less_are_accepted_with_less():
    plain = config()
    for algorithm in (CAPO({"penalty": 0.0}), TPGRPO({"beta": 0.0}), VimRAG({"mask": "dead-ends"})):
        assert algorithm.configure_env(plain) is plain
    with pytest.raises(ConfigError, match="judge=oracle"):
        VimRAG({"valid": "judge"}).configure_env(plain)


@pytest.mark.parametrize("kind", [MatchTIR, CAPO, SCRIBE, TPGRPO, ViRL])
def test_a_group_of_one_has_nothing_to_be_compared_with(kind):
    with pytest.raises(ConfigError, match="group_size is 1"):
        kind({"group_size": 1})


@pytest.mark.parametrize(
    "algorithm",
    [
        MatchTIR({"assignment": "soft", "similarity": "call", "skip_equal": False}),
        CAPO({"unit": "episode", "criterion": "contribution"}),
        SCRIBE({"rubric": "judge"}),
        TPGRPO({"criterion": "reasoning", "share": False}),
        R3RAG({"flow": "episode"}),
        VimRAG({"valid": "judge", "ratio": "token"}),
    ],
)
def test_settings_keep_the_contract(algorithm):
    check_trainer(algorithm)
