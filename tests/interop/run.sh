#!/usr/bin/env bash
# End-to-end tests of the adapters in searchgym.interop, each against the real package in an environment of its own:
#
#   bash tests/interop/run.sh NAME…       trl, verifiers, skyrl, gem
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
    *)
        echo "unknown name: $name" >&2
        exit 2
        ;;
    esac
); done
