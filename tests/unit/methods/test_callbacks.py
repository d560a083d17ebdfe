"""What the metrics file holds, and when training has diverged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trainer.errors import DivergedError
from trainer.methods.callbacks import MAX_OVERFLOWS, Metrics


def logged(metrics: Metrics, *norms: float, fp16: bool) -> list[dict[str, Any]]:
    """Log steps with these norms of the gradient; return the lines of the file."""
    for step, norm in enumerate(norms, start=1):
        args: Any = SimpleNamespace(fp16=fp16)
        state: Any = SimpleNamespace(global_step=step, is_world_process_zero=True)
        metrics.on_log(args, state, None, {"loss": 2.0, "grad_norm": norm})
    return [json.loads(line) for line in metrics.path.read_text().splitlines()]


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    return Metrics(tmp_path / "metrics.jsonl", tokens_per_step=np.ones(100, dtype=np.int64), items_per_epoch=10.0)


def test_a_gradient_that_is_not_finite_is_divergence(metrics: Metrics) -> None:
    with pytest.raises(DivergedError, match="grad_norm is nan"):
        logged(metrics, 1.0, math.nan, fp16=False)


def test_a_skipped_float16_step_is_no_divergence(metrics: Metrics) -> None:
    lines = logged(metrics, math.inf, math.nan, 3.0, math.inf, 1.0, fp16=True)
    assert [line.get("grad_norm") for line in lines] == [None, None, 3.0, None, 1.0]
    assert [line["loss"] for line in lines] == [2.0] * 5


def test_float16_gradients_that_no_scale_helps_are_divergence(metrics: Metrics) -> None:
    logged(metrics, *[math.inf] * MAX_OVERFLOWS, fp16=True)
    with pytest.raises(DivergedError, match="grad_norm is inf"):
        logged(metrics, math.inf, fp16=True)
