"""The viewer without a browser: sources, the index, episodes with their credit, the server's answers, the exported file."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from helpers import CommandLine, start_searchgym, wait_until
from viewer_run import HOSTILE, hostile, metrics, played, write_run

import searchgym
from searchgym.errors import ConfigError, EpisodeFileError
from searchgym.files import lock_file
from searchgym.records.episode import load_episodes, save_episodes
from searchgym.trainers.viewer import library as library_module
from searchgym.trainers.viewer.cli import _listen
from searchgym.trainers.viewer.library import Library
from searchgym.trainers.viewer.sources import describe, find_sources

ROOT = Path(__file__).resolve().parents[2]
VIEWER = ROOT / "trainers" / "viewer"


@pytest.fixture(scope="module")
def made(toy: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "mine", toy)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "mine"))


def opened(*paths: Path) -> Library:
    library = Library(list(paths))
    library.refresh()
    return library


def rows(library: Library) -> dict[str, list[dict[str, Any]]]:
    """The rows of every file, by its key."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in library.state()["files"]:
        found[file["key"]] = []
        blocks = library.index.blocks([block for block, _ in file["blocks"]])
        for block, _ in file["blocks"]:
            columns = json.loads(blocks[block])
            plain = {
                name: values
                if isinstance(values, list)
                else [values["values"][code] for code in values["codes"]]
                for name, values in columns.items()
            }
            found[file["key"]] += [
                dict(zip(plain, one, strict=True)) for one in zip(*plain.values(), strict=True)
            ]
    return found


def test_the_rows_are_those_of_the_files(run: Path) -> None:
    library = opened(run)
    found = rows(library)
    assert list(found) == ["mine/train-000001", "mine/train-000002", "mine/eval-000002"]
    for key, table in found.items():
        episodes = list(load_episodes(run / "episodes" / f"{key.split('/')[1]}.jsonl"))
        assert [(r["line"], r["episode_id"], r["question"], r["em"], r["rounds"], r["stop"], r["gold"]) for r in table] == [
            (i, e.episode_id, e.question, e.outcome.em, len(e.rounds), e.outcome.stop_reason, e.gold["answers"][0])
            for i, e in enumerate(episodes)
        ]  # fmt: skip
        for row, episode in zip(table, episodes, strict=True):
            assert library.episode(key, row["line"])["episode"] == json.loads(json.dumps(episode.to_json()))
    files = {
        file["key"]: (file["kind"], file["iteration"], file["trainer"]) for file in library.state()["files"]
    }
    assert files["mine/train-000002"] == ("train", 2, "cw-grpo")
    assert library.state()["ready"]


def test_errors_and_budgets_are_columns(run: Path, toy: str) -> None:
    episodes = played(toy, "oracle")
    episodes[0].rounds[0].action = type(episodes[0].rounds[0].action)("invalid", error="no_act")
    episodes[1].rounds[0].judge = type(episodes[1].rounds[0].judge).error("down")
    episodes[2].valid_for_training = False
    save_episodes(run.parent / "odd.jsonl", episodes)
    table = rows(opened(run.parent / "odd.jsonl"))["odd"]
    assert [(row["errors"], row["valid"]) for row in table] == [
        ("no_act", True), ("judge_failed", True), ("", False), ("", True),
    ]  # fmt: skip


def test_an_episode_comes_with_its_own_credit(run: Path) -> None:
    library = opened(run)
    for line in range(4):
        found = library.episode("mine/train-000002", line)
        rounds = len(found["episode"]["rounds"])
        expected = [0.5, *[-0.25] * (rounds - 1)]
        assert found["credit"]["rounds"] == found["credit"]["tokens"] == expected
        assert (found["credit"]["status"], found["credit"]["unit"], found["credit"]["limit"]) == (
            "learned",
            "round",
            0.5,
        )
    assert library.episode("mine/eval-000002", 0)["credit"] is None


def test_a_damaged_credit_is_a_problem_of_the_episode_only(run: Path) -> None:
    path = run / "credit" / "train-000002.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    found = opened(run).episode("mine/train-000002", 0)
    assert found["credit"] is None
    assert "damaged" in found["problems"][0]


def test_an_audit_shows_the_true_advantage(toy: str, tmp_path: Path) -> None:
    episodes = played(toy, "oracle")
    (tmp_path / "audit.json").write_text('{"rules": []}')
    save_episodes(tmp_path / "episodes.jsonl", episodes)
    values = [{"episode_id": e.episode_id, "values": [0.5] * len(e.rounds), "advantages": [-0.25] * len(e.rounds), "errors": [0.0] * len(e.rounds), "credit": {"grpo": [2.0] * len(e.rounds)}} for e in episodes]  # fmt: skip
    (tmp_path / "advantages.json").write_text(json.dumps({"schema": 1, "episodes": values}))
    library = opened(tmp_path)
    found = library.episode(tmp_path.name, 1)["advantages"]
    assert found["episode_id"] == episodes[1].episode_id
    assert found["advantages"] == [-0.25] * len(episodes[1].rounds)
    assert found["limits"] == {"true advantage": 0.25, "grpo": 2.0}
    (tmp_path / "advantages.json").write_text("{")
    assert "advantages.json" in library.episode(tmp_path.name, 1)["problems"][0]


def test_search_finds_words_and_their_beginnings(run: Path) -> None:
    library = opened(run)
    table = rows(library)
    question = table["mine/train-000001"][0]["question"]
    (block, _), *_ = library.state()["files"][0]["blocks"]
    same = [i for i, row in enumerate(table["mine/train-000001"]) if row["question"] == question]
    assert set(same) <= set(json.loads(library.index.search(question))[str(block)])
    assert library.index.search(question.split()[0][:3]) != "{}"
    assert library.index.search("zzzz") == library.index.search("'\"*") == "{}"


def test_search_finds_the_texts_of_passages(tmp_path: Path, toy: str) -> None:
    """Words of a passage, also together with one of the question: in every row that shows it, and in no other."""
    episodes = searchgym.rollout("SearchQA-v0", "copy", 8, corpus=toy, top_k=1)
    save_episodes(tmp_path / "a.jsonl", episodes)
    library = opened(tmp_path / "a.jsonl")
    ((block, _),) = library.state()["files"][0]["blocks"]
    texts = [" ".join(hit.text for record in e.rounds for hit in record.hits).lower() for e in episodes]
    own = " ".join(
        [e.question + " ".join(r.text + "".join(h.title for h in r.hits) for r in e.rounds) for e in episodes]
    ).lower()

    def shown(word: str) -> list[int]:
        return [i for i, text in enumerate(texts) if re.search(rf"\b{word}", text)]

    words = {word for text in texts for word in re.findall(r"[a-z]{4,}", text) if word not in own}
    word = min(words, key=lambda word: (len(shown(word)), word))
    assert 0 < len(shown(word)) < len(episodes)
    assert json.loads(library.index.search(word)) == {str(block): shown(word)}
    asked = re.findall(r"\w+", episodes[shown(word)[0]].question)[0]
    both = json.loads(library.index.search(f"{word} {asked}"))[str(block)]
    assert shown(word)[0] in both
    assert set(both) <= set(shown(word))
    assert library.index.search(f"{word} zzzz") == "{}"


def test_passages_of_a_file_that_is_gone_are_not_found(tmp_path: Path, toy: str) -> None:
    episodes = searchgym.rollout("SearchQA-v0", "copy", 2, corpus=toy)
    word = re.findall(r"\w+", episodes[0].rounds[0].hits[0].text)[-1]
    for name in ("a", "b"):
        save_episodes(tmp_path / f"{name}.jsonl", episodes)
    library = opened(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert len(json.loads(library.index.search(word))) == 2
    (tmp_path / "b.jsonl").write_text("")
    library.refresh()
    with library.index._open() as connection:
        assert connection.execute("SELECT count(DISTINCT block) FROM shown").fetchone() == (1,)


def test_an_index_follows_a_run_that_is_written(run: Path, toy: str) -> None:
    library = opened(run)
    save_episodes(run / "episodes" / "train-000003.jsonl", played(toy, "oracle", 90))
    (run / "episodes" / "train-000001.jsonl").unlink()  # a run keeps its newest episodes
    library.refresh()
    found = rows(library)
    assert list(found) == ["mine/train-000002", "mine/train-000003", "mine/eval-000002"]
    assert len(found["mine/train-000003"]) == 4
    with pytest.raises(EpisodeFileError, match="any more"):
        library.episode("mine/train-000001", 0)


def test_a_file_that_grows_is_read_on_and_a_replaced_one_again(toy: str, tmp_path: Path) -> None:
    path, whole = tmp_path / "all.jsonl", tmp_path / "whole.jsonl"
    save_episodes(whole, played(toy, "oracle"))
    lines = whole.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:100])
    library = opened(path)
    (file,) = library.state()["files"]
    assert (file["lines"], len(file["problems"])) == (1, 1)
    assert "line 2" in file["problems"][0]
    assert "cut off" in file["problems"][0]
    first = file["blocks"]
    with path.open("ab") as handle:
        handle.write(lines[1][100:] + lines[2])
    library.refresh()
    (file,) = library.state()["files"]
    assert (file["lines"], file["problems"], file["blocks"][:1]) == (3, [], first)
    assert [row["line"] for row in rows(library)["all"]] == [0, 1, 2]
    save_episodes(path, played(toy, "random")[:1])
    library.refresh()
    assert [row["line"] for row in rows(library)["all"]] == [0]
    assert first[0] not in library.state()["files"][0]["blocks"]


def test_damaged_and_foreign_lines_are_listed_and_the_rest_is_shown(toy: str, tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    save_episodes(path, played(toy, "oracle"))
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace('"em":1.0', '"em":0.0')  # another score than the one that was written
    lines[2] = '{"messages": []}\n'
    path.write_text("".join(lines))
    library = opened(path)
    assert [row["line"] for row in rows(library)["mixed"]] == [0, 3]
    (file,) = library.state()["files"]
    assert ["line 2: " in file["problems"][0], "check" in file["problems"][0]] == [True, True]
    assert ["line 3: " in file["problems"][1], "schema" in file["problems"][1]] == [True, True]
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(bytes(range(256)) * 10)
    assert opened(binary).state()["files"][0]["problems"]


def test_the_index_is_used_again_and_a_damaged_one_is_made_again(run: Path) -> None:
    first = opened(run)
    blocks = [file["blocks"] for file in first.state()["files"]]
    again = opened(run)
    assert [file["blocks"] for file in again.state()["files"]] == blocks
    path = again.index.path
    for name in path.parent.glob(f"{path.name}*"):
        name.write_bytes(b"not a database" * 100)
    assert sum(file["lines"] for file in opened(run).state()["files"]) == 12


@pytest.mark.parametrize(
    "change", ["blocks SET columns = replace(columns, '1', '2')", "files SET lines = lines + 1"]
)
def test_a_changed_row_of_the_index_is_found(run: Path, change: str) -> None:
    library = opened(run)
    index = library.index
    ids = [block for file in index.files().values() for block, _ in file["blocks"]]
    before = [text for _, text in sorted(index.blocks(ids).items())]
    with sqlite3.connect(index.path) as connection:
        connection.execute(f"UPDATE {change}")
    connection.close()
    with pytest.raises(ConfigError, match="damaged"):
        index.blocks(ids) if change.startswith("blocks") else index.files()
    assert index.damaged
    index.remake()
    library.refresh()
    ids = [block for file in index.files().values() for block, _ in file["blocks"]]
    assert [text for _, text in sorted(index.blocks(ids).items())] == before


def test_something_else_in_the_place_of_the_index_is_replaced(run: Path) -> None:
    path = opened(run).index.path
    for name in path.parent.glob(f"{path.name}*"):
        name.unlink()
    path.symlink_to("/dev/zero")
    assert sum(file["lines"] for file in opened(run).state()["files"]) == 12


def test_two_viewers_share_an_index(cli: CommandLine, run: Path, tmp_path: Path) -> None:
    first, second = Library([run]), Library([run])
    with lock_file(first.index.path.with_name(f".{first.index.path.name}.lock")):
        second.refresh()
        assert not second.state()["ready"]
        status, _, err = cli("view", str(run), "--export", str(tmp_path / "page.html"))
        assert (status, (tmp_path / "page.html").exists()) == (2, False)
        assert "another viewer" in err
    first.refresh()
    second.refresh()
    assert second.state()["ready"]
    assert second.state()["files"] == first.state()["files"]


def test_an_index_that_is_lost_or_damaged_while_it_is_used_is_made_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_module, "_EVERY", 0.05)
    library = Library([run])
    library.follow()
    try:
        for content in (None, b"not a database" * 1000):
            wait_until(
                lambda: sum(file["lines"] for file in library.index.files().values()) == 12, "the rows"
            )
            before = [block for file in library.index.files().values() for block, _ in file["blocks"]]
            for path in library.index.path.parent.glob(f"{library.index.path.name}*"):
                path.unlink() if content is None else path.write_bytes(content)
            save_episodes(
                run / "episodes" / "train-000001.jsonl",
                load_episodes(run / "episodes" / "train-000001.jsonl"),
            )

            def whole() -> bool:
                try:
                    return sum(file["lines"] for file in library.index.files().values()) == 12
                except (ConfigError, sqlite3.DatabaseError):
                    return False

            wait_until(whole, "the rows of a new index")
            after = [block for file in library.index.files().values() for block, _ in file["blocks"]]
            assert not set(before) & set(after)  # a page keeps blocks by their ids
    finally:
        library.close()


def test_a_run_is_described_with_its_curves_and_alarms(run: Path) -> None:
    (source,) = find_sources([run])
    about = describe(source)
    assert about["series"]["em"] == [(1, 0.5), (2, 1.0)]
    assert [one["iteration"] for one in about["evaluations"]] == [1, 2]
    assert [(alarm["name"], alarm["iteration"]) for alarm in about["alarms"]] == [("step_kl", 1)]
    assert about["problems"] == []
    with (run / "metrics.jsonl").open("a") as handle:
        handle.write("{damaged}\n" + json.dumps(metrics(3, 0.25)) + '\n{"iteration": 4')
    about = describe(source)
    assert about["series"]["em"][-1] == (3, 0.25)
    assert "line 3" in about["problems"][0]
    (run / "config.json").write_text("{")
    assert "config.json" in describe(source)["problems"][0]


def test_what_can_be_viewed(run: Path, tmp_path: Path, toy: str) -> None:
    bench = tmp_path / "bench"
    (bench / "runs" / "final" / "a").mkdir(parents=True)
    (bench / "runs" / "final" / "a" / "card.json").write_text("{}")
    save_episodes(tmp_path / "loose.jsonl", played(toy, "oracle"))
    found = find_sources([tmp_path])
    assert [(source.label, source.kind) for source in found] == [
        ("bench", "benchmark"), ("loose", "file"), ("mine", "run"),
    ]  # fmt: skip
    assert describe(found[0])["runs"] == [{"place": "final/a", "sealed": False}]
    assert [source.label for source in find_sources([run, run])] == ["mine", "mine~2"]
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (empty, tmp_path / "missing"):
        with pytest.raises(ConfigError, match=path.name):
            find_sources([path])


@pytest.mark.parametrize(
    ("files", "kind", "problem"),
    [
        ({"config.json": "[1]", "metrics.jsonl": ""}, "run", "config.json"),
        (
            {"config.json": '{"config": 3}', "metrics.jsonl": '5\n{"iteration": 1, "eval": 3}\n'},
            "run",
            "line 1",
        ),
        ({"config.json": "{}", "metrics.jsonl": '{"iteration": 1, "episodes": "x"}\n' * 2}, "run", ""),
        ({"results.json": "{"}, "benchmark", "results.json"),
        ({"results.json": '{"rows": {"a": {}}}'}, "benchmark", ""),
        ({"audit.json": "7", "episodes.jsonl": "", "advantages.json": "[]"}, "audit", "audit.json"),
    ],
)
def test_broken_directories_become_problems(
    files: dict[str, str], kind: str, problem: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    library = opened(tmp_path)
    about = library.about(tmp_path.name)
    assert about is not None
    assert about["kind"] == kind
    assert problem in " ".join(about["problems"])
    json.dumps([library.state(), about], allow_nan=False)


def test_a_run_without_episodes_is_viewed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"schema": 1, "config": {"trainer": "grpo"}}')
    library = opened(tmp_path)
    assert (library.state()["files"], library.state()["ready"]) == ([], True)
    assert library.about(tmp_path.name)["series"] == {}  # type: ignore[index]


# -- the server -------------------------------------------------------------------------------------------------


@pytest.fixture
def client(run: Path) -> Any:
    pytest.importorskip("starlette")
    pytest.importorskip("httpx")
    from starlette.testclient import TestClient

    from searchgym.trainers.viewer.app import create_app

    return TestClient(create_app(opened(run)), base_url="http://127.0.0.1")


def test_the_server_answers_what_the_page_asks(client: Any, run: Path) -> None:
    state = client.get("/api/state").json()
    ids = [block for file in state["files"] for block, _ in file["blocks"]]
    blocks = client.get("/api/blocks", params={"id": ",".join(map(str, ids))}).json()
    assert sorted(map(int, blocks)) == sorted(ids)
    assert client.get("/api/blocks", params={"id": "x,99999,"}).json() == {}
    episode = client.get("/api/episode", params={"file": "mine/train-000002", "line": 0}).json()
    assert episode["credit"]["trainer"] == "cw-grpo"
    assert client.get("/api/about", params={"source": "mine"}).json()["config"]["agent"] == "tiny"
    assert client.get("/api/search", params={"q": "zzzz"}).json() == {}
    for query in (
        {"file": "mine/train-000002", "line": "99"},
        {"file": "../config", "line": "0"},
        {"line": "-1"},
        {},
    ):
        answer = client.get("/api/episode", params=query)
        assert (answer.status_code, list(answer.json())) == (404, ["error"])
    assert client.get("/api/about", params={"source": "other"}).status_code == 404


def test_the_page_is_served_under_a_strict_policy_to_this_machine_only(client: Any) -> None:
    for name in ("", "app.js", "style.css", "icon.svg"):
        answer = client.get(f"/{name}")
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    assert client.get("/cli.py").status_code == client.get("/..%2fcli.py").status_code == 404
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400


def test_the_command_serves_until_it_is_interrupted(run: Path) -> None:
    pytest.importorskip("uvicorn")
    server = start_searchgym(
        "view", str(run), "--port", "0", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
        assert address is not None
        with urlopen(f"{address[0]}api/state", timeout=60) as answer:
            assert json.load(answer)["sources"][0]["label"] == "mine"
        server.send_signal(signal.SIGINT)
        _, err = server.communicate(timeout=60)
        assert (server.returncode, err) == (0, "")
    finally:
        server.kill()
        server.wait()


def test_a_port_in_use_gives_the_next_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = _listen(port)
        assert found.getsockname()[0] == "127.0.0.1"
        assert port < found.getsockname()[1] <= port + 19
        found.close()


def test_the_extra_is_named_and_the_export_does_without_it(
    cli: CommandLine, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    status, _, err = cli("view", str(run))
    assert status == 2
    assert "searchgym[view]" in err
    assert cli("view", str(run), "--export", str(tmp_path / "page.html")).status == 0


# -- the exported file ------------------------------------------------------------------------------------------


def unpack(page: str) -> dict[str, Any]:
    packed = re.search(r'id="data">([^<]*)<', page)
    assert packed is not None
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))  # type: ignore[no-any-return]


def test_an_exported_file_holds_everything_and_needs_nothing(
    cli: CommandLine, run: Path, tmp_path: Path
) -> None:
    target = tmp_path / "page.html"
    status, out, err = cli("view", str(run), "--export", str(target))
    assert (status, err) == (0, "")
    assert "12 of 12 episodes" in out
    page = target.read_text()
    assert not re.search(r'(src|href)="(?!#)', page)
    data = unpack(page)
    assert {key: len(lines) for key, lines in data["episodes"].items()} == {
        "mine/train-000001": 4, "mine/train-000002": 4, "mine/eval-000002": 4,
    }  # fmt: skip
    assert data["episodes"]["mine/train-000002"]["0"]["credit"]["rounds"][0] == 0.5
    assert data["about"]["mine"]["series"]["em"] == [[1, 0.5], [2, 1.0]]
    assert str(tmp_path) not in json.dumps(data)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    for tag, name in (("script", "app.js"), ("style", "style.css")):
        text = (VIEWER / "static" / name).read_text()
        assert f"<{tag}>{text}</{tag}>" in page
        assert (
            f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            in policy[1]
        )


def test_an_export_is_limited_to_the_newest_and_replaces_nothing_unasked(
    cli: CommandLine, run: Path, tmp_path: Path
) -> None:
    target = tmp_path / "page.html"
    assert "6 of 12 episodes" in cli("view", str(run), "--export", str(target), "--limit", "6").out
    data = unpack(target.read_text())
    assert {key: sorted(lines) for key, lines in data["episodes"].items()} == {
        "mine/train-000002": ["0", "1", "2", "3"], "mine/eval-000002": ["0", "1"],
    }  # fmt: skip
    before = target.read_bytes()
    status, _, err = cli("view", str(run), "--export", str(target))
    assert (status, target.read_bytes()) == (2, before)
    assert "--force" in err
    assert cli("view", str(run), "--export", str(target), "--force").status == 0
    assert cli("view", str(run), "--export", str(tmp_path / "none" / "page.html")).status == 2


def test_hostile_text_is_not_markup_in_the_exported_file(cli: CommandLine, tmp_path: Path, toy: str) -> None:
    save_episodes(tmp_path / "hostile.jsonl", [hostile(episode) for episode in played(toy, "oracle")])
    assert cli("view", str(tmp_path / "hostile.jsonl"), "--export", str(tmp_path / "page.html")).status == 0
    page = (tmp_path / "page.html").read_text()
    assert "hacked" not in page  # the data are packed, and the script holds none
    assert unpack(page)["episodes"]["hostile"]["0"]["episode"]["question"] == HOSTILE


# -- the page's script ------------------------------------------------------------------------------------------


def test_the_bundle_is_built_from_the_sources() -> None:
    digest = hashlib.sha256()
    for path in sorted((VIEWER / "web" / "src").iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    first = (VIEWER / "static" / "app.js").read_text().split("\n", 1)[0]
    assert digest.hexdigest() in first, "run `npm run build` in trainers/viewer/web"


def test_the_sources_never_write_markup() -> None:
    for path in (VIEWER / "web" / "src").iterdir():
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", path.read_text()
        ), path
