#!/usr/bin/env bash
# End-to-end tests of the adapters in searchgym.interop, each against the real package in an environment of its own:
#
#   bash tests/interop/run.sh NAME…       trl, verifiers, skyrl, gem, verl, openenv, mcp, langchain, llamaindex
#
# The environments are kept in $SEARCHGYM_INTEROP (default: ~/.cache/searchgym-interop), so that a second run is quick. They
# hold this checkout (not editable) and the versions pinned below, with which the adapters were tested.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
kept=${SEARCHGYM_INTEROP:-${XDG_CACHE_HOME:-$HOME/.cache}/searchgym-interop}

install() { # name, packages
    local name=$1 venv=$kept/$1
    shift
    [ -d "$venv" ] || python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/constraints.txt" "$@"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$root"
    "$venv/bin/python" -m pip check
    export PATH=$venv/bin:$PATH
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
}

for name in "$@"; do (
    echo "== $name"
    cd "$(mktemp -d)" # so that no folder of the checkout hides an installed package
    case $name in
    trl)
        install trl "$root[trl]" trl==1.16.0 transformers==5.24.0 datasets==5.2.0 peft==0.21.2
        model=$kept/tiny-tools
        [ -f "$model/task_ids.json" ] || python "$here/tiny_chat.py" "$model" tools
        python "$here/trl_factory.py" "$model"
        python "$here/trl_rollout.py" "$model"
        python "$here/overhead_tools.py" trl
        ;;
    verifiers)
        install verifiers "$root[verifiers]" verifiers==0.4.0 uv==0.13.9
        bash "$here/verifiers_eval.sh"
        ;;
    skyrl)
        install skyrl "$root[skyrl,serve]" skyrl-gym==0.4.0
        python "$here/skyrl_loop.py"
        python "$here/overhead.py" skyrl
        ;;
    gem)
        install gem "$root[gem,serve]" gem-llm==0.1.0 datasets==5.2.0
        python "$here/gem_loop.py"
        python "$here/overhead.py" gem
        ;;
    verl)
        install verl "$root[verl]" torch==2.13.0 "verl[verl-core]==0.9.1"
        PYTHONPATH=$here/../agents python "$here/verl_loops.py"
        PYTHONPATH=$here/../agents python "$here/overhead_tools.py" verl
        for run in "searchgym tags" "searchgym_tools tools" "searchgym tags down"; do
            read -r loop dialect down <<< "$run"
            model=$kept/verl-$dialect
            [ -f "$model/task_ids.json" ] || python "$here/tiny_chat.py" "$model" "$dialect" "$here/verl_chat.jinja"
            python "$here/verl_ppo.py" prepare "$model" "$PWD/$loop$down" "$loop" $down > arguments
            mapfile -t arguments < arguments
            export PYTHONPATH=$here VERL_USE_EXTERNAL_MODULES=verl_cpu VERL_PLATFORM=cpu
            python -m verl.trainer.main_ppo "${arguments[@]}" > "$PWD/log" 2>&1 || { tail -40 "$PWD/log"; exit 1; }
            unset PYTHONPATH VERL_USE_EXTERNAL_MODULES VERL_PLATFORM
            echo "$run"
            python "$here/verl_ppo.py" check "$PWD/log" "$loop" $down
        done
        ;;
    openenv)
        install openenv "$root[openenv]" openenv==0.10.0
        python "$here/openenv_sessions.py"
        ;;
    mcp)
        for tested in 1.30.0 2.3.0; do
            (
                install "mcp-$tested" "$root[mcp]" "mcp==$tested"
                python "$here/mcp_clients.py"
            )
        done
        ;;
    langchain)
        install langchain "$root[langchain]" langchain-core==1.8.3
        python "$here/langchain_retriever.py"
        ;;
    llamaindex)
        install llamaindex "$root[llamaindex]" llama-index-core==0.14.25
        python "$here/llamaindex_retriever.py"
        ;;
    *)
        echo "unknown name: $name" >&2
        exit 2
        ;;
    esac
); done
