#!/usr/bin/env bash
# Extract dense trajectories on Google Cloud Dataflow. Every worker of IMAGE (launch/Dockerfile with
# EXTRA=beam) must have FOLDER mounted, since it contains the videos and the trajectories.
#   launch/dataflow.sh [--dry-run] [Beam options]
set -euo pipefail
: "${PROJECT:=my-project}"
: "${REGION:=us-central1}"
: "${BUCKET:=my-bucket}"                   # for Dataflow's temporary files
: "${IMAGE:=my-registry/vcjax-beam}"
: "${FOLDER:=/mnt/vcjax}"
: "${MANIFEST:=$FOLDER/videos.tsv}"
: "${WORKDIR:=$FOLDER/runs/la_idt}"        # same folder as for training
: "${WORKERS:=100}"                        # maximum number of workers
: "${MACHINE:=n2-standard-4}"

run=(vcjax idt beam "--manifest=$MANIFEST" "--out=$WORKDIR/idt" --runner=DataflowRunner
     "--project=$PROJECT" "--region=$REGION" "--temp_location=gs://$BUCKET/dataflow"
     "--sdk_container_image=$IMAGE" "--max_num_workers=$WORKERS" "--machine_type=$MACHINE")
if [[ ${1:-} == --dry-run ]]; then shift; printf '%q ' "${run[@]}" "$@"; echo; exit; fi
exec "${run[@]}" "$@"
