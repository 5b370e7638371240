#!/usr/bin/env bash
# `accelerate launch --cpu --num_processes 2` starts one process, and so does a configuration file with `distributed_type: MULTI_CPU`
# and `num_processes: 2`; neither warns, and the program trains with WORLD_SIZE 1. The same file with `distributed_type: FSDP`
# and `use_cpu: true` starts two processes on the same processors.
#
# Versions: accelerate 1.15.0, torch 2.13.0, Python 3.11.
# Behaviour: on CPUs the launcher divides work among processes only through mpirun (`mpirun_hostfile`), whatever num_processes
#   says; with FSDP it goes through torchrun and honours it, also on CPUs, where Accelerator reports the type MULTI_CPU. So a
#   test of a data-parallel program on a machine without GPUs passes without having divided anything. Start torchrun
#   (`python -m torch.distributed.run --nproc_per_node 2`), which Accelerator(cpu=True) joins, and check num_processes.
# Seen 2026-11-30:
#   --cpu --num_processes 2: 0 of 1 NO
#   MULTI_CPU, num_processes 2: 0 of 1 NO
#   FSDP, use_cpu, num_processes 2: 0 of 2 MULTI_CPU, 1 of 2 MULTI_CPU
#   torchrun --nproc_per_node 2: 0 of 2 MULTI_CPU, 1 of 2 MULTI_CPU
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 accelerate==1.15.0
export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=
cat > "$work/who.py" <<'PY'
import sys
from pathlib import Path

from accelerate import Accelerator

one = Accelerator(cpu=True)
said = f"{one.process_index} of {one.num_processes} {one.distributed_type.value}"
(Path(sys.argv[1]) / str(one.process_index)).write_text(said)
PY
file() { # distributed type
    printf 'compute_environment: LOCAL_MACHINE\ndistributed_type: %s\nnum_machines: 1\nnum_processes: 2\nuse_cpu: true\n' "$1"
    if [ "$1" = FSDP ]; then printf 'fsdp_config:\n  fsdp_version: 2\n'; fi
}
check() { # what is expected, title, command
    local expected=$1 title=$2 said
    shift 2
    mkdir "$work/said"
    "$work/venv/bin/python" -m "$@" "$work/who.py" "$work/said" > "$work/log" 2>&1 || { cat "$work/log"; exit 1; }
    said=$(cat "$work"/said/0; for other in "$work"/said/1; do [ -f "$other" ] && printf ', ' && cat "$other"; done || true)
    rm -r "$work/said"
    echo "$title: $said"
    [ "$said" = "$expected" ]
}
file MULTI_CPU > "$work/cpu.yaml"
file FSDP > "$work/fsdp.yaml"
launch="accelerate.commands.launch --num_cpu_threads_per_process 1 --main_process_port 0"
check "0 of 1 NO" "--cpu --num_processes 2" $launch --cpu --num_processes 2
check "0 of 1 NO" "MULTI_CPU, num_processes 2" $launch --config_file "$work/cpu.yaml"
two="0 of 2 MULTI_CPU, 1 of 2 MULTI_CPU"
check "$two" "FSDP, use_cpu, num_processes 2" $launch --config_file "$work/fsdp.yaml"
check "$two" "torchrun --nproc_per_node 2" torch.distributed.run --standalone --nproc_per_node 2
