#!/usr/bin/env bash
# Make a collection on Google Cloud Dataflow. Every worker of IMAGE (launch/Dockerfile with
# EXTRA=beam) must have FOLDER mounted, since it contains the videos and the collection.
#   launch/dataflow.sh [--dry-run] [flags of vcjax.ingest, Beam options]
set -euo pipefail
: "${PROJECT:=my-project}"
: "${REGION:=us-central1}"
: "${BUCKET:=my-bucket}"                   # for Dataflow's temporary files
: "${IMAGE:=my-registry/vcjax-beam}"
: "${FOLDER:=/mnt/vcjax}"
: "${CONFIG:=la_idt.py}"                   # experiment[:variant] whose vectors are computed
: "${MANIFEST:=$FOLDER/videos.tsv}"
: "${COLLECTION:=$FOLDER/collection}"
: "${WORKERS:=100}"                        # maximum number of workers
: "${MACHINE:=n2-standard-4}"

run=(vcjax ingest "$MANIFEST" "$COLLECTION" "--config=$CONFIG" --runner=DataflowRunner
     "--num_shards=$WORKERS" "--project=$PROJECT" "--region=$REGION"
     "--temp_location=gs://$BUCKET/dataflow" "--sdk_container_image=$IMAGE"
     "--max_num_workers=$WORKERS" "--machine_type=$MACHINE")
if [[ ${1:-} == --dry-run ]]; then shift; printf '%q ' "${run[@]}" "$@"; echo; exit; fi
exec "${run[@]}" "$@"
