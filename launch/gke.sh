#!/usr/bin/env bash
# Train on GKE as a JobSet, on TPU slices or GPU nodes. If a host fails, all hosts restart and resume
# from the last checkpoint.
#   launch/gke.sh [--dry-run] [flags of vcjax.main]        --dry-run prints the manifest
# Requirements: JobSet is installed, and the cluster's service account can read and write BUCKET.
set -euo pipefail
: "${NAME:=vcjax}"
: "${ACCELERATOR:=tpu}"                    # or gpu
: "${HOSTS:=4}"
: "${CHIPS:=4}"                            # TPU chips or GPUs per host
: "${NODE:=tpu-v5-lite-podslice}"          # accelerator type; for GPUs e.g. nvidia-h100-80gb
: "${TOPOLOGY:=4x4}"                       # topology of the TPU slice
: "${IMAGE:=my-registry/vcjax}"            # from launch/Dockerfile
: "${BUCKET:=my-bucket}"                   # mounted at /mnt/vcjax
: "${CONFIG:=la_idt.py}"                   # experiment[:variant]
: "${MANIFEST:=/mnt/vcjax/videos.tsv}"
: "${WORKDIR:=/mnt/vcjax/runs/la_idt}"
: "${RESTARTS:=20}"

dry=""
if [[ ${1:-} == --dry-run ]]; then dry=yes; shift; fi
flags=""
(($#)) && flags=$(printf ' %q' "$@")
case $ACCELERATOR in
  tpu)
    resource=google.com/tpu
    nodes="cloud.google.com/gke-tpu-accelerator: $NODE
                cloud.google.com/gke-tpu-topology: $TOPOLOGY"
    where="" ;;
  gpu)
    resource=nvidia.com/gpu
    nodes="cloud.google.com/gke-accelerator: $NODE"
    where=" --coordinator=$NAME-hosts-0-0.$NAME:8476 --num_processes=$HOSTS --process_id=\$JOB_COMPLETION_INDEX" ;;
  *) echo "gke.sh: ACCELERATOR is '$ACCELERATOR'; use tpu or gpu" >&2; exit 2 ;;
esac
manifest=$(cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
spec:
  failurePolicy:
    maxRestarts: $RESTARTS
  replicatedJobs:
    - name: hosts
      replicas: 1
      template:
        spec:
          parallelism: $HOSTS
          completions: $HOSTS
          completionMode: Indexed
          backoffLimit: 0
          template:
            metadata:
              annotations:
                gke-gcsfuse/volumes: "true"
            spec:
              restartPolicy: Never
              nodeSelector:
                $nodes
              containers:
                - name: vcjax
                  image: $IMAGE
                  command: [sh, -c]
                  args:
                    - >-
                      exec vcjax main --distributed$where --config=$CONFIG
                      --config.data.manifest=$MANIFEST --workdir=$WORKDIR$flags
                  ports:
                    - containerPort: 8476
                  resources:
                    limits:
                      $resource: $CHIPS
                  volumeMounts:
                    - name: bucket
                      mountPath: /mnt/vcjax
              volumes:
                - name: bucket
                  csi:
                    driver: gcsfuse.csi.storage.gke.io
                    volumeAttributes:
                      bucketName: $BUCKET
                      mountOptions: implicit-dirs
YAML
)
if [[ $dry ]]; then echo "$manifest"; else kubectl apply -f - <<<"$manifest"; fi
