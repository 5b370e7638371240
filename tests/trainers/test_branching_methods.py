"""Methods that branch and search: numbers worked by hand, what is paid for, and what is refused before play."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.agents.policy import Policy
from searchgym.dialects import Act
from searchgym.env.vector import make_vec
from searchgym.errors import ConfigError
from searchgym.options import plugins
from searchgym.records.episode import Segment
from searchgym.records.verdict import Verdict
from searchgym.rollouts import Start
from searchgym.rollouts.collection import collect
from searchgym.rollouts.starts import stopped_after_act
from searchgym.trainers.algorithms.branching.arpo import ARPO, branches, first_entropies
from searchgym.trainers.algorithms.branching.mcts import MCTS
from searchgym.trainers.algorithms.branching.rtmc import RTMC, tree_values
from searchgym.trainers.algorithms.branching.slate import SCORE, SLATE, act_score
from searchgym.trainers.algorithms.branching.vineppo import VALUES, VinePPO, value_differences
from searchgym.trainers.algorithms.preferences.int import InT
from searchgym.trainers.algorithms.preferences.step_dpo import StepDPO
from searchgym.trainers.algorithms.tree_grpo import TreeGRPO
from searchgym.trainers.components.search_tree import SearchTree, TreeOptions, grow_trees
from searchgym.trainers.components.step_values import continuation_values
from searchgym.trainers.conformance import make_episode
from searchgym.trainers.core.algorithm import TrainContext
from searchgym.trainers.core.batch import pack
from searchgym.trainers.core.groups import Groups, drop_invalid, is_lookahead, new_searches, new_tokens
from searchgym.trainers.core.lookahead import Meter, MeteredPlay, Spent
from searchgym.trainers.core.registry import load_trainer
from searchgym.trainers.core.rollouts import play_groups
from searchgym.trainers.runs.metrics import collection_metrics
from searchgym.trainers.training.api import resume, train

pytestmark = pytest.mark.usefixtures("no_curve")
WORLD = {"name": "forks", "family": "decoys", "train": 8, "dev": 4, "test": 4}
CONFIG = {
    "agent": "candidate",
    "agent_options": {"start": "lookup", "memory": False},
    "env": "SearchQA-Forks-v0",
    "env_options": {"corpus": WORLD, "max_rounds": 12},
    "questions": 2,
    "iterations": 2,
    "eval_episodes": 0,
    "checkpoint_every": 1,
    "keep_checkpoints": 9,
}


def open_world(**options):
    return make_vec("SearchQA-Forks-v0", 16, corpus=WORLD, max_rounds=12, **options)


@pytest.fixture(scope="module")
def envs():
    return open_world()


def agent():
    return CandidateAgent(start="lookup", memory=False)


def collected(method, envs, tasks=2, seed=0):
    """What an algorithm plays, and what that cost beyond it."""
    meter = Meter()
    policy, play = agent(), MeteredPlay(play_groups, meter)
    method.setup(TrainContext(policy, np.random.default_rng(seed), play=play, meter=meter))
    groups = method.play(policy, envs, envs.task_ids()[:tasks])
    return groups, meter.beyond(groups)


def episode(name, acts, reward=0.0, passages=()):
    """An episode of one token per round with these acts, and passages found by its searches."""
    rounds = range(len(acts))
    segment = Segment([0] * len(acts), [1] * len(acts), [-1.0] * len(acts), list(rounds))
    made = make_episode([segment], reward, episode_id=name, group_id="g")
    for record, act, found in zip(made.rounds, acts, [*passages, *[()] * len(acts)], strict=False):
        record.text = act
        if record.action.kind == "search":
            record.action = Act("search", (act,))
            record.results = [[hit._replace(id=p) for hit in record.hits[:1] for p in found]]
        else:
            record.action = Act("answer", answer=act)
    return made


# -- what looking ahead costs ----------------------------------------------------------------------------------


def test_a_start_can_be_limited_to_single_rounds(envs):
    policy, task = agent(), envs.task_ids()[0]
    first, second = collect(envs, policy, starts=[Start(task, rounds=1), Start(task, rounds=2)])
    assert [r.action.kind for r in first.rounds] == ["search", "none"]
    assert len(second.rounds) == 3 or second.terminated
    assert (first.valid_for_training, first.truncated, stopped_after_act(first)) == (True, True, True)
    branch = Start(task, prefix=first, fork_round=1)
    (longer,) = collect(envs, policy, starts=[branch])
    assert longer.rounds[0].uid == first.rounds[0].uid
    assert not stopped_after_act(longer)
    with pytest.raises(ConfigError, match="rounds"):
        Start(task, rounds=0)


def test_what_is_played_and_not_returned_is_metered(envs):
    groups, ahead = collected(VinePPO({"group_size": 2, "continuations": 3}), envs)
    states = sum(
        len({tuple(r.text for r in e.rounds[:t]) for e in g for t in range(len(e.rounds))}) for g in groups
    )
    assert ahead.tokens >= 3 * states  # a continuation has at least one act, which is one token
    assert ahead.searches < ahead.tokens
    for method in (ARPO({"group_size": 4}), MCTS({"group_size": 4, "width": 2}), RTMC({"group_size": 4})):
        assert collected(method, envs)[1] == Spent()
    meter = Meter()
    meter.add(tokens=5)
    meter.add(tokens=1, searches=2)
    assert meter.total.to_metrics() == {"lookahead_tokens": 6, "lookahead_searches": 2}
    assert Spent().to_metrics() == {}


def test_episodes_that_were_not_played_cost_nothing(envs):
    meter, rng = Meter(), np.random.default_rng(0)
    recorded = play_groups(agent(), envs, envs.task_ids()[:1], 4, rng)
    assert meter.beyond(recorded) == Spent()
    play = MeteredPlay(play_groups, meter)
    played = play(agent(), envs, envs.task_ids()[:1], 2, rng)
    assert meter.beyond([*played, *recorded]) == Spent()
    assert meter.beyond(recorded) == Spent.on(played)
    played[0][0].fork_round = 0  # as where an algorithm puts an episode behind another one (int)
    played[0][1].fork_round = len(played[0][1].rounds)
    assert meter.beyond(played) == Spent()
    meter.restart()
    assert meter.total == Spent()


def test_a_run_reports_and_pays_for_it(tmp_path):
    settings = {"group_size": 2, "continuations": 2}
    result = train({**CONFIG, "trainer": "vineppo", "settings": settings}, tmp_path / "run")
    rows = result.metrics[1:]
    assert all(row["lookahead_tokens"] > row["tokens"] * row["episodes"] for row in rows)
    spent = sum(row["lookahead_tokens"] + round(row["tokens"] * row["episodes"]) for row in rows)
    assert result.trainer.spent["tokens"] == spent
    limited = train(
        {**CONFIG, "trainer": "vineppo", "settings": settings, "iterations": 9, "max_tokens": spent},
        tmp_path / "limited",
    )
    assert limited.trainer.loop.iteration == 2
    plain = train({**CONFIG, "trainer": "grpo"}, tmp_path / "plain").metrics[1]
    assert "lookahead_tokens" not in plain


@pytest.mark.parametrize("lag", [0, 1])
def test_the_cost_survives_a_broken_run(tmp_path, monkeypatch, lag):
    settings = {"group_size": 2, "continuations": 2}
    config = {**CONFIG, "trainer": "vineppo", "settings": settings, "rollout_lag": lag, "iterations": 3}
    straight = train(config, tmp_path / "straight")
    credit, calls = VinePPO.credit, []

    def failing(self, groups):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return credit(self, groups)

    with monkeypatch.context() as patch:
        patch.setattr(VinePPO, "credit", failing)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "broken")
    ahead = tmp_path / "broken" / "checkpoints" / "step-000001" / "ahead.jsonl"
    assert ahead.exists() == bool(
        lag
    )  # the second iteration was collected, and its continuations were paid for
    resumed = resume(tmp_path / "broken")
    costs = [[row.get("lookahead_tokens") for row in r.metrics] for r in (resumed, straight)]
    assert costs[0] == costs[1]
    assert all(costs[0][1:])
    assert resumed.trainer.spent["tokens"] == straight.trainer.spent["tokens"]


# -- VinePPO ---------------------------------------------------------------------------------------------------


def test_vineppo_differences_by_hand():
    made = episode("a", ["x", "y", "z"], reward=1.0)
    made.extra[VALUES] = [0.5, 0.0, 1.0]
    other = episode("b", ["x"], reward=1.0)
    groups = Groups([[made, other]])
    first, second = value_differences(groups)
    assert first == pytest.approx([-0.5, 1.0, 0.0])
    assert second is None
    credit = VinePPO().credit(groups)
    assert credit.metrics["unvalued"] == 1.0
    assert credit.values[0][0] == pytest.approx([-0.5, 1.0, 0.0])
    assert credit.values[0][1] == pytest.approx([0.0])  # equal rewards: GRPO's advantage is 0


def test_vineppo_keeps_groups_of_equal_rewards_whose_rounds_differ():
    made, other = episode("a", ["x", "y"], 1.0), episode("b", ["x", "y"], 1.0)
    assert VinePPO().select(Groups([[made, other]])) == [False]
    made.extra[VALUES] = [0.5, 0.0]
    assert VinePPO().select(Groups([[made, other]])) == [True]


def test_values_are_the_mean_return_of_continuations(envs):
    policy, rng = agent(), np.random.default_rng(0)
    groups = play_groups(policy, envs, envs.task_ids()[:2], 3, rng)
    values = continuation_values(play_groups, policy, envs, groups, 4, rng)
    for group, found in zip(groups, values, strict=True):
        for one, values_R in zip(group, found, strict=True):
            assert values_R.shape == (len(one.rounds),)
            assert set(values_R * 4) <= {0.0, 1.0, 2.0, 3.0, 4.0}
        assert len({values_R[0] for values_R in found}) == 1  # the question is one state


def test_what_was_paid_before_a_state_is_not_in_its_value(envs):
    made = episode("a", ["x", "yes"], 1.0)
    made.rounds[0].reward = 0.25

    class Replayed:
        def branch(self, policy, envs, starts, rng):
            return [start.prefix for start in starts]

    ((values_R,),) = continuation_values(Replayed(), agent(), envs, [[made]], 2, np.random.default_rng(0))
    assert values_R == pytest.approx([1.25, 1.0])
    made.valid_for_training = False
    ((values_R,),) = continuation_values(Replayed(), agent(), envs, [[made]], 2, np.random.default_rng(0))
    assert np.isnan(values_R).all()


def test_the_control_permutes_returns(envs):
    policy = agent()
    groups = play_groups(policy, envs, envs.task_ids()[:2], 3, np.random.default_rng(0))
    straight, permuted = (
        continuation_values(Recorded(), policy, envs, groups, 2, np.random.default_rng(1), permute)
        for permute in (False, True)
    )
    assert [v.tolist() for g in straight for v in g] != [v.tolist() for g in permuted for v in g]


class Recorded:
    """A `Play` whose continuations return 1 after the first fork round and 0 before."""

    def branch(self, policy, envs, starts, rng):
        return [
            episode(f"c{i}", ["x"] * (s.fork_round + 1), float(s.fork_round > 0))
            for i, s in enumerate(starts)
        ]


# -- RTMC ------------------------------------------------------------------------------------------------------


def test_rtmc_worked_numbers():
    returns = np.array([1.0, 1.0, 0.0, 0.0, 0.0])
    state, pair = np.array([0, 1, 0, 1, 0]), np.array([0, 1, 0, 2, 3])
    owner, prior = np.array([0, 0, 1, 1, 2]), np.full(5, 1 / 3)
    q, v = tree_values(returns, state, pair, owner, prior, weight=1.0)
    assert q == pytest.approx([0.5, 1.0, 0.5, 0.0, 0.0])
    assert v == pytest.approx([1 / 3, 4 / 9, 1 / 3, 4 / 9, 1 / 3])
    group = [
        episode("a", ["left", "yes"], 1.0, [("p",)]),
        episode("b", ["Left ", "no"], 0.0, [("p",)]),
        episode("c", ["no"], 0.0),
    ]
    credit = RTMC({"advantage": "dr-grpo"}).credit(Groups([group]))
    assert np.concatenate(credit.values[0]) == pytest.approx(q - v)
    scaled = RTMC().credit(Groups([group]))
    assert np.concatenate(scaled.values[0]) == pytest.approx((q - v) / (3**-0.5 + 1e-6))


def test_rtmc_counts_first_visits_only():
    looped = episode("a", ["again", "again", "yes"], 1.0, [("p",), ("p",)])
    other = episode("b", ["again", "no"], 0.0, [("p",)])
    # After the first search both are in the same state, and the second search does not leave it.
    credit = RTMC({"advantage": "dr-grpo", "prior": 0.0}).credit(Groups([[looped, other]]))
    assert credit.values[0][0] == pytest.approx([0.0, 0.5, 0.5])
    assert credit.values[0][1] == pytest.approx([0.0, -0.5])
    by_acts = RTMC({"advantage": "dr-grpo", "prior": 0.0, "state": "acts"}).credit(Groups([[looped, other]]))
    assert by_acts.values[0][0] == pytest.approx([0.0, 0.5, 0.0])


def test_rtmc_without_smoothing_gives_single_visits_nothing():
    group = [episode("a", ["x", "yes"], 1.0, [("p",)]), episode("b", ["y", "no"], 0.0, [("q",)])]
    bare = RTMC({"advantage": "dr-grpo", "prior": 0.0}).credit(Groups([group]))
    assert np.concatenate(bare.values[0]) == pytest.approx([0.5, 0.0, -0.5, 0.0])
    smooth = RTMC({"advantage": "dr-grpo", "prior": 1.0}).credit(Groups([group]))
    assert np.concatenate(smooth.values[0]) == pytest.approx([0.5, 0.25, -0.5, -0.25])


# -- ARPO ------------------------------------------------------------------------------------------------------


def test_arpo_branches_where_the_entropy_rises():
    entropy, u = np.array([0.2, 0.7, 0.2]), np.full(3, 0.55)
    assert branches(entropy, u, 0.5, 0.2).tolist() == [False, True, False]
    assert branches(entropy, np.full(3, 0.3), 0.5, 0.2).all()  # u <= p, whatever the entropy does
    assert not branches(entropy, u, 0.5, 0.0).any()


def test_arpo_takes_the_first_tokens_of_a_round():
    two = make_episode(
        [Segment([1] * 6, [0, 1, 1, 0, 1, 1], [0.0] * 6, [0, 0, 0, 1, 1, 1])],
        1.0,
        episode_id="a",
        group_id="g",
    )
    groups, entropy = Groups([[two]]), np.array([1.0, 3.0, 4.0, 0.0], dtype=np.float32)
    assert first_entropies(groups, entropy, 1)[0] == pytest.approx([0.25, 1.0])
    assert first_entropies(groups, entropy, 2)[0] == pytest.approx([0.5, 0.5])


def test_arpo_fills_the_group_with_branches_of_its_episodes(envs):
    groups, _ = collected(ARPO({"group_size": 6, "initial": 2, "probability": 1.0}), envs)
    for group in groups:
        assert len(group) == 6
        assert [e.parent_id is None for e in group] == [True, True, False, False, False, False]
        assert any(e.fork_round for e in group)
    never, _ = collected(ARPO({"group_size": 4, "probability": 0.0, "entropy_weight": 0.0}), envs)
    assert all((e.fork_round or 0) == 0 for group in never for e in group)
    with pytest.raises(ConfigError, match="initial is 9"):
        ARPO({"initial": 9})


# -- SLATE -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged():
    return open_world(judge="oracle", judge_when="end")


def test_slate_scores_by_hand():
    search, answer = episode("s", ["x", "yes"]), episode("t", ["yes"], reward=1.0)
    for verdict, score in (((1, 1), 2.0), ((0, 0), -2.0), ((1, 0), 0.0), ((0.5, 1), 1.0)):
        search.rounds[0].judge = Verdict.ok(*verdict)
        assert act_score(search, 4, 0.1) == pytest.approx(score)
    answer.rounds[0].judge = Verdict.ok(0, 1)
    assert act_score(answer, 4, 0.1) == pytest.approx(1.0 + 1.0 + 0.1 * 3 / 4)
    answer.rounds[0].judge = Verdict.error("no reply")
    assert act_score(answer, 4, 0.1) is None
    answer.rounds[0].action = Act("invalid", error="no_act")
    assert act_score(answer, 4, 0.1) == -2.0


def test_slate_compares_the_acts_of_one_state(judged):
    method = SLATE({"group_size": 4})
    groups, ahead = collected(method, judged)
    assert ahead == Spent()
    for group in groups:
        whole = [e for e in group if not is_lookahead(e)]
        assert len(whole) == 1  # the chosen acts make one episode
        assert not stopped_after_act(whole[0])
        assert len(group) == 4 * (1 + (whole[0].fork_round or 0))
        assert sum(map(new_tokens, group)) == len(group)
    batch_groups = Groups(groups, [method.rewards(group) for group in groups])
    credit = method.credit(batch_groups)
    batch = pack(batch_groups, credit)
    assert int(batch.loss_mask_N.sum()) == sum(map(len, groups))  # every act once
    for group, values in zip(groups, credit.values, strict=True):
        own = {step: [] for step in {e.fork_round or 0 for e in group}}
        for e, values_R in zip(group, values, strict=True):
            own[e.fork_round or 0].append(values_R[e.fork_round or 0])
        for step, scores in own.items():
            assert sum(scores) == pytest.approx(0.0, abs=1e-5), step


def test_slate_follows_the_best_act_without_temperature(judged):
    groups, _ = collected(SLATE({"group_size": 4, "temperature": 0.0}), judged)
    for group in groups:
        parents = {e.parent_id for e in group}
        for step in {e.fork_round or 0 for e in group}:
            slate = [e for e in group if (e.fork_round or 0) == step]
            for chosen in (e for e in slate if e.episode_id in parents):
                assert chosen.extra[SCORE] == max(e.extra[SCORE] for e in slate)


def test_slate_metrics_are_those_of_the_chosen_episode(judged):
    groups, _ = collected(SLATE({"group_size": 3}), judged)
    row = collection_metrics(groups)
    whole = [e for e in chain.from_iterable(groups) if not is_lookahead(e)]
    assert row["em"] == pytest.approx(np.mean([e.outcome.em for e in whole]))
    assert row["rounds"] == pytest.approx(np.mean([len(e.rounds) for e in whole]))
    assert row["episodes"] == sum(map(len, groups))
    assert row["tokens"] == 1.0
    ahead = [e for e in chain.from_iterable(groups) if is_lookahead(e)]
    assert row["lookahead_episodes"] == len(ahead)
    # Every act that searched was paid for once: in the chosen episode, or ahead.
    acts = {r.uid: r for e in chain.from_iterable(groups) for r in e.rounds}.values()
    searched = sum(len(r.action.queries) for r in acts if r.action.kind == "search")
    assert row["lookahead_searches"] == searched - sum(e.outcome.searches for e in whole)
    assert row["lookahead_judgements"] == sum(r.judge.status == "ok" for r in acts) - sum(
        r.judge.status == "ok" for e in whole for r in e.rounds
    )


@pytest.mark.parametrize("options", [{}, {"judge": "oracle", "judge_when": "success"}])
def test_slate_names_the_judge_it_needs(options):
    with pytest.raises(ConfigError, match="judge_when=end"):
        SLATE().configure_env(open_world(**options).config)


# -- trees -----------------------------------------------------------------------------------------------------


def test_a_tree_by_hand():
    tree = SearchTree("task", TreeOptions(width=2, discount=0.5, exploration=1.0))
    tree.add(episode("a", ["x", "yes"], 1.0))
    tree.add(episode("b", ["y"], 0.0))
    x, y = tree.root.children["x"], tree.root.children["y"]
    assert (x.q, y.q, tree.root.value) == (0.5, 0.0, 0.25)
    assert (x.value, x.children["yes"].q) == (1.0, 1.0)
    assert tree.select() is x  # x: 0.5 + √(ln 2), y: √(ln 2); only one act was drawn after x
    branch = episode("c", ["x", "no"], 0.0)
    branch.fork_round, branch.parent_id = 1, "a"
    tree.add(branch)
    assert (x.visits, x.q, x.value, x.draws) == (2, 0.25, 0.5, 2)
    assert tree.select() is y  # 0 + √(ln 3 / 1) = 1.05 is more than 0.25 + √(ln 3 / 2) = 0.99
    tree.revisit(y)
    assert (y.visits, tree.root.visits) == (2, 4)
    v_R, q_R = tree.round_values(branch)
    assert v_R == pytest.approx([0.125, 0.5])
    assert q_R == pytest.approx([0.25, 0.0])
    assert [node.depth for node in tree.nodes()] == [1, 1, 2, 2]
    assert x.siblings == [x, y]


def test_puct_prefers_what_the_policy_prefers():
    tree = SearchTree("task", TreeOptions(width=2, rule="puct", exploration=10.0))
    likely, rare = episode("a", ["x", "yes"], 0.0), episode("b", ["y", "yes"], 0.0)
    rare.segments[0].logprobs[0] = -9.0
    tree.add(rare)
    tree.add(likely)
    assert tree.select() is tree.root.children["x"]


def test_a_failed_simulation_gives_no_value():
    tree = SearchTree("task", TreeOptions())
    failed = episode("a", ["x", "yes"], 0.0)
    failed.valid_for_training = False
    tree.add(failed)
    assert (tree.played, tree.episodes, tree.root.visits) == ([failed], [], 0)
    assert tree.start_at(tree.select()).fork_round == 0


def test_trees_grow_in_the_environment(envs):
    options = TreeOptions(simulations=12, width=3)
    trees = grow_trees(play_groups, agent(), envs, envs.task_ids()[:2], options, np.random.default_rng(0))
    for tree in trees:
        assert tree.root.visits == 12
        assert len(tree.played) <= 12
        for node in tree.nodes():
            assert node.visits >= sum(child.visits for child in node.children.values())
            assert node.ends or node.children
            if node.children:
                assert node.q == pytest.approx(node.value)  # nothing is paid before the answer
        assert len({e.group_id for e in tree.played}) == 1


def test_mcts_credit_is_q_minus_v(envs):
    groups, ahead = collected(MCTS({"group_size": 8, "width": 2}), envs)
    assert ahead == Spent()
    credit = MCTS().credit(Groups(groups))
    assert credit.metrics["unvalued"] == 0.0
    first = [values[0][0] for values in credit.values]
    assert all(abs(value) <= 1.0 for value in first)
    by_uid = {}
    for group, values in zip(groups, credit.values, strict=True):
        for one, values_R in zip(group, values, strict=True):
            for record, value in zip(one.rounds, values_R, strict=True):
                assert by_uid.setdefault(record.uid, value) == value  # a shared act has one advantage
    assert any(by_uid.values())
    with pytest.raises(ConfigError, match="permute_rewards"):
        MCTS({"permute_rewards": True})


# -- all -------------------------------------------------------------------------------------------------------


class Rootbound(CandidateAgent):
    """Cannot continue a recorded episode."""

    resume = Policy.resume


@pytest.mark.parametrize("method", [VinePPO, ARPO, MCTS, SLATE, TreeGRPO, StepDPO, InT])
def test_a_policy_that_cannot_fork_is_refused_before_play(method):
    with pytest.raises(ConfigError, match=r"has no resume\(\)"):
        method().check_policy(Rootbound())


@pytest.mark.parametrize("name", ["vineppo", "rtmc", "arpo", "mcts", "slate"])
def test_they_train_a_language_model(name, tmp_path):
    options = {"judge": "oracle", "judge_when": "end"} if name == "slate" else {}
    settings = {"group_size": 2, **({"continuations": 1} if name == "vineppo" else {})}
    small = {"name": "country-terse", "size": 1000, "train": 20, "dev": 10, "test": 10}
    result = train(
        {
            "trainer": name, "agent": "tiny", "questions": 1, "iterations": 1, "eval_episodes": 0, "settings": settings,
            "env_options": {"corpus": small, "max_rounds": 3, "reward": {"f1": 1.0, "recall": 1.0}, **options},
        },
        tmp_path / "run",
    )  # fmt: skip
    assert result.metrics[1]["tokens"] > 0


@pytest.mark.parametrize("name", ["vineppo", "rtmc", "arpo", "mcts", "slate"])
def test_they_play_with_seeds_in_the_same_way_twice(name, tmp_path):
    options = {"judge": "oracle", "judge_when": "end"} if name == "slate" else {}
    config = {
        **CONFIG, "trainer": name, "settings": {"group_size": 4}, "streams": "episode",
        "env_options": {**CONFIG["env_options"], **options},
    }  # fmt: skip
    first, second = (train(config, tmp_path / run).metrics for run in ("a", "b"))
    assert first == second
    assert first[-1]["updates"] > 0


@pytest.mark.parametrize("name", plugins.names("trainers"))
def test_no_groups_are_no_error(name):
    """What `select` is given where infrastructure failed every episode of an iteration."""
    assert list(load_trainer(name)({}).select(Groups([]))) == []


def test_searches_of_a_branch_are_its_own():
    made = episode("a", ["x", "y", "yes"])
    assert new_searches(made) == 2
    made.fork_round = 1
    assert new_searches(made) == 1
    kept, counts = drop_invalid([[made]])
    assert kept == [[made]]
    assert not any(counts.values())
