"""What the metrics file holds, and when training has diverged."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from trainer.errors import DivergedError
from trainer.methods.callbacks import MAX_OVERFLOWS, Metrics, StopSignals


def logged(metrics: Metrics, *norms: float, fp16: bool) -> list[dict[str, Any]]:
    """Log steps with these norms of the gradient; return the lines of the file."""
    for step, norm in enumerate(norms, start=1):
        args: Any = SimpleNamespace(fp16=fp16)
        state: Any = SimpleNamespace(global_step=step, is_world_process_zero=True)
        metrics.on_log(args, state, None, {"loss": 2.0, "grad_norm": norm})
    return [json.loads(line) for line in metrics.path.read_text().splitlines()]


def stop_flags() -> Any:
    return SimpleNamespace(should_save=False, should_training_stop=False)


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    return Metrics(tmp_path / "metrics.jsonl", tokens_per_step=np.ones(100, dtype=np.int64), steps_per_epoch=10.0)


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


def test_processes_agree_on_a_signal_one_step_later_without_waiting_for_the_step() -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        signals, control = StopSignals(has_begun=True), stop_flags()
        args: Any = SimpleNamespace(world_size=2, device=torch.device("cpu"))
        stopped = []
        for step in range(1, 5):
            if step == 3:
                signals._note(signal.SIGTERM, None)
            state: Any = SimpleNamespace(global_step=step, max_steps=9)
            signals.on_step_end(args, state, control)
            stopped.append(control.should_training_stop)
        assert stopped == [False, False, False, True] and signals.stopped_by == signal.SIGTERM and control.should_save
    finally:
        torch.distributed.destroy_process_group()


def test_a_process_alone_stops_at_once() -> None:
    signals, control = StopSignals(has_begun=True), stop_flags()
    signals._note(signal.SIGINT, None)
    args: Any = SimpleNamespace(world_size=1)
    state: Any = SimpleNamespace(global_step=1, max_steps=9)
    signals.on_step_end(args, state, control)
    assert control.should_training_stop and signals.stopped_by == signal.SIGINT
