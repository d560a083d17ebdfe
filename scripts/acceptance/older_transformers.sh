#!/usr/bin/env bash
# Open exports with transformers 4.57 and PEFT 0.18, in an environment of its own: adapter and merged of tiny bases with
# the main kinds of tokenizer, made by that release. Token ids, logits and greedy answers must be ours.
#
#   scripts/acceptance/older_transformers.sh [FOLDER]      # for bases and runs; a temporary one by default
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"

prepare dev
scripts=scripts/acceptance
environment=.venv/older-transformers
if ! "$environment/bin/python" -c 'import peft, transformers; assert transformers.__version__ == "4.57.6"' 2>/dev/null; then
    say "installing transformers 4.57.6 into $environment (it has a torch of its own)"
    .venv/bin/python -m venv --clear "$environment"
    "$environment/bin/python" -m pip install -q --disable-pip-version-check --no-input -c "$scripts/older_transformers.txt" \
        torch transformers peft accelerate
fi
folder=${1:-$(mktemp -d)}
.venv/bin/python "$scripts/older_transformers.py" rows "$folder"
"$environment/bin/python" -I "$scripts/older_reader.py" make "$folder"
.venv/bin/python "$scripts/older_transformers.py" run "$folder"
"$environment/bin/python" -I "$scripts/older_reader.py" read "$folder"
