"""Alarms: each on rows made for it, and on candidate policies that really collapse; none on one that learns."""

import io
import json
import random

import pytest
from helpers import small_world
from rich.console import Console

from searchgym.errors import ConfigError
from searchgym.trainers.runs.alarms import ALARMS, AlarmLimits, Alarms, _lost, parse_stops, raised
from searchgym.trainers.runs.display import LiveDisplay, PlainDisplay
from searchgym.trainers.training.api import resume, train

HEALTHY = {
    "em": 0.5,
    "reward": 0.5,
    "groups": 16,
    "equal_groups": 4,
    "surprisal": 1.0,
    "entropy": 1.0,
    "step_kl": 0.01,
    "kl": 0.1,
    "clip_fraction": 0.05,
    "grad_norm": 0.3,
    "invalid_rounds": 0.02,
    "truncated": 0.05,
    "repetition": 0.01,
    "repeated_searches": 0.05,
}


def rows(*changes):
    """Healthy rows from iteration 1 on, each with some values changed."""
    return [{"iteration": i + 1, **HEALTHY, **change} for i, change in enumerate(changes)]


def test_limits_and_conditions_have_the_same_names():
    assert list(ALARMS) == list(AlarmLimits.__dataclass_fields__)


def test_nothing_is_raised_for_healthy_rows_or_before_training():
    assert raised([{"iteration": 0, "step_kl": 9.0}, *rows(*[{}] * 10)]) == []
    assert raised([]) == []


SINCE = [{}] * 5
CASES = {
    "success": ([{"em": 0.0}] * 3, "EM fell from 0.50 to 0.17", "without right answers", 7),
    "entropy": ([{"surprisal": 0.04}], "down from 1", "early successes were all alike", 6),
    "step_kl": (
        [{"step_kl": 0.5}],
        "0.5 nats per token within one iteration",
        "learning rate is too high",
        6,
    ),
    "kl": ([{"kl": 2.5}], "2.5 nats per token away from the initial one", "kl_coef is too small", 6),
    "clip_fraction": ([{"clip_fraction": 0.4}] * 3, "40% of the tokens were clipped", "learning rate", 8),
    "grad_norm": ([{"grad_norm": 400.0}], "norm is 400", "far larger than the others", 6),
    "invalid_rounds": ([{"invalid_rounds": 0.7}] * 3, "70% of the rounds had no valid act", "unlearned", 8),
    "truncated": (
        [{"truncated": 0.9}] * 3,
        "90% of the episodes ran out of a budget",
        "instead of answering",
        8,
    ),
    "context_full": ([{"context_full": 0.6}], "60% of the episodes", "longer than the agent's context", 6),
    "sampling_kl": (
        [{"sampling_kl": 0.2, "sampling_ess": 0.25}],
        "0.2 nats per token before the update (effective sample size 25%)",
        "the rollouts are stale",
        6,
    ),
    "repetition": ([{"repeated_searches": 0.6}] * 3, "60% of the searches", "stuck in a loop", 8),
    "equal_groups": (
        [{"equal_groups": 16}] * 5,
        "100% of the groups had equal rewards",
        "always acts the same",
        10,
    ),
}


@pytest.mark.parametrize("name", ALARMS)
def test_each_alarm(name):
    changes, seen, cause, iteration = CASES[name]
    made = rows(*SINCE, *changes)
    (alarm,) = raised(made)
    assert (alarm.name, alarm.iteration) == (name, iteration)
    assert seen in alarm.seen
    assert cause in alarm.cause
    assert str(alarm).startswith(f"alarm {name}, iteration {iteration}: ")
    assert "Next: " in str(alarm)
    # It stays active without being raised again, can be switched off, and comes again after a healthy stretch.
    held = rows(*SINCE, *changes, changes[-1])
    alarms = Alarms(rows=held)
    assert alarms.active == [name]
    assert len(raised(held)) == 1
    assert raised(held, {name: None}) == []
    twice = [a.name for a in raised(rows(*SINCE, *changes, *[{}] * 6, *changes, changes[-1]))]
    assert twice == [name, name]


def windows(values):
    return [values[max(0, i - 3) : i] for i in range(1, len(values) + 1)]


def test_lost_success_is_found_however_long_ago_it_was():
    """The alarm compares with the best windows only; here with all of them."""
    draw, fallen = random.Random(0), 0
    for _ in range(300):
        level = draw.choice((0.02, 0.15, 0.5, 0.9))
        values = [max(0.0, min(1.0, draw.gauss(level, level / 4))) for _ in range(draw.randint(1, 12))]
        values += [max(0.0, draw.gauss(level * draw.random(), 0.02)) for _ in range(draw.randint(1, 12))]
        groups = draw.choice((1, 4, 16, 200))
        means = [(sum(window) / len(window), len(window)) for window in windows(values)]
        now = means[-1][0]
        lost = [mean for mean, length in means if _lost(mean, now, 0.5, length, groups)]
        watch = Alarms({name: None for name in ALARMS if name != "success"})
        for row in rows(*[{"em": value, "groups": groups} for value in values]):
            raised_now = watch.add(row)
        assert watch.active == ["success"] * bool(lost)
        if raised_now:
            fallen += 1
            assert f"EM fell from {max(lost):.2f} to {now:.2f} " in raised_now[0].seen
    assert fallen > 10


def test_what_the_other_alarms_say_of_long_ago():
    first, step, healthy = {"invalid_rounds": 0.9}, {"step_kl": 0.09, "surprisal": 8.0}, [{}] * 20
    found = raised(rows(first, step, {"step_kl": 0.04}, *healthy, {"surprisal": 0.04}))
    assert "down from 8:" in found[-1].seen
    assert "learning rate is too high" in found[-1].cause
    (never_knew,) = raised(rows(first, *healthy, *[first] * 3))
    assert "never knew the format" in never_knew.cause


def test_metrics_of_old_iterations_are_not_kept():
    watch = Alarms(rows=rows(*[{}] * 50))
    assert len(watch._history) == 5


def test_runs_of_words_count_as_repetition_too():
    (alarm,) = raised(rows(*[{"repetition": 0.9}] * 3))
    assert "90% of the four-word sequences" in alarm.seen


@pytest.mark.parametrize(
    ("change", "alarm", "cause"),
    [
        ({"surprisal": 0.01}, "entropy", "learning rate is too high"),
        ({"invalid_rounds": 0.9}, "invalid_rounds", "learning rate is too high"),
        ({"equal_groups": 16}, "equal_groups", "learning rate is too high"),
        ({"em": 0.0}, "success", "learning rate is too high"),
    ],
)
def test_the_cause_depends_on_how_far_the_policy_has_moved(change, alarm, cause):
    found = raised(rows({}, {"step_kl": 3.0}, *[{}] * 3, *[change] * 5))
    assert [a.name for a in found] == ["step_kl", alarm]
    assert cause in found[1].cause


def test_questions_that_are_too_hard_and_a_policy_that_does_not_move():
    hard = {"em": 0.0, "reward": 0.0, "equal_groups": 16}
    (alarm,) = raised(rows(*[hard] * 5))
    assert "too hard for this policy" in alarm.cause
    (alarm,) = raised(rows(*[{**hard, "step_kl": 1e-6}] * 5))
    assert "does not move (step KL 1e-06): lr may be too small" in alarm.cause
    (alarm,) = raised(rows(*[{"invalid_rounds": 0.9}] * 3))
    assert "never knew the form" in alarm.cause


def test_a_solved_task_is_no_collapse():
    right = {"em": 0.97, "reward": 0.97}
    done = {**right, "surprisal": 0.001, "equal_groups": 16}
    assert raised(rows(*SINCE, *[right] * 3, *[done] * 8)) == []


def test_a_drop_that_other_questions_explain_is_no_collapse():
    few = [{"em": em, "groups": 4, "equal_groups": 0} for em in (0.25, 0.25, 0.25, 0.1, 0.1, 0.1)]
    assert raised(rows(*few)) == []
    many = [{**row, "groups": 400} for row in few]
    assert [a.name for a in raised(rows(*many))] == ["success"]


def test_a_drop_after_the_first_iteration_counts():
    (alarm,) = raised(rows({"em": 0.4}, *[{"em": 0.0}] * 3))
    assert (alarm.name, alarm.iteration) == ("success", 4)


def test_missing_values_raise_nothing():
    unknown = dict.fromkeys(set(HEALTHY) - {"groups", "equal_groups"})
    assert raised(rows(*[{**unknown, "groups": 0, "equal_groups": 0}] * 6)) == []
    assert raised([{"iteration": i} for i in range(6)]) == []


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"entropi": 1.0}, "unknown alarm 'entropi'. Did you mean 'entropy'"),
        ({"success": 1.5}, "alarm 'success' is 1.5: it must be between 0.0 and 1.0"),
        ({"step_kl": "much"}, "alarm 'step_kl' is 'much'"),
    ],
)
def test_limits_that_cannot_be_used(limits, message):
    with pytest.raises(ConfigError, match=message):
        Alarms(limits)


def test_which_alarms_end_a_run():
    assert parse_stops("") == frozenset()
    assert parse_stops("success, step_kl") == {"success", "step_kl"}
    assert parse_stops("all") == set(ALARMS)
    with pytest.raises(ConfigError, match=r"names 'sucess', which is not an alarm. Did you mean 'success'"):
        parse_stops("sucess")


# -- runs ---------------------------------------------------------------------------------------------------------

WORLD = small_world("country-terse", train=300, dev=400)
RUN = {
    "agent": "candidate",
    "env_options": {"corpus": WORLD, "types": ["chain"], "hops": [1]},
    "questions": 16,
    "iterations": 14,
    "lr": 0.15,
    "settings": {"group_size": 8, "entropy_coef": 0.01, "skip_equal": False},
    "eval_episodes": 0,
    "checkpoint_every": 100,
}


class Lines(PlainDisplay):
    def __init__(self):
        self.lines = []

    def _say(self, line):
        self.lines.append(line)


def run(path, **changes):
    display = Lines()
    settings = {**RUN["settings"], **changes.pop("settings", {})}
    options = {**RUN["env_options"], **changes.pop("env_options", {})}
    result = train({**RUN, **changes, "settings": settings, "env_options": options}, path, display)
    return result, [line for line in display.lines if line.startswith("alarm")]


def names(lines):
    return [line.split()[1].rstrip(",") for line in lines]


def test_both_displays_show_an_alarm(capsys):
    live = LiveDisplay(Console(file=io.StringIO(), force_terminal=True, width=100))
    live.alarm("alarm step_kl, iteration 2: [odd] markup")
    assert "alarm step_kl, iteration 2: [odd] markup" in live._console.file.getvalue()
    PlainDisplay().alarm("alarm kl")
    assert capsys.readouterr().out == "alarm kl\n"


@pytest.mark.usefixtures("no_curve")
def test_a_run_that_learns_raises_nothing(tmp_path):
    result, lines = run(tmp_path / "run")
    assert lines == []
    assert result.metrics[-1]["em"] > 0.8
    assert all(row["alarms"] == [] for row in result.metrics[1:])
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["alarms"] == []


@pytest.mark.usefixtures("no_curve")
@pytest.mark.parametrize("seed", [1, 3])
def test_a_hundred_times_the_learning_rate(tmp_path, seed):
    result, lines = run(tmp_path / "run", lr=15.0, iterations=8, seed=seed)
    assert {"step_kl", "entropy", "equal_groups"} <= set(names(lines))
    assert all("learning rate is too high" in line for line in lines[:2])
    assert result.metrics[-1]["em"] < 0.2
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [alarm["name"] for alarm in summary["alarms"]] == names(lines)
    assert summary["stopped_by"] is None


@pytest.mark.usefixtures("no_curve")
def test_kl_blows_up_without_clipping(tmp_path):
    unclipped = {"clip_low": 1.0, "clip_high": 1e9, "kl_coef": 1e-9}
    _, lines = run(tmp_path / "run", lr=1.0, epochs=8, iterations=8, settings=unclipped)
    assert {"step_kl", "kl"} <= set(names(lines))


@pytest.mark.usefixtures("no_curve")
def test_a_coefficient_out_of_all_proportion(tmp_path):
    _, lines = run(tmp_path / "run", iterations=6, settings={"entropy_coef": 1e4})
    assert "grad_norm" in names(lines)


@pytest.mark.usefixtures("no_curve")
def test_a_reward_that_can_be_had_by_searching(tmp_path):
    result, lines = run(tmp_path / "run", iterations=9, env_options={"reward": {"search": 1.0}})
    assert "truncated" in names(lines)
    assert result.metrics[-1]["rounds"] > 7


@pytest.mark.usefixtures("no_curve")
def test_the_run_ends_where_it_was_told_to_and_can_go_on(tmp_path):
    result, _ = run(tmp_path / "run", lr=15.0, stop_on_alarm="step_kl", eval_episodes=10)
    (iteration,) = [r["iteration"] for r in result.metrics if r.get("alarms") and "step_kl" in r["alarms"]]
    assert result.metrics[-1]["iteration"] == iteration < RUN["iterations"]
    assert result.after is not None
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["stopped_by"] == "step_kl"
    assert (tmp_path / "run" / "checkpoints" / f"step-{iteration:06d}").is_dir()
    assert resume(tmp_path / "run").metrics[-1]["iteration"] == RUN["iterations"]


def test_an_unknown_alarm_stops_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="unknown alarm 'kls'"):
        run(tmp_path / "run", alarms={"kls": 1})
    with pytest.raises(ConfigError, match="stop_on_alarm names 'kls'"):
        run(tmp_path / "run", stop_on_alarm="kls")
    assert not (tmp_path / "run").exists()
