#!/usr/bin/env bash
# Measure one GPU in at most nine minutes: python -m vcjax.bench report. Run it in a checkout.
#   launch/gpu_report.sh [--dry-run] [flags of the report, for example --parts=step]
set -euo pipefail
: "${JSON:=report.json}"                   # file to write
: "${SHARDS:=}"                            # prepared folder to train on; empty: rendered videos
: "${PYTHON:=python3}"

run=("$PYTHON" -m vcjax.bench report "--json=$JSON" "--shards=$SHARDS")
if [[ ${1:-} == --dry-run ]]; then shift; printf '%q ' "${run[@]}" "$@"; echo; exit; fi
exec "${run[@]}" "$@"
