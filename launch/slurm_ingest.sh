#!/usr/bin/env bash
# Make a collection (frames, Fisher vectors, boxes of people) in a Slurm array job.
#   launch/slurm_ingest.sh [--dry-run] [flags of vcjax.ingest]
set -euo pipefail
: "${PARTS:=100}"                          # number of tasks of the array
: "${CPUS:=16}"                            # CPUs per task
: "${TIME:=12:00:00}"
: "${PARTITION:=cpu}"
: "${CONFIG:=la_idt.py}"                   # experiment[:variant] whose vectors are computed
: "${MANIFEST:=videos.tsv}"                # folder of videos, or table with a `path` column
: "${COLLECTION:=collection}"              # folder that all tasks and runs share
export PARTS CPUS TIME PARTITION CONFIG MANIFEST COLLECTION

dry=()
if [[ ${1:-} == --dry-run ]]; then dry=(echo); shift; fi
if [[ -z ${SLURM_ARRAY_TASK_ID:-} ]]; then
  "${dry[@]}" sbatch --job-name=vcjax-ingest --array="1-$PARTS" --cpus-per-task="$CPUS" \
    --time="$TIME" --partition="$PARTITION" --requeue --output=vcjax-ingest-%A-%a.log "$0" "$@"
  [[ ${#dry[@]} == 0 ]] && exit
fi
"${dry[@]}" srun vcjax ingest "$MANIFEST" "$COLLECTION" "--config=$CONFIG" \
  "--num_workers=$CPUS" "--shard=${SLURM_ARRAY_TASK_ID:-1}/$PARTS" "$@"
