#!/usr/bin/env bash
# Extract dense trajectories in a Slurm array job, into the folder of the run used for training.
#   launch/slurm_idt.sh [--dry-run] [flags of vcjax.idt extract]
set -euo pipefail
: "${PARTS:=100}"                          # number of tasks of the array
: "${CPUS:=16}"                            # CPUs per task
: "${TIME:=12:00:00}"
: "${PARTITION:=cpu}"
: "${MANIFEST:=videos.tsv}"                # same manifest as for training
: "${WORKDIR:=runs/la_idt}"                # same folder as for training
export PARTS CPUS TIME PARTITION MANIFEST WORKDIR

dry=()
if [[ ${1:-} == --dry-run ]]; then dry=(echo); shift; fi
if [[ -z ${SLURM_ARRAY_TASK_ID:-} ]]; then
  "${dry[@]}" sbatch --job-name=vcjax-idt --array="1-$PARTS" --cpus-per-task="$CPUS" \
    --time="$TIME" --partition="$PARTITION" --requeue --output=vcjax-idt-%A-%a.log "$0" "$@"
  [[ ${#dry[@]} == 0 ]] && exit
fi
"${dry[@]}" srun vcjax idt extract "--manifest=$MANIFEST" "--out=$WORKDIR/idt" \
  "--num_workers=$CPUS" "--shard=${SLURM_ARRAY_TASK_ID:-1}/$PARTS" "$@"
