#!/usr/bin/env bash
# Train on a Cloud TPU pod. A bucket mounted at /mnt/vcjax holds the run and the videos.
#   launch/tpu_pod.sh [--dry-run] create|install|run|resume|logs|delete [flags of vcjax.main]
# `resume` recreates the pod after a preemption and resumes from the last checkpoint.
set -euo pipefail
: "${PROJECT:=my-project}"
: "${ZONE:=us-central2-b}"
: "${NAME:=vcjax}"
: "${ACCELERATOR:=v4-32}"
: "${RUNTIME:=tpu-ubuntu2204-base}"
: "${PROVISIONING:=--spot}"                # empty for on-demand capacity
: "${BUCKET:=my-bucket}"
: "${PACKAGE:=vcjax[train,tpu]}"           # requirement passed to pip install
: "${CONFIG:=la_idt.py}"                   # experiment[:variant]
: "${MANIFEST:=/mnt/vcjax/videos.tsv}"
: "${WORKDIR:=/mnt/vcjax/runs/la_idt}"

dry=()
if [[ ${1:-} == --dry-run ]]; then dry=(echo); shift; fi
action=${1:?create, install, run, resume, logs or delete}
shift
tpu() { "${dry[@]}" gcloud compute tpus tpu-vm "$1" "$NAME" "--zone=$ZONE" "--project=$PROJECT" "${@:2}"; }
everywhere() { tpu ssh --worker=all "--command=$1"; }

create() { tpu create "--accelerator-type=$ACCELERATOR" "--version=$RUNTIME" ${PROVISIONING:+"$PROVISIONING"}; }
install() {
  everywhere "sudo apt-get install -y gcsfuse python3-venv && sudo mkdir -p /mnt/vcjax && sudo chown \$USER /mnt/vcjax && (mountpoint -q /mnt/vcjax || gcsfuse --implicit-dirs $BUCKET /mnt/vcjax)"
  everywhere "python3 -m venv vcjax && vcjax/bin/pip install --quiet '$PACKAGE'"
}
train() {
  local flags=""
  (($#)) && flags=$(printf ' %q' "$@")
  everywhere "nohup vcjax/bin/vcjax main --distributed --config=$CONFIG --config.data.manifest=$MANIFEST --workdir=$WORKDIR$flags > vcjax.log 2>&1 &"
}
case $action in
  create) create ;;
  install) install ;;
  run) train "$@" ;;
  resume) tpu delete --quiet || true; create; install; train "$@" ;;
  logs) tpu ssh --worker=0 "--command=tail -n 100 -f vcjax.log" ;;
  delete) tpu delete --quiet ;;
  *) echo "tpu_pod.sh: no action '$action'; use create, install, run, resume, logs or delete" >&2; exit 2 ;;
esac
