#!/usr/bin/env bash
# Train on several Slurm nodes with one process per GPU. The script submits itself; a requeued job
# resumes from the last checkpoint.
#   launch/slurm_train.sh [--dry-run] [flags of vcjax.main]
set -euo pipefail
: "${NODES:=2}"
: "${GPUS_PER_NODE:=8}"
: "${CPUS_PER_GPU:=8}"                     # also the number of threads that read clips
: "${TIME:=2-00:00:00}"
: "${PARTITION:=gpu}"
: "${CONFIG:=la_idt.py}"                   # experiment[:variant]
: "${MANIFEST=videos.tsv}"                 # folder of videos, or table with a `path` column
: "${COLLECTION:=}"                        # collection to read in place of MANIFEST
: "${WORKDIR:=runs/la_idt}"                # folder of the run, shared by all nodes
[[ -z $COLLECTION ]] || MANIFEST=""
export NODES GPUS_PER_NODE CPUS_PER_GPU TIME PARTITION CONFIG MANIFEST COLLECTION WORKDIR

dry=()
if [[ ${1:-} == --dry-run ]]; then dry=(echo); shift; fi
if [[ -z ${SLURM_JOB_ID:-} ]]; then
  "${dry[@]}" sbatch --job-name=vcjax --nodes="$NODES" --ntasks-per-node="$GPUS_PER_NODE" \
    --gpus-per-node="$GPUS_PER_NODE" --cpus-per-task="$CPUS_PER_GPU" --time="$TIME" \
    --partition="$PARTITION" --requeue --output=vcjax-%j.log "$0" "$@"
  [[ ${#dry[@]} == 0 ]] && exit
fi
"${dry[@]}" srun --kill-on-bad-exit vcjax main --distributed "--config=$CONFIG" \
  ${MANIFEST:+"--config.data.manifest=$MANIFEST"} \
  ${COLLECTION:+"--config.data.collection=$COLLECTION"} "--config.data.num_threads=$CPUS_PER_GPU" \
  "--workdir=$WORKDIR" "$@"
