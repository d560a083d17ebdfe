#!/usr/bin/env bash
# Serve a run's merged model with vLLM in Docker. The model is read-only; only this machine can reach the port.
#
#   recipes/serve/vllm-merged.sh RUN
#
# Set VLLM_API_KEY before you open the port to others: then vLLM asks clients for it.
set -euo pipefail

if [ "$#" -ne 1 ] || [ ! -f "$1/export/merged/config.json" ]; then
    echo "usage: $0 RUN    (a run with export/merged: trainer export RUN --set 'export.formats=[merged]')" >&2
    exit 2
fi
run=$(realpath "$1")

exec docker run --rm --gpus all --ipc=host -e VLLM_API_KEY -e HF_HUB_OFFLINE=1 \
    --publish "127.0.0.1:${PORT:-8000}:8000" --volume "$run/export/merged:/model:ro" \
    "${VLLM_IMAGE:-vllm/vllm-openai:latest}" --model /model --served-model-name "$(basename "$run")"
