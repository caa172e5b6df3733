#!/usr/bin/env bash
# Train on one machine with several GPUs, in one process. The same command resumes the run.
#   launch/gpus.sh [--dry-run] [flags of vcjax.main]
set -euo pipefail
: "${GPUS:=0,1,2,3}"                       # indices of the GPUs, as shown by nvidia-smi
: "${CONFIG:=la_idt.py}"                   # experiment[:variant]
: "${MANIFEST:=videos.tsv}"                # folder of videos, or table with a `path` column
: "${WORKDIR:=runs/la_idt}"                # folder of the run

run=(env "CUDA_VISIBLE_DEVICES=$GPUS" vcjax main "--config=$CONFIG"
     "--config.data.manifest=$MANIFEST" "--workdir=$WORKDIR")
if [[ ${1:-} == --dry-run ]]; then shift; printf '%q ' "${run[@]}" "$@"; echo; exit; fi
exec "${run[@]}" "$@"
