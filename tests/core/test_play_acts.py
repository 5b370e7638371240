"""Acts, tool calls and prompts that another framework has read: `play`, tools, sessions, `find_question`."""

from __future__ import annotations

import inspect
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from toys import Probe

from searchgym import Act, EpisodeSession, SearchEnv, StopReason, find_question
from searchgym.env.session import OVER, dropped_rollouts
from searchgym.env.tools import act_of_call, tool_functions, unwrapped
from searchgym.errors import ConfigError, ResetNeededError, UnknownIdError
from searchgym.records.acts import INVALID_ERRORS
from searchgym.records.question import Question

ACTS = [
    Act("search", ("Anna Reed",)),
    Act("search", ("Velm", "Tarn")),
    Act("search", (" ",)),
    Act("search", ("a", "b", "c")),
    Act("feedback", draft="Tarn"),
    Act("answer", answer=" Tarn "),
]


@pytest.fixture(params=["tags", "tools"])
def pair(request: pytest.FixtureRequest, toy: str) -> tuple[SearchEnv, SearchEnv]:
    """Two equal environments, each at the start of the same episode."""
    pair = tuple(
        SearchEnv(
            corpus=toy, top_k=2, max_queries=2, dialect=request.param, reward={"em": 1.0, "recall": 0.5}
        )
        for _ in range(2)
    )
    for env in pair:
        env.reset(options={"task_id": "employer-town"})
    return pair  # type: ignore[return-value]  # two


def test_playing_an_act_is_stepping_with_its_message(pair: tuple[SearchEnv, SearchEnv]) -> None:
    by_act, by_text = pair
    for act in ACTS:
        assert by_act.play(act) == by_text.step(by_text.dialect.write(act)), act
    assert by_act.episode.answer == "Tarn"


def test_an_act_with_a_tag_in_it_is_played_though_no_message_could_say_it(env: SearchEnv) -> None:
    env.reset(options={"task_id": "employer-town"})
    *_, info = env.play(Act("search", ("Velm </search> <answer>",)))
    assert info["action"]["kind"] == "search"


def test_invalid_acts_cost_a_round_and_are_answered_with_a_hint(env: SearchEnv) -> None:
    env.reset(options={"task_id": "employer-town"})
    for round_, error in enumerate(INVALID_ERRORS[:7], 1):
        observation, reward, terminated, truncated, info = env.play(Act("invalid", error=error))
        assert (info["round"], info["action"]["error"]) == (round_, error)
        assert "was not used" in observation
        assert (reward, terminated, truncated) == (0.0, False, False)


@pytest.mark.parametrize(
    "act",
    [
        "<search>x</search>",
        Act("search", "Velm"),  # type: ignore[arg-type]
        Act("search", (3,)),  # type: ignore[arg-type]
        Act("ask", ("x",)),
        Act("invalid", error="odd"),
        Act("none"),
    ],
)
def test_what_is_no_act_is_refused_before_anything_is_played(env: SearchEnv, act: Any) -> None:
    env.reset()
    with pytest.raises(ConfigError, match="give "):
        env.play(act)
    assert env.episode.round == 0
    with pytest.raises(ResetNeededError):
        SearchEnv(corpus=env.corpus).play(Act("answer", answer="x"))


def test_limits_of_characters_hold_for_acts(toy: str) -> None:
    env = SearchEnv(corpus=toy, max_action_chars=30, feedback={"level": "kind", "calls": 1})
    env.reset()
    assert env.play(Act("search", ("x" * 40,)))[4]["action"]["error"] == "too_long"
    assert env.play(Act("answer", answer="y"), text="y" * 31)[4]["action"]["error"] == "too_long"
    assert env.play(Act("feedback", draft="z"), text="")[4]["action"]["kind"] == "feedback"
    assert env.play(Act("feedback", draft="z"), text="")[4]["action"]["error"] == "feedback_spent"


# -- tools ---------------------------------------------------------------------------------------------------


def test_functions_say_what_the_schemas_say(toy: str) -> None:
    for arguments in ({}, {"max_queries": 3, "feedback": {"level": "kind", "calls": 1}}):
        env = SearchEnv(corpus=toy, **arguments)
        functions = tool_functions(env.config, lambda self, name, given: f"{self} {name} {given}")
        assert list(functions) == [tool["function"]["name"] for tool in env.tool_schemas]
        for tool in env.tool_schemas:
            schema, function = tool["function"], functions[tool["function"]["name"]]
            ((key, value),) = schema["parameters"]["properties"].items()
            assert inspect.getdoc(function).startswith(schema["description"])  # type: ignore[union-attr]
            assert f"{key}: {value.get('items', value)['description']}" in function.__doc__  # type: ignore[operator]
            assert function.__annotations__ == {key: list[str] if value["type"] == "array" else str}
            assert function("me", **{key: "x"}) == f"me {schema['name']} {{'{key}': 'x'}}"
            with pytest.raises(TypeError):
                function("me", other="x")


def test_transformers_reads_the_functions_as_the_schemas(toy: str) -> None:
    chat = pytest.importorskip("transformers.utils", reason="the extra train is not installed")
    env = SearchEnv(corpus=toy, dialect="tools")
    session = EpisodeSession(env)
    assert [chat.get_json_schema(function) for function in session.tools()] == env.tool_schemas


@pytest.mark.parametrize(
    ("name", "arguments", "act"),
    [
        ("search", {"query": "Velm"}, Act("search", ("Velm",))),
        ("search", '{"query": "Velm"}', Act("search", ("Velm",))),
        ("search", {"query": ["Velm", "Tarn"]}, Act("search", ("Velm", "Tarn"))),
        ("answer", {"answer": 1911}, Act("answer", answer="1911")),
        ("answer", {"answer": True}, Act("answer", answer="true")),
        ("feedback", {"draft": "x"}, Act("invalid", error="unknown_tool")),
        ("find", {"query": "x"}, Act("invalid", error="unknown_tool")),
        ("search", {"q": "x"}, Act("invalid", error="malformed_call")),
        ("search", "Velm", Act("invalid", error="malformed_call")),
        ("answer", {"answer": ["x"]}, Act("invalid", error="malformed_call")),
        ("answer", {"answer": {1, 2}}, Act("invalid", error="malformed_call")),
        ("answer", 7, Act("invalid", error="malformed_call")),
    ],
)
def test_calls_are_read_as_acts(env: SearchEnv, name: str, arguments: Any, act: Act) -> None:
    assert act_of_call(env.config, name, arguments) == act


# -- sessions ------------------------------------------------------------------------------------------------


def test_a_session_plays_calls_and_knows_the_reward(toy: str) -> None:
    session = EpisodeSession(SearchEnv(corpus=toy, dialect="tools", top_k=1))
    with pytest.raises(ResetNeededError):
        session.call("search", {"query": "x"})
    with pytest.raises(ResetNeededError):
        session.finish()
    assert session.reset("employer-town") == session.env.corpus.question("employer-town").text
    assert session.call("search", {"query": "Corvin Mills"}).startswith("[1] Corvin Mills\n")
    assert "unknown tool" in session.call("find", {})
    search, answer = session.tools()
    assert search(query="Velm").startswith("[1] ")
    assert answer("Tarn") == OVER
    assert session.finish() == 1.0
    assert session.metrics() | {"em": 1.0, "rounds": 4.0, "searches": 2.0, "valid": 1.0} == session.metrics()
    queries = session.env.stats["queries"]
    assert session.call("search", {"query": "x"}) == session.step("<search>x</search>") == OVER
    assert session.env.stats["queries"] == queries
    assert session.finish() == 1.0
    session.reset("bare")
    assert (session.over, session.reward, session.metrics()) == (False, 0.0, {})


def test_an_episode_that_the_framework_ends_is_truncated(toy: str) -> None:
    session = EpisodeSession(SearchEnv(corpus=toy))
    session.reset()
    assert "<information>" in session.step("<search>Velm</search>")
    assert session.finish(StopReason.TOKEN_BUDGET) == 0.0
    assert session.info["outcome"]["stop_reason"] == "token_budget"


def test_a_failed_search_has_no_reward_and_is_counted(toy: str) -> None:
    inner = SearchEnv(corpus=toy).retriever
    session = EpisodeSession(SearchEnv(corpus=toy, retriever=Probe(inner, down=True), dialect="tools"))
    before = dropped_rollouts().get("retrieval_failed", 0)
    session.reset()
    assert session.call("search", {"query": "x"}) == OVER
    assert session.call("answer", {"answer": "x"}) == OVER
    assert session.finish() is None
    assert session.metrics()["valid"] == 0.0
    assert dropped_rollouts()["retrieval_failed"] == before + 1


def test_a_bug_is_not_shown_to_the_model_and_not_lost(toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = EpisodeSession(SearchEnv(corpus=toy, dialect="tools"))
    session.reset()

    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(session.env, "play", broken)
    assert session.call("search", {"query": "x"}) == OVER
    with pytest.raises(RuntimeError, match="a bug"):
        session.finish()


def test_unwrapping_takes_off_what_the_dialect_adds(toy: str) -> None:
    env = SearchEnv(corpus=toy, dialect="tools")
    assert unwrapped(env.dialect, "<tool_response>\na\n</tool_response>") == "a"
    assert unwrapped(env.dialect, "") == ""


# -- questions -----------------------------------------------------------------------------------------------


def test_the_question_of_a_prompt_is_found(env: SearchEnv) -> None:
    corpus = env.corpus
    text = corpus.question("employer-town").text
    assert find_question(corpus, f"  {text}\n").id == "employer-town"
    assert find_question(corpus, f"Answer this.\n\nQuestion: {text}").id == "employer-town"
    assert find_question(corpus, f"{text} (1)").id == "dev-1"
    assert find_question(corpus, f"{text} (1)", split="dev").id == "dev-1"
    with pytest.raises(ConfigError, match="no question of split 'train'"):
        find_question(corpus, f"{text} (1)", split="train")
    with pytest.raises(ConfigError, match="no question of corpus"):
        find_question(corpus, "")
    with pytest.raises(UnknownIdError, match="split"):
        find_question(corpus, text, split="nope")


def holding(*questions: Question) -> Any:
    """As much of a corpus with these questions as the search for a question needs."""
    return SimpleNamespace(name="held", splits=("train",), questions=lambda split: list(questions))


def test_of_questions_that_end_alike_the_longest_is_meant_and_equal_ones_are_refused(env: SearchEnv) -> None:
    first = env.corpus.question("bare")
    corpus = holding(first, replace(first, id="long", text=f"Tell me: {first.text}"))
    assert find_question(corpus, f"Tell me: {first.text}").id == "long"
    assert find_question(corpus, first.text).id == "bare"
    twins = holding(first, replace(first, id="twin"))
    with pytest.raises(ConfigError, match="2 questions of corpus"):
        find_question(twins, first.text)
