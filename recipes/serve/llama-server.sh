#!/usr/bin/env bash
# Serve a run's GGUF file with llama.cpp. The server needs no GPU and no Python.
#
#   recipes/serve/llama-server.sh RUN
set -euo pipefail

file=$(find "${1:?usage: $0 RUN}/export/gguf" -name '*.gguf' | sort --reverse | head --lines 1) # q8_0 before q4_0 and f16
if [ -z "$file" ]; then
    echo "no GGUF file: trainer export $1 --set 'export.formats=[merged, gguf]'" >&2
    exit 4
fi

exec "${LLAMA_SERVER:-llama-server}" --model "$file" --alias "$(basename "$(realpath "$1")")" --jinja \
    --host "${HOST:-127.0.0.1}" --port "${PORT:-8000}"
