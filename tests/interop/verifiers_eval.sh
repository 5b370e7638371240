#!/usr/bin/env bash
# verifiers' own `vf-eval` with the taskset searchgym-vf: by messages and by tools, reward 1.0 for each rollout.
# Run by run.sh, in the environment of verifiers.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
python "$here/scripted_server.py" "$port" > "$work/server.log" 2>&1 &
server=$!
trap 'kill $server; rm -rf "$work"' EXIT
until grep -q ready "$work/server.log"; do sleep 0.2; done
arguments='arguments = {top_k = 3, corpus = {name = "country", size = 1000, train = 200, dev = 50, test = 50}}'

evaluate() { # name, dialect, arguments
    cat > "$work/$1.toml" <<TOML
model = "oracle"
num_rollouts = 2
push = false
output_dir = "$work/$1"
[select]
limit = 3
[client]
base_url = "http://127.0.0.1:$port/v1"
api_key_var = "SCRIPTED_KEY"
[env.taskset]
id = "searchgym-vf"
split = "dev"
$3
[env.taskset.task]
dialect = "$2"
[env.agent.harness]
id = "null"
[env.agent.runtime]
type = "subprocess"
TOML
    SCRIPTED_KEY=none vf-eval @ "$work/$1.toml" --no-rich > "$work/$1.log" 2>&1 || { tail -40 "$work/$1.log"; return 1; }
}

for dialect in tags tools; do
    evaluate "$dialect" "$dialect" "$arguments"
    python "$here/verifiers_check.py" "$work/$dialect"
done
