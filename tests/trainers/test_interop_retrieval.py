"""Adapters against stand-ins for their projects' interfaces: MCP, LangChain, LlamaIndex, OpenEnv, verl."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fixtures import peers as stand_ins
from toys import FixedRetriever

import searchgym
from searchgym.cli import main
from searchgym.errors import ConfigError, MissingExtraError, PeerVersionError, RetrievalError
from searchgym.interop import peers
from searchgym.records.retriever import Hit

HITS = [Hit("a", "Ada", "A text.", 2.0), Hit("b", "", "B text.", 1.0)]


class Down:
    """A retriever whose server does not answer."""

    name, index_hash = "down", "down"

    def search(self, queries: Any, k: int) -> Any:
        raise RetrievalError("connection refused by http://secret")


class Found:
    """Finds the same for every query but the empty one, and counts calls."""

    name, index_hash, calls = "found", "found", 0

    def search(self, queries: Any, k: int) -> Any:
        self.calls += 1
        return [HITS[:k] if query else [] for query in queries]


def adapter(name: str) -> Any:
    return importlib.import_module(f"searchgym.interop.{name}")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.install(monkeypatch)


@pytest.mark.usefixtures("stand_in")
class TestMCP:
    def call(self, retriever: Any, toy: str, name: str, **arguments: Any) -> Any:
        server = adapter("mcp").create_server(retriever, searchgym.open_corpus(toy), top_k=2)
        return asyncio.run(server.tools[name](**arguments))

    def test_what_was_found_is_text_and_data(self, toy: str) -> None:
        result = self.call(Found(), toy, "search", query="x")
        assert result.content[0]["text"] == "[1] Ada (id a)\nA text.\n\n[2] (id b)\nB text."
        assert result.structuredContent == {"hits": [hit._asdict() for hit in HITS]}
        nothing = self.call(Found(), toy, "search", query="")
        assert (nothing.content[0]["text"], nothing.isError) == ("Nothing was found.", False)

    def test_failures_are_errors_without_reasons(self, toy: str) -> None:
        result = self.call(Down(), toy, "search", query="x")
        assert result.isError
        assert "secret" not in result.content[0]["text"]
        assert self.call(Found(), toy, "search", query="x", top_k=0).isError

    def test_pages(self, toy: str) -> None:
        passage = searchgym.open_corpus(toy).passages[0]
        page = self.call(Found(), toy, "open_page", id=passage.id)
        assert page.structuredContent == {"id": passage.id, "title": passage.title, "text": passage.text}
        assert self.call(Found(), toy, "open_page", id="nowhere").isError


@pytest.mark.usefixtures("stand_in")
def test_langchain(toy: str) -> None:
    retriever = adapter("langchain").SearchGymRetriever(retriever=Found(), k=2)
    first, _ = retriever.invoke("x")
    assert (first.id, first.page_content, first.metadata) == ("a", "A text.", {"title": "Ada", "score": 2.0})
    retriever.retriever.calls = 0
    assert [len(documents) for documents in retriever.batch(["x", "", "x"])] == [2, 0, 2]
    assert retriever.retriever.calls == 1
    with pytest.raises(RetrievalError):
        adapter("langchain").SearchGymRetriever(retriever=Down(), k=2).batch(["x"])
    opened = adapter("langchain").SearchGymRetriever.open("bm25", toy, k=1)
    assert len(opened.invoke("river")) == 1


@pytest.mark.usefixtures("stand_in")
def test_llamaindex() -> None:
    kind = adapter("llamaindex").SearchGymRetriever
    assert [(n.node.id_, n.score) for n in kind(Found(), similarity_top_k=2).retrieve("x")] == [
        ("a", 2.0),
        ("b", 1.0),
    ]
    with pytest.raises(RetrievalError):
        kind(Down()).retrieve("x")
    with pytest.raises(ConfigError, match="similarity_top_k is 0"):
        kind(Found(), similarity_top_k=0)


@pytest.mark.usefixtures("stand_in")
class TestOpenEnv:
    def test_an_episode_is_played_and_kept(self, toy: str, tmp_path: Path) -> None:
        log = adapter("episode_log").EpisodeLog(tmp_path / "episodes.jsonl", "someone")
        session = adapter("openenv_app").create_app("SearchQA-v0", {"corpus": toy}, log=log)()
        message = adapter("openenv").Message
        begun = session.reset(split="dev", index=0)
        question = searchgym.open_corpus(toy).question(begun.info["task_id"])
        assert begun.text == question.text
        assert "system_prompt" in begun.info
        step = session.step(message(message="<search> river </search>"))
        assert (step.done, step.reward, step.info["task_id"]) == (False, 0.0, question.id)
        state = session.state
        assert (state.step_count, state.task_id) == (1, question.id)
        end = session.step(message(message=f"<answer> {question.answers[0]} </answer>"))
        assert (end.done, end.reward, end.text) == (True, 1.0, "")
        assert session.state.snapshot is None
        (episode,) = searchgym.load_episodes(tmp_path / "episodes.jsonl")
        assert (episode.agent, episode.outcome.em, len(episode.rounds)) == ("someone", 1.0, 2)
        env = searchgym.SearchEnv(corpus=toy)
        env.restore(state.snapshot)
        assert env.step("<answer> x </answer>")[2]

    def test_tasks_and_bad_input(self, toy: str) -> None:
        session = adapter("openenv_app").create_app("SearchQA-v0", {"corpus": toy})()
        count = session.num_tasks("dev")
        tasks = session.list_tasks("dev")
        assert [task["index"] for task in tasks] == list(range(count))
        assert session.get_task("dev", count - 1) == tasks[-1]
        for refused, message in (
            ({"split": "dev", "index": count}, "the split has"),
            ({"task_id": "of another corpus"}, "unknown task"),
            ({"strat": 3}, "unknown reset option 'strat'"),
        ):
            with pytest.raises((ConfigError, IndexError), match=message):
                session.reset(**refused)

    def test_a_failed_search_has_no_reward(self, toy: str) -> None:
        server = adapter("openenv_server")
        session = server.SearchEnvironment({"corpus": toy, "retriever": Down()})
        session.reset()
        end = session.step(adapter("openenv").Message(message="<search> river </search>"))
        assert (end.done, end.reward, end.info["valid_for_training"]) == (True, None, False)


class Sampler:
    """verl's server: gives the messages of a script."""

    def __init__(self, messages: list[str]) -> None:
        self.messages, self.version = iter(messages), 0

    async def generate(self, **_: Any) -> Any:
        ids = [ord(c) for c in next(self.messages)]
        self.version += 1
        versions = {"min_global_steps": self.version, "max_global_steps": self.version}
        return SimpleNamespace(token_ids=ids, log_probs=[-1.0] * len(ids), extra_fields=versions)


@pytest.mark.usefixtures("stand_in")
class TestVerl:
    def play(
        self, toy: str, messages: list[str], length: int = 100_000, config: Any = None, **arguments: Any
    ) -> Any:
        (row, *_) = adapter("verl_rows").rows("dev", corpus=toy)
        rollout = SimpleNamespace(response_length=length)
        loop = adapter("verl").SearchAgentLoop(rollout, Sampler(messages), config, arguments=arguments)
        row["extra_info"]["arguments"] = "{}" if arguments else row["extra_info"]["arguments"]
        return asyncio.run(loop.run({}, extra_info=row["extra_info"])), row

    def test_only_the_models_tokens_are_trained_on(self, toy: str) -> None:
        answer = adapter("verl_rows").rows("dev", corpus=toy)[0]["reward_model"]["ground_truth"][0]
        said = ["<search> river </search>", f"<answer> {answer} </answer>"]
        output, row = self.play(toy, said)
        assert output.reward_score == 1.0
        sampled = [chr(i) for i, m in zip(output.response_ids, output.response_mask, strict=True) if m]
        assert "".join(sampled) == "".join(said)
        assert [chr(i) for i in output.prompt_ids] == list("".join(m["content"] for m in row["prompt"]))
        assert output.extra_fields["reward_extra_info"]["em"] == 1.0
        # Of the first and the last message: verl's trainer reads them as numbers.
        versions = [output.extra_fields[f"{end}_global_steps"] for end in ("min", "max")]
        assert versions == [1, 2]

    @pytest.mark.parametrize("sampled", ["", "|"])
    def test_a_message_is_closed_once(self, toy: str, sampled: str) -> None:
        """By the model, or after a closing tag at which the server stopped."""
        output, _ = self.play(toy, [f"<search> river </search>{sampled}", "<answer> x </answer>"])
        shown = "".join(map(chr, output.response_ids))
        assert shown.startswith("<search> river </search>|<information>")
        assert shown.count("|") == 1
        assert output.response_mask[shown.index("|")] == len(sampled)
        assert len(output.response_logprobs) == len(output.response_ids) == len(output.response_mask)

    def test_a_lost_episode_trains_nothing(self, toy: str) -> None:
        output, _ = self.play(toy, ["<search> river </search>"], corpus=toy, retriever=Down())
        assert (output.reward_score, sum(output.response_mask)) == (0.0, 0)
        assert output.extra_fields["reward_extra_info"]["valid"] == 0.0

    def test_a_trainer_that_can_drop_a_rollout_is_told(self, toy: str) -> None:
        told = {"trainer": {"use_v1": True}}
        with pytest.raises(RetrievalError, match="drops the rollout"):
            self.play(toy, ["<search> river </search>"], config=told, corpus=toy, retriever=Down())

    def test_a_full_response_ends_the_episode(self, toy: str) -> None:
        output, _ = self.play(toy, ["<search> river </search>"], length=10)
        assert len(output.response_ids) == len(output.response_mask) == 10
        assert output.extra_fields["reward_extra_info"]["em"] == 0.0

    def test_tools_share_the_episode_of_a_trajectory(self, toy: str) -> None:
        module = adapter("verl_tools")
        (row, *_) = adapter("verl_rows").rows("dev", agent_name="searchgym_tools", corpus=toy)
        listed = adapter("verl_rows").tool_config(corpus=toy)["tools"]
        assert {entry["class_name"] for entry in listed} == {"searchgym.interop.verl_tools.SearchTool"}
        made = [module.SearchTool(entry["config"], entry["tool_schema"]) for entry in listed]
        by_name = {tool.name: tool for tool in made}
        trajectory = SimpleNamespace(
            tools_kwargs=row["extra_info"]["tools_kwargs"], extra_fields={}, response_mask=[1] * 7
        )
        answer = row["reward_model"]["ground_truth"][0]
        calls = [
            ("search", {"query": "river"}),
            ("answer", {"answer": answer}),
            ("search", {"query": "river"}),
        ]
        seen = [asyncio.run(by_name[n].execute("", a, agent_data=trajectory)) for n, a in calls]
        assert [reward for _, reward, _ in seen] == [0.0, 1.0, 0.0]
        assert "<tool_response>" not in seen[0][0].text
        output = stand_ins.Output(
            [], list(range(9)), [1] * 9, [0.0] * 9, extra_fields=trajectory.extra_fields
        )
        played = asyncio.run(module.SearchToolAgentLoop(8192, output).run({}))
        assert (played.reward_score, len(played.response_ids), len(played.response_logprobs)) == (1.0, 7, 7)

    def test_the_reward_is_not_read_from_the_text(self) -> None:
        score = adapter("verl_tools").compute_score
        assert score("", "<answer> Paris </answer>", "Paris", {})["score"] == 0.0
        lost = {"searchgym": {"reward": 0.5, "valid": False}}
        assert (score("", "", "", lost)["score"], score("", "", "", lost)["valid"]) == (0.0, 0.0)
        assert (
            score("", "", "", lost).keys() == score("", "", "", {}).keys()
        )  # verl wants the same in each row

    def test_a_loop_that_cuts_passages_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="max_tool_response_length is 256"):
            adapter("verl_tools").SearchToolAgentLoop(256, None)


@pytest.mark.parametrize("command", [["mcp", "bm25", "--corpus", "country"], ["openenv"]])
def test_commands_name_a_missing_extra(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(package: str) -> str:
        raise peers.metadata.PackageNotFoundError(package)

    for name in [
        name for name in sys.modules if name.startswith("searchgym.interop.") and "peers" not in name
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(peers.metadata, "version", missing)
    assert main(command) != 0
    assert f'pip install "searchgym[{command[0]}]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["mcp", "openenv", "langchain", "llamaindex", "verl", "verl_tools", "trl_rollouts"]
)
def test_missing_and_untested_versions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise peers.metadata.PackageNotFoundError(package)

    stand_ins.install(monkeypatch)
    monkeypatch.setattr(peers.metadata, "version", missing)
    with pytest.raises(MissingExtraError, match=rf"searchgym\[{name.partition('_')[0]}\]"):
        adapter(name)
    monkeypatch.setattr(peers.metadata, "version", lambda package: "99.1")
    with pytest.raises(PeerVersionError, match=r"was tested with .* 99\.1 is installed"):
        adapter(name)


def test_rows_for_tools_do_not_ask_for_tags(toy: str) -> None:
    by_loop = {
        n: adapter("verl_rows").rows("dev", agent_name=n, corpus=toy)
        for n in ("searchgym", "searchgym_tools")
    }
    tags, tools = (rows[0]["prompt"][0]["content"] for rows in by_loop.values())
    assert "<search>" in tags
    assert "<search>" not in tools
    assert "tool call" in tools


def test_a_list_of_queries_is_described_to_verl(toy: str) -> None:
    search, _ = adapter("verl_rows").tool_config(corpus=toy, max_queries=3)["tools"]
    (queries,) = search["tool_schema"]["function"]["parameters"]["properties"].values()
    assert queries["description"] == "a list of texts: what to look for"


def test_rows_hold_json_values(toy: str) -> None:
    rows = adapter("verl_rows").rows("dev", corpus=toy, top_k=2)
    assert json.loads(rows[0]["extra_info"]["arguments"]) == {"corpus": toy, "top_k": 2}
    with pytest.raises(ConfigError, match="not a JSON value"):
        adapter("verl_rows").rows("dev", corpus=toy, retriever=FixedRetriever([]))
