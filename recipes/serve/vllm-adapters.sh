#!/usr/bin/env bash
# Serve several adapters on one copy of their base model with vLLM, each under a name of its own.
#
#   VLLM_PYTHON=~/vllm/bin/python recipes/serve/vllm-adapters.sh BASE RUN [RUN ...]
#
# BASE: hub id or folder that the adapters were trained on; RUN: run folders with export/adapter, one rank or several.
# All adapters share the template, its default system prompt and the stop tokens of the first RUN. An adapter with other
# ones needs a server of its own.
# Clients ask for a RUN by the name of its folder, for the untuned model by `base`. Only this machine can reach the server.
set -euo pipefail

if [ "$#" -lt 2 ]; then
    echo "usage: $0 BASE RUN [RUN ...]" >&2
    exit 2
fi
base=$1
shift
python=${VLLM_PYTHON:-python}
modules=()
rank=1
for run in "$@"; do
    adapter=$(realpath "$run")/export/adapter
    if [ ! -f "$adapter/adapter_config.json" ]; then
        echo "no $adapter: trainer export $run --set 'export.formats=[adapter]'" >&2
        exit 4
    fi
    if ! cmp -s "$adapter/chat_template.jinja" "$(realpath "$1")/export/adapter/chat_template.jinja"; then
        echo "$run has another chat template, or another default system prompt in it, than $1: serve it by itself" >&2
        exit 4
    fi
    modules+=("$(basename "$(realpath "$run")")=$adapter")
    own=$("$python" -c 'import json, sys
config = json.load(open(sys.argv[1]))
print(max([config["r"], *(config.get("rank_pattern") or {}).values()]))' "$adapter/adapter_config.json")
    rank=$((own > rank ? own : rank))
done
for limit in 1 8 16 32 64 128 256 320 512; do
    [ "$limit" -ge "$rank" ] && break
done
first=$(realpath "$1")/export/adapter

exec "$python" -m vllm.entrypoints.cli.main serve "$base" --served-model-name base \
    --host "${HOST:-127.0.0.1}" --port "${PORT:-8000}" \
    --enable-lora --max-loras "${#modules[@]}" --max-lora-rank "$limit" --lora-modules "${modules[@]}" \
    --tokenizer "$first" --chat-template "$first/chat_template.jinja" --generation-config "$first"
