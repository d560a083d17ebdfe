#!/usr/bin/env bash
# Install what the gguf format needs: llama.cpp's runtime and its converter, both as wheels.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

prepare gguf
prepare_converter
say "ready: trainer export RECIPE --set 'export.formats=[gguf]'"
