#!/usr/bin/env bash
# Run all checks of the project; the first failure stops. Needs no GPU.
# Arguments go to pytest: scripts/test.sh tests/unit -k dedupe
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"    # small models: several threads are slower than one

check() {
    say "$*"
    .venv/bin/"$@"
}

prepare gguf,semantic,cluster,lm-eval,serve,dev
prepare_converter
check ruff check .
check ruff format --check .
check mypy
check lint-imports
check python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
say "all checks passed in $SECONDS s"
