#!/usr/bin/env bash
# Train, evaluate and export a small model, from a fresh clone. Needs neither a GPU nor a hub.
# Arguments go to `trainer run`: scripts/quickstart.sh --set name=again
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

prepare gguf,semantic
say "trainer run recipes/quickstart.yaml $*"
exec .venv/bin/trainer run recipes/quickstart.yaml "$@"
