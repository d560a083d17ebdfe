#!/usr/bin/env bash
# Takes a tiny model of every model type through the stages and writes the table of docs/models.md (about an hour).
# Arguments go to scripts/zoo.py: scripts/zoo.sh --types llama,gemma3
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

prepare gguf,semantic,dev
exec .venv/bin/python scripts/zoo.py --out zoo --table docs/models.md "$@"
