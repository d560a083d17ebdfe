#!/usr/bin/env bash
# Install what fp8, awq and gptq need: `compressed-tensors`, and llm-compressor in an environment of its own, because it
# wants an older transformers than this project.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

prepare compressed
environment=.venv/llm-compressor
if ! "$environment/bin/python" -c 'import llmcompressor' >/dev/null 2>&1; then
    say "installing llm-compressor into $environment (1.5 GB: it has a torch of its own)"
    .venv/bin/python -m venv --clear "$environment"
    "$environment/bin/python" -m pip install -q --disable-pip-version-check --no-input \
        llmcompressor==0.14.0.1 compressed-tensors==0.19.0 transformers==5.17.0 torch==2.13.0
fi
say "ready: trainer export RECIPE --set 'export.formats=[fp8,gptq]'"
