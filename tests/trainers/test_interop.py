"""The adapters for other projects against the interfaces they were pinned to; tests/interop runs the real packages."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, Generic, TypeVar

import pytest
from toys import Probe

from searchgym import SearchEnv
from searchgym.env.session import OVER
from searchgym.errors import (
    ConfigError,
    MissingExtraError,
    PeerVersionError,
    RetrievalError,
    SnapshotError,
    UnknownIdError,
)
from searchgym.interop import peers

A, B, C = TypeVar("A"), TypeVar("B"), TypeVar("C")


class StubBase(Generic[A, B, C]):
    """A base class of a stubbed package, whatever its type parameters."""

    def __class_getitem__(cls, _: Any) -> Any:
        return cls


def module(name: str, **contents: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(contents)
    return made


def skyrl_modules() -> list[ModuleType]:
    class BaseTextEnv:
        def __init__(self) -> None:
            self.turns, self.max_turns = 0, 1

    base = {"BaseTextEnv": BaseTextEnv, "BaseTextEnvStepOutput": dict, "ConversationType": list}
    return [
        module("skyrl_gym", register=lambda id, entry_point: None),
        module("skyrl_gym.envs"),
        module("skyrl_gym.envs.base_text_env", **base),
    ]


def gem_modules() -> list[ModuleType]:
    constants = module("gem.utils.constants", TERMINAL_STATE="<end>")
    return [module("gem", Env=object, register=lambda id, entry: None), module("gem.utils"), constants]


def verifiers_modules() -> list[ModuleType]:
    pydantic = pytest.importorskip("pydantic", reason="the extra judge is not installed")

    class Task(StubBase[Any, Any, Any]):
        def __init__(self, data: Any, config: Any) -> None:
            self.data, self.config = data, config

    class Configured(StubBase[Any, Any, Any]):
        def __init__(self, config: Any) -> None:
            self.config = config

    names = ("TaskData", "State", "TaskConfig", "TasksetConfig", "EnvConfig", "AgentConfig", "ToolsetConfig")
    open_model = {"model_config": {"extra": "allow"}}
    models = {name: type(name, (pydantic.BaseModel,), dict(open_model)) for name in names}
    hooks = {"tool": lambda f: f, "stop": lambda f: f, "reward": lambda weight: lambda f: f}
    bases = {"Task": Task, "Taskset": Configured, "Env": Configured, "Toolset": Configured}
    v1 = module("verifiers.v1", **models, **hooks, **bases, Trace=Any, Agents=Any)
    return [module("verifiers", v1=v1), v1]


STUBS: dict[str, Callable[[], list[ModuleType]]] = {
    "skyrl": skyrl_modules,
    "gem": gem_modules,
    "verifiers": verifiers_modules,
    "trl": list,
    "trl_rollouts": list,
}
VERSIONS = {"trl": "1.16.0", "verifiers": "0.4.0", "skyrl-gym": "0.4.0", "gem-llm": "0.1.0"}


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Imports an adapter over a stub of its package."""
    monkeypatch.setattr(peers.metadata, "version", VERSIONS.__getitem__)

    def forget() -> None:
        for name in [name for name in sys.modules if name.startswith("searchgym.interop.")]:
            if name != peers.__name__:
                del sys.modules[name]

    def open_adapter(name: str) -> Any:
        for stub in STUBS[name]():
            monkeypatch.setitem(sys.modules, stub.__name__, stub)
        forget()
        return importlib.import_module(f"searchgym.interop.{name}")

    yield open_adapter
    forget()


@pytest.fixture
def down(toy: str) -> Probe:
    """A retriever that is down."""
    return Probe(SearchEnv(corpus=toy).retriever, down=True)


# -- versions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", peers.PEERS)
def test_another_version_is_refused_with_the_tested_range(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = peers.PEERS[name]
    for version in (peer.least, f"{peer.least}.9", f"{peer.least}.0rc1"):
        monkeypatch.setattr(peers.metadata, "version", lambda _, found=version: found)
        peers.check_peer(name)
    for version in (peer.below, "0.0.9", "99.0"):
        monkeypatch.setattr(peers.metadata, "version", lambda _, found=version: found)
        with pytest.raises(
            PeerVersionError, match=f"{peer.package} >={peer.least},<{peer.below}, and {version}"
        ):
            peers.check_peer(name)


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise peers.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(peers.metadata, "version", missing)
    for name, peer in peers.PEERS.items():
        with pytest.raises(MissingExtraError, match=rf'pip install "searchgym\[{peer.extra}\]"'):
            peers.check_peer(name)


# -- TRL -----------------------------------------------------------------------------------------------------

ROW = {"task_id": "employer-town", "prompt": [{"role": "user", "content": "Answer:"}], "other": 3}


def test_trl_sees_only_the_tools_and_the_reward(adapter: Callable[[str], Any], toy: str) -> None:
    factory = adapter("trl").Environments(corpus=toy, top_k=1)
    one, two = factory(), factory()
    assert type(one) is type(two)
    public = {
        name for name, _ in inspect.getmembers(type(one), inspect.isfunction) if not name.startswith("_")
    }
    assert public == {"reset", "get_reward", "search", "answer"}
    question = one._session.env.corpus.question("employer-town").text
    assert one.reset(**ROW) == question
    assert one.reset(prompt=[{"role": "user", "content": f"Answer this. {question}"}]) is None
    assert one.reset(prompt=[{"role": "user", "content": [{"type": "text", "text": question}]}]) is None
    assert one.search(query="Corvin Mills").startswith("[1] Corvin Mills")
    assert one.answer(answer="Tarn") == one.search(query="x") == OVER
    assert one.get_reward() == 1.0
    two.reset(**ROW)
    assert two.get_reward() == 0.0
    with pytest.raises(UnknownIdError, match="country-0"):
        two.reset(task_id="country-0-train-000000")


def test_trl_leaves_out_a_rollout_whose_search_failed(
    adapter: Callable[[str], Any], toy: str, down: Probe
) -> None:
    factory = adapter("trl").Environments(corpus=toy, retriever=down)
    before = factory.dropped().get("retrieval_failed", 0)
    env = factory()
    env.reset(**ROW)
    assert env.search(query="x") == OVER
    assert env.get_reward() is None
    assert factory.dropped()["retrieval_failed"] == before + 1


def test_without_a_data_set_the_members_of_a_group_get_one_question(
    adapter: Callable[[str], Any], small_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = {"prompt": [{"role": "user", "content": ""}]}
    trl = adapter("trl")
    factory = trl.Environments(corpus=small_world, num_generations=4)
    pool = [factory() for _ in range(8)]
    rounds = [[env.reset(**empty) for env in pool] for _ in range(2)]
    for questions in rounds:
        assert [len(set(questions[:4])), len(set(questions[4:]))] == [1, 1]
    assert len({question for questions in rounds for question in questions}) == 4
    again = trl.Environments(corpus=small_world, num_generations=4)
    assert [env.reset(**empty) for env in [again() for _ in range(8)]] == rounds[0]
    monkeypatch.setenv("RANK", "1")
    other = trl.Environments(corpus=small_world, num_generations=4)
    assert {env.reset(**empty) for env in [other() for _ in range(8)]}.isdisjoint(rounds[0])
    with pytest.raises(ConfigError, match="TRL has no data set"):
        trl.Environments(corpus=small_world)().reset(**empty)


def test_rows_for_trl_hold_question_and_id(
    adapter: Callable[[str], Any], toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", module("datasets", Dataset=SimpleNamespace(from_dict=dict)))
    factory = adapter("trl").Environments(corpus=toy)
    rows = factory.dataset("dev")
    assert rows["task_id"][0] == "dev-0"
    system, user = rows["prompt"][0]
    assert "<tools>" not in system["content"]
    assert factory().reset(task_id="dev-0", prompt=rows["prompt"][0]) is None
    assert user["content"] == factory.config.corpus.question("dev-0").text


# -- skyrl-gym -----------------------------------------------------------------------------------------------


def test_skyrl_plays_a_row(adapter: Callable[[str], Any], toy: str) -> None:
    skyrl = adapter("skyrl")
    row = next(row for row in skyrl.rows("train", corpus=toy, top_k=2) if row["task_id"] == "employer-town")
    assert json.loads(row["searchgym"]) == {"corpus": toy, "top_k": 2}
    env = skyrl.SkyRLEnv({"max_rounds": 3, "top_k": 1}, {**row, "max_turns": 5})
    assert (env.max_turns, env.session.env.config.top_k) == (5, 2)
    assert env.init(row["prompt"])[0] is row["prompt"]
    assert env.init([])[0] == row["prompt"]
    out = env.step("<search>Corvin Mills</search>")
    assert (out["done"], out["reward"], out["observations"][0]["role"]) == (False, 0.0, "user")
    out = env.step("<answer>Tarn</answer>")
    assert (out["done"], out["reward"], out["observations"]) == (True, 1.0, [])
    assert env.step("<search>x</search>")["reward"] == 0.0
    assert env.get_metrics()["em"] == 1.0


def test_skyrl_names_what_is_wrong_with_a_row(adapter: Callable[[str], Any], toy: str, down: Probe) -> None:
    make = adapter("skyrl").SkyRLEnv
    with pytest.raises(ConfigError, match="no task_id"):
        make({"corpus": toy}, {})
    with pytest.raises(UnknownIdError):
        make({"corpus": toy}, {"task_id": "country-0"}).init([])
    env = make({"corpus": toy, "retriever": down}, {"task_id": "bare"})
    env.init([])
    with pytest.raises(RetrievalError, match="retrieval_failed") as raised:
        env.step("<search>x</search>")
    assert "SECRET" not in str(raised.value)
    env = make({"corpus": toy, "retriever": down}, {"task_id": "bare", "on_failure": "mark"})
    env.init([])
    assert env.step("<search>x</search>")["done"]
    assert env.get_metrics()["valid"] == 0.0


# -- GEM -----------------------------------------------------------------------------------------------------


def test_gem_plays_and_spawns(adapter: Callable[[str], Any], toy: str, small_world: Any) -> None:
    make = adapter("gem").GEMEnv
    env = make(seed=4, corpus=toy, task_id="employer-town", top_k=1)
    first, info = env.reset()
    assert info["task_id"] == "employer-town"
    assert first.startswith(env.session.env.system_prompt)
    env.step("<search>Corvin Mills</search>")
    twin, other = env.spawn(same_state=True), env.spawn(prompt=False, task_id="bare")
    assert other.reset()[0] == "Who painted in Ostby?"
    assert env.step("<answer>Tarn</answer>") == twin.step("<answer>Tarn</answer>")
    env.reset()
    state = json.loads(json.dumps(env.get_state()))
    with pytest.raises(SnapshotError):
        make(corpus=small_world).set_state(state)
    observation, reward, terminated, truncated, info = env.step("<answer>Tarn</answer>")
    assert (observation, reward, terminated, truncated) == ("<end>", 1.0, True, False)
    env.set_state(state)
    assert env.step("<answer>no</answer>")[1:4] == (0.0, True, False)
    assert make(seed=9, corpus=small_world).reset() == make(seed=9, corpus=small_world).reset()


def test_gem_raises_or_marks_a_failed_search(adapter: Callable[[str], Any], toy: str, down: Probe) -> None:
    env = adapter("gem").GEMEnv(corpus=toy, retriever=down)
    env.reset()
    with pytest.raises(RetrievalError, match="no reward"):
        env.step("<search>x</search>")
    marked = env.spawn(on_failure="mark")
    marked.reset()
    *_, terminated, truncated, info = marked.step("<search>x</search>")
    assert (terminated, truncated, info["valid_for_training"]) == (False, True, False)
    with pytest.raises(ConfigError, match="on_failure"):
        env.spawn(on_failure="zero")


# -- verifiers -----------------------------------------------------------------------------------------------


def trace_of(verifiers: Any) -> Any:
    metrics: dict[str, float] = {}
    return SimpleNamespace(state=verifiers.SearchGymState(), metrics=metrics, record_metrics=metrics.update)


def taskset(verifiers: Any, toy: str, dialect: str, /, **arguments: Any) -> dict[str, Any]:
    config = verifiers.SearchGymTasksetConfig(
        arguments={"corpus": toy, **arguments},
        split="train",
        task=verifiers.SearchGymTaskConfig(dialect=dialect),
    )
    return {task.key: task for task in verifiers.SearchGymTaskset(config).load()}


def test_verifiers_scores_tool_calls_from_the_state(adapter: Callable[[str], Any], toy: str) -> None:
    verifiers = adapter("verifiers")
    task = taskset(verifiers, toy, "tools", top_k=1, reward={"em": 1.0, "recall": 0.5})["employer-town"]
    (tools,) = task.toolsets(task.config)
    assert "<tools>" not in task.data.system_prompt
    trace = trace_of(verifiers)
    tools.state = trace.state
    asyncio.run(tools.setup_task(task.data))
    assert tools.search("Corvin Mills").startswith("[1] ")
    assert not asyncio.run(task.over(trace))
    # The model stops here: the environment ends the episode from its snapshot, and pays for what was found.
    early = trace_of(verifiers)
    early.state = trace.state.model_copy(deep=True)
    assert asyncio.run(task.searchgym(early)) == 0.25
    assert early.metrics["recall"] == 0.5
    assert tools.answer("Tarn") == OVER
    assert asyncio.run(task.over(trace))
    assert asyncio.run(task.searchgym(trace)) == 1.25
    assert trace.metrics["em"] == 1.0
    assert asyncio.run(task.searchgym(trace_of(verifiers))) == 0.0


def test_verifiers_plays_messages_as_the_user(adapter: Callable[[str], Any], toy: str) -> None:
    verifiers = adapter("verifiers")
    task = taskset(verifiers, toy, "tags")["employer-town"]
    assert task.toolsets(task.config) == []
    trace, heard = trace_of(verifiers), []

    class Interaction:
        replies = iter(["<search>Corvin Mills</search>", "<answer>Tarn</answer>"])

        async def __aenter__(self) -> Any:
            self.trace = trace
            return self

        async def __aexit__(self, *_: Any) -> None: ...

        async def turn(self, message: str | None = None) -> Any:
            heard.append(message)
            return SimpleNamespace(terminated=False, last_reply=next(self.replies))

    agents = SimpleNamespace(agent=SimpleNamespace(interaction=lambda task: Interaction()))
    asyncio.run(verifiers.SearchGymEnv(None).run(task, agents))
    assert heard[0] is None
    assert "<information>" in heard[1]
    assert asyncio.run(task.searchgym(trace)) == 1.0


def test_verifiers_drops_a_failed_search_and_refuses_what_it_cannot_offer(
    adapter: Callable[[str], Any], toy: str, down: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifiers = adapter("verifiers")
    task = taskset(verifiers, toy, "tools")["employer-town"]
    monkeypatch.setitem(task.data.arguments, "retriever", down)
    (tools,) = task.toolsets(task.config)
    trace = trace_of(verifiers)
    tools.state = trace.state
    asyncio.run(tools.setup_task(task.data))
    assert tools.search("x") == OVER
    with pytest.raises(RetrievalError, match="retrieval_failed"):
        asyncio.run(task.searchgym(trace))
    with pytest.raises(ConfigError, match="use dialect tags"):
        taskset(verifiers, toy, "tools", max_queries=2)
    with pytest.raises(ConfigError, match=r"give env\.taskset\.task\.dialect"):
        taskset(verifiers, toy, "tags", dialect="tools")
