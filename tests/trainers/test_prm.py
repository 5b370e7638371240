"""Step reward models: labels, training, the saved model, the judge and the audit."""

import copy
import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from toys import write_toy

from searchgym.agents.lm.prefix_tree import PrefixTree
from searchgym.agents.tiny import TinyAgent
from searchgym.env.vector import make_vec
from searchgym.errors import CheckpointError, ConfigError, EpisodeFileError
from searchgym.files import checksums, seal, unseal
from searchgym.judges import open_judge, trace_of, traces_of
from searchgym.records.episode import Segment, save_episodes
from searchgym.records.retriever import Hit
from searchgym.rollouts.collection import collect
from searchgym.trainers.components.search_tree import SearchTree, TreeOptions
from searchgym.trainers.conformance import make_episode
from searchgym.trainers.credit_audit.truth import TrueCredit
from searchgym.trainers.prm.auditing import audit_judges
from searchgym.trainers.prm.backbones import open_backbone
from searchgym.trainers.prm.labelling import LabelRequest, make_labels
from searchgym.trainers.prm.labels import StepLabels
from searchgym.trainers.prm.model import RewardModel, load_reward_model
from searchgym.trainers.prm.scores import auc, auc_interval
from searchgym.trainers.prm.settings import PRMSettings
from searchgym.trainers.prm.training import train_reward_model

sys.path.append(str(Path(__file__).resolve().parents[1] / "agents"))
from hf_models import save_family

FAST = {"epochs": 4, "lr": 5e-3, "batch_tokens": 1024, "validation": 0.25}


def play(task, name, texts, reward):
    """An episode whose messages are given; a search returns one line that depends on its message."""
    rounds = [t for t in range(len(texts)) for _ in range(2)]
    segment = Segment([1] * len(rounds), [0, 1] * len(texts), [0.0] * len(rounds), rounds)
    made = make_episode([segment], reward, episode_id=name, group_id=task, task_id=task)
    for record, text in zip(made.rounds, texts, strict=True):
        record.text = text
        record.observation = (
            f"<information> {text[-9:]} </information>" if record is not made.rounds[-1] else ""
        )
    return made


def truth_of(episode, levels):
    return TrueCredit.exact(episode.episode_id, np.array(levels[:-1]), np.diff(levels))


@pytest.fixture(scope="module")
def labels():
    """Searches of "river" double the chance, those of "mayor" lose it; the answer decides nothing more."""
    episodes, truth = [], []
    for q in range(24):
        for i, (word, level) in enumerate([("river", 1.0), ("mayor", 0.0), ("river", 1.0), ("mayor", 0.0)]):
            texts = [f"<search> {word} </search>", f"<answer> {q % 7} </answer>"]
            episodes.append(play(f"t{q}", f"e{q}-{i}", texts, level))
            truth.append(truth_of(episodes[-1], [0.5, level, level]))
    return StepLabels.from_truth(episodes, truth, {"method": "by hand"})


@pytest.fixture(scope="module")
def trained(labels, tmp_path_factory):
    out = tmp_path_factory.mktemp("prm") / "model"
    rows = []
    train_reward_model(
        labels, open_backbone("tiny", {"start": "forks"}), out, PRMSettings(**FAST), rows.append
    )
    return out, rows


# -- labels --------------------------------------------------------------------------------------------------


def test_levels_differ_by_the_advantages_and_end_with_the_return():
    one = play("t", "e", ["a", "b", "c"], 1.0)
    credit = TrueCredit.exact("e", np.array([0.2, 0.5, 0.4]), np.array([0.3, -0.1, 0.6]))
    labels = StepLabels.from_truth([one], [credit], {})
    assert_allclose(labels.labels[0], [0.2, 0.5, 0.4, 1.0])
    assert labels.count == 3


def test_true_labels_of_an_agent_that_lists_its_acts():
    forks = {"name": "forks", "family": "decoys", "train": 4, "dev": 1, "test": 1}
    made = make_labels(
        LabelRequest(
            agent_options={"start": "lookup", "memory": False},
            env="SearchQA-Forks-v0",
            env_options={"corpus": forks, "split": "train", "max_rounds": 4},
            questions=2,
            group_size=3,
        )
    )
    assert made.made_with["method"] == "exact"
    for episode, levels, advantages in zip(made.episodes, made.labels, made.advantages, strict=True):
        assert_allclose(np.diff(levels), advantages)
        assert levels[-1] == pytest.approx(episode.reward, abs=1e-6)
    starts = {e.task_id: levels[0] for e, levels in zip(made.episodes, made.labels, strict=True)}
    assert all(levels[0] == starts[e.task_id] for e, levels in zip(made.episodes, made.labels, strict=True))


def test_labels_from_search_trees(tmp_path):
    forks = {"name": "forks", "family": "decoys", "train": 4, "dev": 1, "test": 1}
    request = LabelRequest(
        method="mcts",
        agent_options={"start": "lookup", "memory": False},
        env="SearchQA-Forks-v0",
        env_options={"corpus": forks, "split": "train", "max_rounds": 4},
        tree=TreeOptions(simulations=12, width=2),
        questions=2,
    )
    made = make_labels(request)
    returns = {}
    for episode, levels in zip(made.episodes, made.labels, strict=True):
        returns.setdefault(episode.task_id, []).append((levels[0], episode.reward))
        assert levels[-1] == episode.reward
        assert ((levels >= 0.0) & (levels <= 1.0)).all()
    assert len(returns) == 2
    assert all(len({start for start, _ in of_task}) == 1 for of_task in returns.values())
    assert any(0.0 < start < 1.0 for of_task in returns.values() for start, _ in of_task)
    assert make_labels(request).digest == made.digest
    with pytest.raises(ConfigError, match="labels from mcts hold no true advantages"):
        audit_judges(made, {})
    made.save(tmp_path)
    assert StepLabels.load(tmp_path).count == sum(len(e.rounds) for e in made.episodes)


def test_the_levels_of_a_search_tree_by_hand():
    tree = SearchTree("t", TreeOptions())
    right, wrong = play("t", "a", ["x", "y"], 1.0), play("t", "b", ["x", "z"], 0.0)
    for episode in (right, wrong, wrong):
        tree.add(episode)
    # One of three simulations earned 1; all went through x.
    assert_allclose(tree.levels(right), [1 / 3, 1 / 3, 1.0])
    assert_allclose(tree.levels(wrong), [1 / 3, 1 / 3, 0.0])


def test_labels_are_saved_and_damage_is_found(labels, tmp_path):
    labels.save(tmp_path)
    loaded = StepLabels.load(tmp_path)
    assert (loaded.kind, loaded.count, loaded.digest) == ("values", 192, labels.digest)
    assert_allclose(np.concatenate(loaded.advantages), np.concatenate(labels.advantages))
    data = json.loads((tmp_path / "labels.json").read_text())
    for name in ("labels", "advantages", "errors"):
        other = {**data, name: [[0.25, *data[name][0][1:]], *data[name][1:]]}
        (tmp_path / "labels.json").write_text(json.dumps(other))
        with pytest.raises(EpisodeFileError, match=r"labels\.json is damaged"):
            StepLabels.load(tmp_path)
    (tmp_path / "labels.json").write_text(json.dumps({**data, "schema": 1}))
    with pytest.raises(EpisodeFileError, match=r"labels\.json has schema 1, this version reads \d"):
        StepLabels.load(tmp_path)
    with pytest.raises(ConfigError, match="searchgym prm label"):
        StepLabels.load(tmp_path / "nowhere")


def test_acts_are_compared_in_one_state(labels):
    episodes = [
        play("t", n, texts, 0.0) for n, texts in [("a", "xyz"), ("b", "xuz"), ("c", "vyz"), ("d", "xyw")]
    ]
    levels = [[0.5, 0.6, 0.9, 0], [0.5, 0.6, 0.2, 0], [0.5, 0.1, 0.9, 1], [0.5, 0.6, 0.9, 0.05]]
    made = StepLabels.from_truth(episodes, [truth_of(*p) for p in zip(episodes, levels, strict=True)], {})
    # x beats v; after x, y beats u; after x y, w beats z by 0.05; what follows v has nothing to compare with.
    assert made.comparisons(0.0) == [((0, 0), (2, 0)), ((0, 1), (1, 1)), ((3, 2), (0, 2))]
    assert made.comparisons(0.1) == [((0, 0), (2, 0)), ((0, 1), (1, 1))]


def test_verdicts_as_labels(labels):
    class Judge:
        name = "half"

        def judge(self, traces):
            from searchgym.judges import Verdict

            return [Verdict.error("no") if len(t.rounds) == 1 else Verdict.ok(0.0, 0.75) for t in traces]

    made = StepLabels.from_verdicts(labels.episodes[:2], Judge(), {})
    assert [[math.isnan(x) or x for x in row] for row in made.labels] == [[True, 0.75]] * 2
    assert made.count == 2


def test_preferences_from_a_file(labels, tmp_path):
    file = tmp_path / "preferences.jsonl"
    file.write_text('{"better": ["e0-0", 1], "worse": ["e0-1", 1]}\n')
    save_episodes(tmp_path / "episodes.jsonl", labels.episodes[:8])
    request = {"method": "preferences", "episodes": tmp_path / "episodes.jsonl", "preferences": file}
    made = make_labels(LabelRequest(**request))
    assert made.pairs == [((0, 0), (1, 0))]
    for line, reason in [
        ('{"better": ["e0-0", 3], "worse": ["e0-1", 1]}', "has 2 rounds"),
        ('{"better": ["e9-9", 1], "worse": ["e0-1", 1]}', "no episode 'e9-9'"),
        ('{"better": ["e0-0", 1], "worse": ["e1-1", 1]}', "different questions"),
        ("[]", "better"),
    ]:
        file.write_text(line + "\n")
        with pytest.raises(ConfigError, match=reason):
            make_labels(LabelRequest(**request))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"method": "judge"}, "--judge"),
        ({"method": "exact", "judge": {"name": "rules"}}, "only applies to --method judge"),
        ({"method": "preferences"}, "--preferences"),
        ({"method": "mcts", "episodes": Path("e.jsonl")}, "leave --episodes out"),
        ({"method": "exact", "tree": TreeOptions()}, "--tree only applies"),
    ],
)
def test_a_method_without_what_it_needs(request_, message):
    with pytest.raises(ConfigError, match=message):
        make_labels(LabelRequest(**request_))


def test_questions_without_a_verdict_are_left_out_and_one_is_always_trained_on(labels, tmp_path):
    """One question per batch: a batch of failed verdicts alone would have a loss of NaN."""
    episodes = labels.episodes[::4][:4]
    scores = [np.array([1.0, 0.0]), np.full(2, np.nan), np.array([0.0, 1.0]), np.array([1.0, 1.0])]
    rows = []
    train_reward_model(
        StepLabels("verdicts", episodes, scores), open_backbone("tiny", {"start": "forks"}), tmp_path / "model",
        PRMSettings(epochs=1, batch_tokens=1, validation=0.9), rows.append,
    )  # fmt: skip
    assert [math.isfinite(row["loss"]) for row in rows] == [True]
    assert "validation_loss" in rows[0]


# -- training ------------------------------------------------------------------------------------------------


def test_a_model_learns_what_raises_the_value(trained):
    _, rows = trained
    assert rows[-1]["validation_auc"] == 1.0
    assert rows[-1]["validation_loss"] < 0.7 * rows[0]["validation_loss"]


def with_gold(labels, gold_word):
    """The same episodes with hits: of 'river' and 'mayor' another page each, one of which is a gold passage."""
    page = {"river": "p1", "mayor": "p2"}
    episodes = copy.deepcopy(labels.episodes)
    for episode in episodes:
        episode.gold = {**episode.gold, "supporting_ids": [page[gold_word]]}
        for record in episode.rounds[:1]:
            name = page["river" if "river" in record.text else "mayor"]
            record.results = [[Hit(name, "", "", 1.0)]]
            record.text = "<search> one </search>"  # only the mark tells the acts apart
            record.observation = "<information> one </information>"
    return replace(labels, episodes=episodes)


def test_a_model_with_reference_sees_which_gold_passages_a_round_returned(labels, tmp_path):
    marked = with_gold(labels, "river")
    settings, once = PRMSettings(**FAST, reference="gold"), PRMSettings(**{**FAST, "epochs": 1})
    blind = train_reward_model(marked, open_backbone("tiny", {}), tmp_path / "blind", once)
    model = train_reward_model(marked, open_backbone("tiny", {}), tmp_path / "gold", settings)
    assert blind.notes["epochs"][-1]["validation_auc"] == 0.5
    assert model.notes["epochs"][-1]["validation_auc"] == 1.0

    judge = open_judge({"name": "prm", "model": str(tmp_path / "gold")})
    assert judge.needs_gold
    first = [traces_of(e)[0] for e in marked.episodes[:2]]
    river, mayor = (v.utility for v in judge.judge(first))
    assert river > 0.5 > mayor
    swapped = [traces_of(e)[0] for e in with_gold(labels, "mayor").episodes[:2]]
    assert [v.utility for v in judge.judge(swapped)] == [mayor, river]
    (without,) = judge.judge([traces_of(labels.episodes[0])[0]])
    assert without.status == "error"
    assert not open_judge({"name": "prm", "model": str(tmp_path / "blind")}).needs_gold

    with pytest.raises(ConfigError, match="without gold passages"):
        train_reward_model(labels, open_backbone("tiny", {}), tmp_path / "none", settings)


def test_a_mark_says_new_known_or_none(labels, tmp_path):
    backbone = open_backbone("tiny", {})
    model = RewardModel(backbone, "bce", "values", "gold")
    episode = play("t", "e", ["a", "b", "c"], 1.0)
    episode.gold = {**episode.gold, "supporting_ids": ["p1"]}
    for record, name in zip(episode.rounds, ["p2", "p1", "p1"], strict=True):
        record.results = [[Hit(name, "", "", 1.0)]]
    reading = model.read(trace_of(episode))
    for end, mark in zip(reading.ends[1:], ["none", "new", "known"], strict=True):
        tokens = backbone.mark(mark)
        assert list(reading.tokens[end + 1 - len(tokens) : end + 1]) == tokens
    renamed = backbone.renaming(np.random.default_rng(0))
    assert all(renamed[t] == t for mark in ("new", "known", "none") for t in backbone.mark(mark))


def test_an_interrupted_training_continues_to_the_same_weights(labels, trained, tmp_path):
    class Stop(Exception):
        pass

    def stop(row):
        if row["epoch"] == 2:
            raise Stop

    out, rows = tmp_path / "model", []
    with pytest.raises(Stop):
        train_reward_model(labels, open_backbone("tiny", {"start": "forks"}), out, PRMSettings(**FAST), stop)
    assert [path.name for path in out.iterdir()] == ["training.state"]
    content = bytearray((out / "training.state").read_bytes())
    content[-9] ^= 1
    (damaged := tmp_path / "damaged").mkdir()
    (damaged / "training.state").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"training\.state is damaged"):
        train_reward_model(labels, open_backbone("tiny", {"start": "forks"}), damaged, PRMSettings(**FAST))
    with pytest.raises(ConfigError, match="other labels, settings or weights"):
        train_reward_model(
            labels, open_backbone("tiny", {"start": "forks"}), out, PRMSettings(**{**FAST, "seed": 1})
        )
    train_reward_model(
        labels, open_backbone("tiny", {"start": "forks"}), out, PRMSettings(**FAST), rows.append
    )
    assert [row["epoch"] for row in rows] == [3, 4]
    one, other = load_reward_model(out).module.state_dict(), load_reward_model(trained[0]).module.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in other)
    with pytest.raises(ConfigError, match="holds a step reward model already"):
        train_reward_model(labels, open_backbone("tiny", {"start": "forks"}), out)


def test_pairs_rank_acts_of_one_state(labels, tmp_path):
    settings = PRMSettings(**{**FAST, "loss": "pairwise", "epochs": 2})
    train_reward_model(labels, open_backbone("tiny", {"start": "forks"}), tmp_path / "m", settings)
    judge = open_judge({"name": "prm", "model": str(tmp_path / "m")})
    good, bad = judge.judge([traces_of(e)[0] for e in labels.episodes[:2]])
    assert good.utility > 0.5 > bad.utility
    with pytest.raises(ConfigError, match="no levels of its own"):
        open_judge({"name": "prm", "model": str(tmp_path / "m"), "read": "level"})


def test_a_generative_model_learns_verdicts_by_weighted_dpo(labels, tmp_path):
    def train(name, **settings):
        rows = []
        settings = PRMSettings(**{**FAST, "loss": "wdpo", **settings})
        return train_reward_model(
            labels, open_backbone("tiny", {"start": "forks"}), tmp_path / name, settings, rows.append
        ), rows

    still, rows = train("still", lr=0.0, epochs=1)
    assert rows[0]["loss"] == pytest.approx(math.log(2.0))  # nothing differs from the reference yet
    model, rows = train("model")
    assert rows[-1]["validation_auc"] == 1.0
    assert rows[-1]["validation_loss"] < 0.5
    reading = model.read(trace_of(labels.episodes[0]))
    right, wrong = model.backbone.verdicts
    (s_N,) = model.outputs([reading], 1024)
    tree = PrefixTree.grow([reading.tokens])
    hidden = model.backbone.network.paths(tree, np.arange(len(reading.tokens)))
    logprobs = model.backbone.network.logits(hidden[list(reading.ends)]).log_softmax(-1)
    assert_allclose(s_N.detach(), (logprobs[:, right] - logprobs[:, wrong]).detach(), atol=1e-4)
    (levels,) = load_reward_model(tmp_path / "model").levels([reading])
    assert_allclose(levels, s_N.detach().sigmoid(), atol=1e-5)
    assert levels[1] > 0.5 + (still.levels([reading])[0][1] - 0.5).clamp(min=0.0)


def test_names_are_exchanged_by_their_kind_and_nothing_else_changes():
    tiny = open_backbone("tiny", {"start": "forks"})
    new_V = tiny.renaming(np.random.default_rng(0))
    assert sorted(new_V.tolist()) == list(range(len(new_V)))
    text = "Mira Vogack : mentor : founded ?"
    ids = tiny.question(text)
    renamed = new_V[ids].tolist()
    assert renamed != ids
    relations = [tiny.message(word)[0] for word in ("mentor", "founded")]
    assert [i for i in renamed if i in relations] == relations
    assert len({tuple(tiny.renaming(np.random.default_rng(seed))) for seed in range(3)}) == 3


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ("large", {}, "loss=mse"),
        ("preferences", {}, "loss=pairwise"),
        ("none", {"loss": "pairwise", "margin": 2.0}, "differ by 2"),
        ("none", {"loss": "hinge"}, "pairwise"),
    ],
)
def test_labels_that_a_loss_cannot_learn(labels, tmp_path, change, settings, message):
    if change == "large":
        labels = StepLabels("values", labels.episodes[:1], [np.array([0.0, 2.0, 2.0])])
    elif change == "preferences":
        labels = StepLabels("preferences", labels.episodes[:2], [np.zeros(0)] * 2, pairs=[((0, 0), (1, 0))])
    with pytest.raises(ConfigError, match=message):
        train_reward_model(labels, open_backbone("tiny", {}), tmp_path / "m", PRMSettings(**settings))
    assert not (tmp_path / "m").exists()


# -- the saved model -----------------------------------------------------------------------------------------


def test_another_tokenizer_or_other_weights_are_refused(trained, tmp_path):
    other = tmp_path / "tokenizer"
    shutil.copytree(trained[0], other)
    data = json.loads((other / "tokenizer.json").read_text())
    words = data["vocabulary"][-1][1]
    words[0], words[1] = words[1], words[0]
    (other / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not the file"):
        load_reward_model(other)
    about = unseal(json.loads((other / "prm.json").read_text()))
    about["files"] = {name: entry for name, entry in checksums(other).items() if name != "prm.json"}
    (other / "prm.json").write_text(json.dumps(seal(about)))
    with pytest.raises(
        CheckpointError, match="another tokenizer"
    ):  # e.g. read by another version of transformers
        load_reward_model(other)
    changed = tmp_path / "changed"
    shutil.copytree(trained[0], changed)
    (changed / "prm.json").write_text((changed / "prm.json").read_text().replace('"bce"', '"mse"'))
    with pytest.raises(CheckpointError, match=r"prm\.json is damaged"):
        load_reward_model(changed)
    (changed / "prm.json").write_text(
        (changed / "prm.json").read_text().replace('"schema": 2', '"schema": 1')
    )
    with pytest.raises(CheckpointError, match=r"prm\.json has schema 1, this version reads 2"):
        load_reward_model(changed)
    damaged = tmp_path / "weights"
    shutil.copytree(trained[0], damaged)
    TinyAgent(start="country").save(damaged)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not the file"):
        load_reward_model(damaged)
    with pytest.raises(CheckpointError, match="searchgym prm train"):
        load_reward_model(tmp_path)


# -- the judge -----------------------------------------------------------------------------------------------


def test_a_verdict_is_by_how_much_the_level_rose(trained, labels):
    judge, model = open_judge({"name": "prm", "model": str(trained[0])}), load_reward_model(trained[0])
    episode = labels.episodes[0]
    (levels,) = (level.tolist() for level in model.levels([model.read(trace_of(episode))]))
    search, answer = judge.judge(traces_of(episode))
    assert (search.utility, search.reasoning) == (
        pytest.approx((1 + levels[1] - levels[0]) / 2, abs=2e-5),
        1.0,
    )
    assert (answer.utility, answer.reasoning) == (
        0.0,
        pytest.approx((1 + levels[2] - levels[1]) / 2, abs=2e-5),
    )
    level = open_judge({"name": "prm", "model": str(trained[0]), "read": "level"})
    assert level.judge(traces_of(episode))[0].utility == pytest.approx(levels[1], abs=2e-5)


def test_batches_do_not_change_verdicts(trained, labels):
    judge = open_judge({"name": "prm", "model": str(trained[0])})
    traces = [trace for episode in labels.episodes[:6] for trace in traces_of(episode)]
    alone = [judge.judge([trace])[0] for trace in traces]
    together = judge.judge(traces)
    for one, other in zip(alone, together, strict=True):
        assert_allclose([one.utility, one.reasoning], [other.utility, other.reasoning], atol=2e-5)


def test_an_episode_that_does_not_fit_is_an_error_not_a_number(trained):
    judge = open_judge({"name": "prm", "model": str(trained[0])})
    short, long = judge.judge(traces_of(play("t", "e", ["river", "mayor " * 2000, "x"], 0.0)))[:2]
    assert short.status == "ok"
    assert (long.status, long.utility) == ("error", None)


def test_it_judges_in_the_environment(trained, tmp_path):
    envs = make_vec(
        "SearchQA-v0",
        2,
        corpus=str(write_toy(tmp_path)),
        judge={"name": "prm", "model": str(trained[0])},
        split="train",
        max_rounds=3,
        autoreset_mode="Disabled",
    )
    from searchgym.agents.scripted import RandomAgent

    episodes = collect(envs, RandomAgent(), envs.task_ids()[:2])
    assert {record.judge.status for e in episodes for record in e.rounds} == {"ok"}


# -- the audit -----------------------------------------------------------------------------------------------


def test_auc_by_hand():
    scores, positive = np.array([1.0, 2, 2, 3]), np.array([False, True, False, True])
    assert auc(scores, positive) == 3.5 / 4
    assert math.isnan(auc(scores, np.ones(4, dtype=bool)))
    interval = auc_interval(np.tile(scores, 20), np.tile(positive, 20), np.repeat(np.arange(20), 4))
    assert (interval.low, interval.value, interval.high) == (0.875, 0.875, 0.875)


def test_judges_against_the_true_advantage(trained, labels):
    class Blind:
        name = "blind"

        def judge(self, traces):
            from searchgym.judges import Verdict

            return [Verdict.ok(0.5, 1.0) for _ in traces]

    rows = audit_judges(
        labels, {"prm": open_judge({"name": "prm", "model": str(trained[0])}), "blind": Blind()}
    )
    assert [(row.judge, row.auc.value, row.rounds) for row in rows] == [
        ("prm", 1.0, 96),
        ("blind", 0.5, 96),
    ]
    assert rows[0].positive == 0.5
    verdicts = StepLabels.from_verdicts(labels.episodes, Blind(), {})
    with pytest.raises(ConfigError, match="no true advantages"):
        audit_judges(verdicts, {"blind": Blind()})


# -- Hugging Face --------------------------------------------------------------------------------------------


def test_a_hugging_face_model_as_backbone(labels, tmp_path):
    path = save_family(tmp_path / "base", "qwen3", hidden_size=32, tie_word_embeddings=False)
    settings = PRMSettings(epochs=2, lr=3e-3, batch_tokens=1024, validation=0.25)
    options = {"checkpoint": path, "device": "cpu"}

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_reward_model(labels, open_backbone("hf", options), tmp_path / "m", settings, stop)
    model = train_reward_model(labels, open_backbone("hf", options), tmp_path / "m", settings)
    loaded = load_reward_model(tmp_path / "m", {"device": "cpu"})
    readings = [model.read(trace_of(e)) for e in labels.episodes[:4]]
    for one, other in zip(model.levels(readings), loaded.levels(readings), strict=True):
        assert_allclose(one, other, atol=1e-6)
    judge = open_judge({"name": "prm", "model": str(tmp_path / "m"), "backbone": {"device": "cpu"}})
    good, bad = judge.judge([traces_of(e)[0] for e in labels.episodes[:2]])
    assert good.utility > bad.utility


def test_verdicts_of_one_token_are_refused() -> None:
    """Otherwise every score would be a half."""
    backbone = open_backbone("tiny", {})
    backbone.verdicts = backbone.verdicts[0], backbone.verdicts[0]
    with pytest.raises(ConfigError, match="use loss=bce"):
        RewardModel(backbone, "wdpo", "values")
    RewardModel(backbone, "bce", "values")
