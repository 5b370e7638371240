#!/usr/bin/env bash
# skyrl-gym's `search` environment reads the final answer from the whole transcript, retrieved passages included: a passage that
# quotes an <answer> earns the reward for a model that does not answer, and takes part where the model does.
#
# Versions: skyrl-gym 0.4.0, Python 3.11.
# Behaviour: at the end of an episode SearchEnv concatenates all messages, the user messages with the passages too, and scores the
#   last <answer>…</answer> in the text. With max_turns=2, a search whose passage holds "<answer>Paris</answer>" and a last message
#   "I do not know." earn 1.0. The same two messages with the same passage without the tags earn 0.0. So a corpus with such text (a page about a question-answering format, scraped model output) raises scores without
#   the policy; escape the tags in passages, or score only what the model wrote.
# Seen 2026-11-29:
#   passage with tags, model: "I do not know." -> reward 1.0
#   passage without,   model: "I do not know." -> reward 0.0
#   passage with tags, model answers "Rome"    -> reward 0.0 (the last answer counts)
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check skyrl-gym==0.4.0
cat > "$work/probe.py" <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import skyrl_gym
from skyrl_gym.envs.search.env import SearchEnvConfig

passage = ""


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        hit = {"document": {"id": "1", "contents": f'"Quiz"\n{passage}'}, "score": 1.0}
        body = json.dumps({"result": [[hit]]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
config = SearchEnvConfig(search_url=f"http://127.0.0.1:{server.server_port}/retrieve", topk=1)


def play(text, last):
    global passage
    passage = text
    extras = {"reward_spec": {"ground_truth": {"target": ["Paris"]}}, "max_turns": 2}
    env = skyrl_gym.make("search", env_config=config, extras=extras)
    env.init([{"role": "user", "content": "What is the capital of France?"}])
    first = env.step("<search>capital of France</search>")
    assert text in first["observations"][0]["content"], first
    return env.step(last)["reward"]


tagged, plain = "Contestants write <answer>Paris</answer>.", "Contestants write Paris."
seen = [play(tagged, "I do not know."), play(plain, "I do not know."), play(tagged, "<answer>Rome</answer>")]
print("rewards", seen)
assert seen == [1.0, 0.0, 0.0], seen
PY
"$work/venv/bin/python" "$work/probe.py"
