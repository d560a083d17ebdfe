"""What happens between steps: metrics file, progress, stop signals, divergence, early stopping."""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.methods.loop import VALIDATION_LOSS, diverged, validations

RENAMED = {VALIDATION_LOSS: "validation_loss"}
TRL_PREFIXES = ("rewards/", "logps/")
MAX_OVERFLOWS = 16
"""Halvings from the first scale of float16 gradients, 65536, to 1."""


class Metrics(TrainerCallback):
    """Writes metrics.jsonl, one line a step that is logged or validated; checks that numbers are finite."""

    def __init__(self, path: Path, *, tokens_per_step: np.ndarray[Any, Any], items_per_epoch: float) -> None:
        self.path = path
        self.tokens = np.concatenate([[0], np.cumsum(tokens_per_step)])
        self.steps_per_epoch = items_per_epoch
        self.start_step = 0
        self.start_time = 0.0
        self.last_rate = 0.0
        self.overflows = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Drop lines that a resumed run writes again."""
        self.start_step, self.start_time = state.global_step, time.monotonic()
        if state.is_world_process_zero and self.path.is_file():
            lines = [line for line in self.path.read_text().splitlines() if _step_of(line) <= state.global_step]
            self.path.write_text("".join(f"{line}\n" for line in lines))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Append one line.

        Raises:
            DivergedError: A number is not finite.
        """
        logs = dict(logs or {})
        if self._is_overflow(args, logs):
            del logs["grad_norm"]
        for name in ("loss", "grad_norm", VALIDATION_LOSS):
            if name in logs and not math.isfinite(logs[name]):
                raise diverged(state.global_step, f"{RENAMED.get(name, name)} is {logs[name]}")
        if not state.is_world_process_zero or not ({"loss", VALIDATION_LOSS} & logs.keys()):
            return
        seconds = time.monotonic() - self.start_time
        line: dict[str, Any] = {"step": state.global_step, "epoch": round(state.global_step / self.steps_per_epoch, 4)}
        for name, value in logs.items():
            kept = name in ("loss", "grad_norm", "learning_rate", VALIDATION_LOSS)
            if kept or name.removeprefix("eval_").startswith(TRL_PREFIXES):
                line[RENAMED.get(name, name)] = value
        if "loss" in logs:
            tokens = self.tokens[state.global_step] - self.tokens[self.start_step]
            self.last_rate = float(tokens / seconds) if seconds else 0.0
            line["tokens_per_s"] = round(self.last_rate, 1)
        line["seconds"] = round(seconds, 3)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _is_overflow(self, args: TrainingArguments, logs: dict[str, Any]) -> bool:
        """Tell whether a scaled float16 gradient was too large: that step is skipped, and the scale is halved."""
        if "grad_norm" not in logs:
            return False
        self.overflows = 0 if math.isfinite(logs["grad_norm"]) else self.overflows + 1
        return bool(args.fp16) and 0 < self.overflows <= MAX_OVERFLOWS


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return sys.maxsize  # half a line, from a process that was killed while writing


class Progress(TrainerCallback):
    """A bar with loss, tokens/s and time left on a terminal; ten lines anywhere else."""

    def __init__(self, metrics: Metrics, say: Callable[[str], None]) -> None:
        self.metrics = metrics
        self.say = say
        self.bar: Any = None
        self.told = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Open the bar."""
        self.told = state.global_step
        if state.is_world_process_zero and sys.stderr.isatty():
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit="step", leave=True)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Show a logged loss."""
        logs = logs or {}
        if not state.is_world_process_zero:
            return
        if VALIDATION_LOSS in logs:
            self._tell(f"train: step {state.global_step}: validation loss {logs[VALIDATION_LOSS]:.4f}")
        if "loss" not in logs:
            return
        facts = f"loss {logs['loss']:.3f}, {self.metrics.last_rate:.0f} tokens/s"
        if self.bar is not None:
            self.bar.set_postfix_str(facts, refresh=False)
            self.bar.update(state.global_step - self.bar.n)
        elif state.global_step - self.told >= state.max_steps / 10 or state.global_step == state.max_steps:
            self.told = state.global_step
            self.say(f"train: step {state.global_step}/{state.max_steps}, {facts}, {self._left(state):.0f} s left")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()

    def _left(self, state: TrainerState) -> float:
        elapsed = time.monotonic() - self.metrics.start_time
        return elapsed / max(1, state.global_step - self.metrics.start_step) * (state.max_steps - state.global_step)

    def _tell(self, text: str) -> None:
        if self.bar is None:
            self.say(text)
        else:
            self.bar.write(text, file=sys.stderr)


class MaximumOfProcesses:
    """The largest number that any process has, on its way from the device."""

    def __init__(self, number: int, device: torch.device) -> None:
        found = torch.full((), number, device=device)
        torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
        self.number = found.to("cpu", non_blocking=True)
        self.arrival = torch.cuda.Event() if device.type == "cuda" else None
        if self.arrival is not None:
            self.arrival.record()

    def answer(self) -> int:
        """Wait for it to arrive."""
        if self.arrival is not None:
            self.arrival.synchronize()
        return int(self.number)


@dataclass
class StopSignals(TrainerCallback):
    """SIGTERM and SIGINT end the run after a checkpoint; all processes stop at the same step."""

    received: int = 0
    stopped_by: int = 0
    asked: MaximumOfProcesses | None = None
    """The question of the step before; reading its answer then does not keep a card from working ahead."""

    def install(self) -> None:
        """Catch the signals from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for a checkpoint and the end, when any process got a signal."""
        number = self.received
        if args.world_size > 1:
            before, self.asked = self.asked, MaximumOfProcesses(number, args.device)
            number = before.answer() if before else 0
        if number and state.global_step < state.max_steps:
            self.stopped_by = number
            control.should_save = control.should_training_stop = True


class EarlyStopping(TrainerCallback):
    """Ends the run after `patience` validations without a new best; read from the history, so resuming is exact."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Compare the best validation with the latest ones."""
        if is_over(state.log_history, self.patience):
            control.should_save = control.should_training_stop = True


def is_over(history: list[dict[str, Any]], patience: int) -> bool:
    """Tell whether the last `patience` validations of a Trainer's log history brought no new best."""
    losses = [loss for loss, _ in validations(history)]
    return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= patience
