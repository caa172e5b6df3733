#!/usr/bin/env bash
# Dense trajectories by Google Cloud Dataflow. IMAGE (launch/Dockerfile with EXTRA=beam) has to
# mount the folder FOLDER on every worker, since videos and trajectories are files in it.
#   launch/dataflow.sh [--dry-run] [options of Beam]
set -euo pipefail
: "${PROJECT:=my-project}"
: "${REGION:=us-central1}"
: "${BUCKET:=my-bucket}"                   # for what Dataflow stages
: "${IMAGE:=my-registry/vcjax-beam}"
: "${FOLDER:=/mnt/vcjax}"
: "${MANIFEST:=$FOLDER/videos.tsv}"
: "${WORKDIR:=$FOLDER/runs/la_idt}"        # the same as for training
: "${WORKERS:=100}"                        # at most
: "${MACHINE:=n2-standard-4}"

run=(vcjax idt beam "--manifest=$MANIFEST" "--out=$WORKDIR/idt" --runner=DataflowRunner
     "--project=$PROJECT" "--region=$REGION" "--temp_location=gs://$BUCKET/dataflow"
     "--sdk_container_image=$IMAGE" "--max_num_workers=$WORKERS" "--machine_type=$MACHINE")
if [[ ${1:-} == --dry-run ]]; then shift; printf '%q ' "${run[@]}" "$@"; echo; exit; fi
exec "${run[@]}" "$@"
