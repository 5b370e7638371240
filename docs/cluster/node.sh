#!/usr/bin/env bash
# The processes of one machine, until it is stopped; what ends is started again.
#
#   bash node.sh learn                the machine that learns: Ray's head
#   bash node.sh play HEAD            a machine that plays: a replica of the index, vLLM, and a Ray node that joins HEAD
#
# Variables: INDEX, MODEL, SLOTS (rollout workers here), PORT and DASHBOARD (of Ray), and SERVE_INDEX and SERVE_MODEL (other
# commands for the two servers).
set -euo pipefail
port=${PORT:-6379} slots=${SLOTS:-1}
SERVE_INDEX=${SERVE_INDEX:-searchgym index serve ${INDEX:-indexes/wiki18-e5} --port 8000 --workers 4}
# Each rollout worker loads an adapter of its own, and holds the old one until the new one is loaded.
SERVE_MODEL=${SERVE_MODEL:-vllm serve ${MODEL:-Qwen/Qwen3-8B} --port 8001 --data-parallel-size 8 --max-model-len 8192 \
    --logprobs-mode processed_logprobs --enable-lora --max-lora-rank 32 --max-loras $slots --max-cpu-loras $((2 * slots))}
# Said on both kinds of machines: a head with a token turns authentication on by itself, a node that joins it does not.
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
export VLLM_ALLOW_RUNTIME_LORA_UPDATING=True RAY_USAGE_STATS_ENABLED=0

keep_up() {
    while :; do
        local status=0
        "$@" || status=$?
        echo "$(date +%T) '$1' ended with $status: starting it again" >&2
        sleep 1
    done
}

trap 'exit 143' INT TERM
trap 'trap - EXIT TERM; kill 0' EXIT
case ${1:-} in
learn)
    keep_up ray start --head --port "$port" --dashboard-port "${DASHBOARD:-8265}" --disable-usage-stats --block &
    ;;
play)
    # Unquoted: a command line of words.
    keep_up $SERVE_INDEX &
    keep_up $SERVE_MODEL &
    keep_up ray start --address "$2:$port" --resources "{\"rollout\": $slots}" --disable-usage-stats --block &
    ;;
*)
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
wait # in the foreground a command would keep the traps from running
