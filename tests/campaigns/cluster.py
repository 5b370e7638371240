"""The cluster of docs/cluster.md as processes of this machine, with a fault in each part: nothing is lost.

python tests/campaigns/cluster.py [FOLDER]      (default: a temporary one; needs searchgym[train,ray,serve,api] and ray[default])

The processes are those of docs/cluster/node.sh, submitted and configured by the files beside it, with two differences: the
model is a tiny one on processors, and vLLM is `tests/fixtures/stub_vllm.py`, which samples from a real model by vLLM's protocol.
There are two
learning processes (FSDP), each with a rollout worker on Ray, an index server and a model server. One run is undisturbed; in
another a rollout worker, the index server, the model server and a learning process are killed, each in an iteration of its
own, and the last is followed by `--resume`. Episodes, metrics and weights must be those of the undisturbed run. The same
configuration then runs in one process, without Ray and servers, for the throughput.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
FILES = TESTS.parent / "docs" / "cluster"
WORLD = {"name": "country-terse", "size": 1000, "train": 40, "dev": 10, "test": 10}
ITERATIONS, QUESTIONS, GROUP = 5, 4, 4
RAY, DASHBOARD, INDEX, MODEL = 6479, 8365, 8100, 8101
MARK = "SEARCHGYM_CLUSTER"
RAY_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # not the user's own
COUNTED = ("episodes", "invalid_episodes", "updates")

SERVE_MODEL = """
import sys, time
sys.path[:0] = sys.argv[1:3]
from fixtures.stub_vllm import StubVLLM
stub = StubVLLM(sys.argv[3])
stub.port = int(sys.argv[4])
with stub:
    time.sleep(1e9)
"""


def prepare(folder: Path) -> None:
    """A tiny chat model that writes acts of random words, most of them not valid, which the reward punishes; and an index."""
    sys.path[:0] = [str(TESTS), str(TESTS / "agents")]
    from hf_models import make_env, save_family, teach

    from searchgym.agents.hf import HFAgent
    from searchgym.rollouts.collection import agent_context_of

    model = folder / "model"
    if not model.is_dir():
        agent = HFAgent(save_family(folder / "random"))
        teach(agent, agent_context_of(make_env().config), steps=40)
        agent.save(model)
    (folder / "serve_model.py").write_text(SERVE_MODEL, "utf-8")
    command = ["index", "build", "--corpus", json.dumps(WORLD), "--out", str(folder / "index")]
    subprocess.run([sys.executable, "-m", "searchgym", *command], check=True, stdout=subprocess.DEVNULL)


def overrides(folder: Path, parts: bool = True) -> list[str]:
    """What differs from docs/cluster/train.toml: sizes, addresses, and the model; without `parts`, everything in one process."""
    agent: dict[str, Any] = {"model": str(folder / "model"), "dtype": "float32", "lora": {"rank": 4}}
    agent |= {"max_new_tokens": 16, "max_context": 2048}
    env: dict[str, Any] = {"corpus": WORLD, "max_rounds": 3, "reward": {"em": 1.0, "invalid": -0.1}}
    options = [
        *("--iterations", str(ITERATIONS), "--questions", str(QUESTIONS), "--group-size", str(GROUP)),
        *("--eval-episodes", "0", "--checkpoint-every", "1", "--threads", "1", "--minibatches", "2"),
        *("--num-envs", "0", "--streams", "episode", "--lr", "1e-3", "--process-timeout", "240"),
    ]
    if parts:
        where = f"http://127.0.0.1:{MODEL}/v1"
        agent["engine_options"] = {"base_url": where, "sync_dir": str(folder), "patience": 240.0}
        env["retriever"] = {"name": "remote", "url": f"http://127.0.0.1:{INDEX}", "retries": 40}
        options += ["--worker-option", "num_cpus=1", "--ray-address", f"127.0.0.1:{RAY}"]
    else:
        agent |= {"engine": "transformers", "engine_options": {}}
        env["retriever"] = str(folder / "index")
        options += ["--rollout-workers", "0", "--ray-address", ""]
    for flag, values in (("--agent-option", agent), ("--env-option", env)):
        options += [word for key, value in values.items() for word in (flag, f"{key}={json.dumps(value)}")]
    return options


@contextmanager
def machines(folder: Path) -> Iterator[None]:
    """The two kinds of machines, as node.sh starts them."""
    serve = [sys.executable, folder / "serve_model.py", TESTS, TESTS / "agents", folder / "model", MODEL]
    environment = {
        **os.environ,
        **RAY_TOKEN,
        MARK: str(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PORT": str(RAY),
        "DASHBOARD": str(DASHBOARD),
        "SLOTS": "2",
        "OMP_NUM_THREADS": "1",
        "SERVE_INDEX": f"searchgym index serve {folder / 'index'} --port {INDEX}",
        "SERVE_MODEL": " ".join(map(str, serve)),
    }
    node, started = ["bash", str(FILES / "node.sh")], []
    with (folder / "machines.log").open("a") as log:
        try:
            for role in (["learn"], ["play", "127.0.0.1"]):
                command = [*node, *role]
                process = subprocess.Popen(
                    command, env=environment, stdout=log, stderr=log, start_new_session=True
                )
                started.append(process)
                wait_for(lambda: listens(RAY) and listens(DASHBOARD), "Ray's head")
            # The head too: where its node took longer than Ray's 30 s, node.sh has started it again.
            wait_for(lambda: all(map(listens, (INDEX, MODEL, RAY, DASHBOARD))), "the servers")
            yield
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait()
            for process_id in ours(folder, ""):  # what Ray has left
                with suppress(ProcessLookupError):
                    os.kill(process_id, signal.SIGKILL)


def ours(folder: Path, text: str, variable: str = "") -> list[int]:
    """Ids of the processes of `machines` whose command line holds a text and whose environment a variable's setting."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            settings = (place / "environ").read_bytes().decode(errors="replace").split("\0")
            if text in command and f"{MARK}={folder}" in settings and (not variable or variable in settings):
                found.append(int(place.name))
    return found


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 900.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not come within {seconds:g} s"
        time.sleep(0.1)


def submit(run: Path, options: list[str]) -> subprocess.Popen[bytes]:
    """The job of the page, on CPUs and with two processes; ends with the job."""
    program = Path(sys.executable).parent
    command = [str(program / "ray"), "job", "submit", "--address", f"http://127.0.0.1:{DASHBOARD}"]
    command += ["--working-dir", str(FILES), "--runtime-env", str(FILES / "ray-job.yaml"), "--"]
    # The page's launch, on processors. Only with FSDP does accelerate's launcher start more than one process on them, see
    # findings/accelerate_cpu_processes.sh.
    launch = (FILES / "fsdp.yaml").read_text("utf-8").replace("num_processes: 8", "num_processes: 2")
    (run.parent / "fsdp.yaml").write_text(f"{launch}use_cpu: true\nmain_process_port: 29655\n", "utf-8")
    command += ["env", "ACCELERATE_USE_CPU=true", str(program / "python"), "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(run.parent / "fsdp.yaml")]
    command += ["-m", "searchgym", "train", *options, "--run-dir", str(run)]
    with (run.parent / f"{run.name}.log").open("a") as log:
        return subprocess.Popen(command, env={**os.environ, **RAY_TOKEN}, stdout=log, stderr=log)


def rows(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return [row for row in map(json.loads, lines) if "episodes" in row]


def timings(run: Path) -> dict[str, float]:
    """Seconds of each part of an iteration, medians of the iterations after the first."""
    lines = [json.loads(line) for line in (run / "timings.jsonl").read_text("utf-8").splitlines()]
    played = [line for line in lines if line["iteration"] > 1]
    return {part: median(line.get(part, 0.0) for line in played) for part in ("collect", "credit", "update")}


def kill(folder: Path, what: str, text: str, variable: str = "") -> None:
    """kill -9 one process, or all with this text: a server with its workers."""
    found = ours(folder, text, variable)
    assert found, f"no process of {what} ({text})"
    for process_id in found[:1] if what == "rollout worker" else found:
        with suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)
    print(f"killed: {what}", flush=True)


def disturbed(folder: Path, run: Path, options: list[str]) -> None:
    """A run with a fault in each part."""
    job = submit(run, options)
    for after, what, text in (
        (1, "rollout worker", "ray::Worker"),
        (2, "index server", f"index serve {folder}"),
        (3, "model server", "serve_model.py"),
    ):
        wait_for(lambda after=after: len(rows(run)) >= after or job.poll() is not None, f"iteration {after}")  # type: ignore[misc]
        assert job.poll() is None, f"the job has ended: see {run}.log"
        if what == "rollout worker":  # in the middle of its episodes
            wait_for(lambda: bool(ours(folder, "ray::Worker.play")), "an episode")
        kill(folder, what, text)
    wait_for(lambda: len(rows(run)) >= 4, "iteration 4")
    kill(folder, "learning process", str(run), "LOCAL_RANK=1")
    assert job.wait() != 0
    job = submit(run, ["--resume"])
    assert job.wait() == 0, f"the resumed job failed: see {run}.log"


def compare(one: Path, other: Path) -> None:
    """Both runs have the same episodes, metrics and weights."""
    from safetensors.torch import load_file

    from searchgym.records.episode import load_episodes

    sampled, lost = [], 0
    for run in (one, other):
        files = sorted((run / "episodes").glob("train-*.jsonl"))
        episodes = [episode for file in files for episode in load_episodes(file)]
        lost += sum(not episode.valid_for_training for episode in episodes)
        sampled.append({(e.group_id, e.episode_id): [s.tokens for s in e.segments] for e in episodes})
    same = sum(tokens == sampled[1].get(key) for key, tokens in sampled[0].items())
    gap = 0.0
    ours, theirs = (sorted((run / "checkpoints").glob("*"))[-1] for run in (one, other))
    for file in sorted(ours.rglob("*.safetensors")):
        matrices = load_file(theirs / file.relative_to(ours))
        gap = max(
            [gap, *(float((value - matrices[name]).abs().max()) for name, value in load_file(file).items())]
        )
    counted = [{k: sum(row.get(k, 0) for row in rows(run)) for k in COUNTED} for run in (one, other)]
    print(f"episodes {len(sampled[0])} and {len(sampled[1])}, with the same tokens {same}, not valid {lost}")
    print(f"undisturbed {counted[0]}, disturbed {counted[1]}; largest difference of a weight {gap:.1e}")
    replaced = [max(row["lost_workers"] for row in rows(run)) for run in (one, other)]
    print(f"rollout workers replaced: undisturbed {replaced[0]}, disturbed {replaced[1]}")
    assert counted[0]["episodes"] == counted[1]["episodes"] == ITERATIONS * QUESTIONS * GROUP
    assert len(sampled[0]) == len(sampled[1]) > 0  # of the last iterations, whose episodes a run keeps
    assert (lost, same) == (0, len(sampled[0]))
    assert counted[0]["updates"] == counted[1]["updates"] > 0  # else equal weights would say nothing
    assert replaced == [0, 1]
    assert gap < 1e-4


def main(folder: Path) -> None:
    if not (folder / "index").is_dir():
        prepare(folder)
    base = ["--recipe", "train.toml", *overrides(folder)]
    with machines(folder):
        begun = time.monotonic()
        assert submit(folder / "undisturbed", base).wait() == 0, f"see {folder}/undisturbed.log"
        print(f"undisturbed: {time.monotonic() - begun:.0f} s", flush=True)
        disturbed(folder, folder / "disturbed", base)
    compare(folder / "undisturbed", folder / "disturbed")
    alone = [sys.executable, "-m", "searchgym", "train", "--recipe", str(FILES / "train.toml")]
    with (folder / "alone.log").open("a") as log:
        subprocess.run(
            [*alone, *overrides(folder, parts=False), "--run-dir", str(folder / "alone")],
            check=True, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    for name in ("undisturbed", "alone"):
        spent = timings(folder / name)
        print(f"{name}: {QUESTIONS * GROUP / sum(spent.values()):.1f} episodes/s; seconds {spent}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]).resolve())
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
