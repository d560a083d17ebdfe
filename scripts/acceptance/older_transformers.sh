#!/usr/bin/env bash
# Opens exports with transformers 4.57 and PEFT 0.18, in an environment of its own: adapter and merged of tiny bases with
# the main kinds of tokenizer, made by that release. Token ids and logits must be ours. About five minutes on two cores.
#
#   scripts/acceptance/older_transformers.sh [FOLDER]      # made if missing; a temporary one by default
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"
fix_path=scripts/acceptance/older_transformers
place=${OLDER_ENV:-.venv/older-transformers}

[ -n "${OLDER_PYTHON_READY:-}" ] || prepare dev
if ! "$place/bin/python" -c 'import peft, transformers; assert transformers.__version__ == "4.57.6"' 2>/dev/null; then
    say "installing transformers 4.57.6 into $place (it has a torch of its own)"
    .venv/bin/python -m venv --clear "$place"
    "$place/bin/python" -m pip install -q --disable-pip-version-check --no-input -c $fix_path.txt \
        torch transformers peft accelerate
fi
folder=${1:-$(mktemp -d)}
mkdir -p "$folder"
"$place/bin/python" -I scripts/acceptance/older_reader.py make "$folder"
.venv/bin/python scripts/acceptance/older_transformers.py "$folder"
"$place/bin/python" -I scripts/acceptance/older_reader.py read "$folder"
