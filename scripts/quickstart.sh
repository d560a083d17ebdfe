#!/usr/bin/env bash
# From a fresh clone to a trained, evaluated and exported small model; needs neither a GPU nor a hub.
# Arguments go to `trainer run`: scripts/quickstart.sh --set name=again
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

prepare gguf,semantic
say "trainer run recipes/quickstart.yaml $*"
exec .venv/bin/trainer run recipes/quickstart.yaml "$@"
