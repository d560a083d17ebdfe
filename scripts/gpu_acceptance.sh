#!/usr/bin/env bash
# Run the acceptance on a CUDA card, without network: scripts/gpu_acceptance.sh correctness|methods|engine|limits
# PYTHON (default python3) is used if it has the packages, else the environment of scripts/env.sh.
# ACCEPTANCE_OUT: folder of the results (default benchmarks/results); ACCEPTANCE_SIZE=tiny also runs on the CPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
    correctness | methods | engine | limits) ;;
    *) echo "usage: scripts/gpu_acceptance.sh correctness|methods|engine|limits" >&2; exit 2 ;;
esac

python=${PYTHON:-python3}
missing=$("$python" -c 'from importlib.util import find_spec
needed = "accelerate bitsandbytes datasets jinja2 numpy orjson peft pyarrow pydantic rich ruamel safetensors"
print(*(name for name in [*needed.split(), "torch", "transformers", "trl"] if find_spec(name) is None))')
if [ -n "$missing" ] && [ -n "${PYTHON:-}" ]; then
    printf 'error: %s lacks %s\nfix: install them there, or put them on PYTHONPATH\n' "$python" "$missing" >&2
    exit 5
elif [ -n "$missing" ]; then
    echo "== $python lacks $missing; using .venv"
    source scripts/env.sh
    prepare gguf
    python=$PWD/.venv/bin/python
fi

export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 USE_HUB_KERNELS=0
export TRANSFORMERS_VERBOSITY=error TOKENIZERS_PARALLELISM=false
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0}"    # the figures are of one card
exec "$python" scripts/gpu_acceptance.py "$1"
