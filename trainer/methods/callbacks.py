"""Act between steps: write metrics, show progress, stop on signals, divergence and early stopping."""

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

import numpy as np
import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.methods.loop import VALIDATION_LOSS, LogLine, diverged, validations
from trainer.tokens.arrays import Ints

RENAMED = {VALIDATION_LOSS: "validation_loss"}
LOGGED = ("loss", "grad_norm", "learning_rate", VALIDATION_LOSS)
TRL_PREFIXES = ("rewards/", "logps/")
MAX_OVERFLOWS = 16
"""Halvings from the first scale of float16 gradients, 65536, to 1."""


class Metrics(TrainerCallback):
    """Write metrics.jsonl, one line for each logged or validated step; check that numbers are finite."""

    def __init__(self, path: Path, *, tokens_per_step: Ints, steps_per_epoch: float) -> None:
        self.path = path
        self.tokens = np.concatenate([[0], np.cumsum(tokens_per_step)])
        """(steps + 1,): tokens of all steps before each one."""
        self.steps_per_epoch = steps_per_epoch
        self.start_step = 0
        self.start_time = 0.0
        self.last_rate = 0.0
        self.overflows = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Drop lines of steps that a resumed run takes again."""
        self.start_step, self.start_time = state.global_step, time.monotonic()
        if state.is_world_process_zero and self.path.is_file():
            lines = [line for line in self.path.read_text().splitlines() if _step_of(line) <= state.global_step]
            self.path.write_text("".join(f"{line}\n" for line in lines))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: LogLine | None = None,
        **_: object,
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
        line: LogLine = {"step": state.global_step, "epoch": round(state.global_step / self.steps_per_epoch, 4)}
        for name, value in logs.items():
            if name in LOGGED or name.removeprefix("eval_").startswith(TRL_PREFIXES):
                line[RENAMED.get(name, name)] = value
        if "loss" in logs:
            # since this process began: the time of steps before a resume is not known
            tokens = self.tokens[state.global_step] - self.tokens[self.start_step]
            self.last_rate = float(tokens / seconds) if seconds else 0.0
            line["tokens_per_s"] = round(self.last_rate, 1)  # of all processes together
        line["seconds"] = round(seconds, 3)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _is_overflow(self, args: TrainingArguments, logs: LogLine) -> bool:
        """Tell whether a scaled float16 gradient was too large: that step is skipped, and the scale is halved."""
        if "grad_norm" not in logs:
            return False
        # at most MAX_OVERFLOWS in a row: then the scale is 1, and the gradient itself is infinite
        self.overflows = 0 if math.isfinite(logs["grad_norm"]) else self.overflows + 1
        return bool(args.fp16) and 0 < self.overflows <= MAX_OVERFLOWS


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return sys.maxsize  # half a line, from a process that was killed while writing


class Progress(TrainerCallback):
    """Show a bar with loss, tokens/s and time left on a terminal, ten lines elsewhere."""

    def __init__(self, metrics: Metrics, say: Callable[[str], None]) -> None:
        self.metrics = metrics
        self.say = say
        self.bar: tqdm[None] | None = None
        self.last_step = 0
        """Of the last line."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Open the bar."""
        self.last_step = state.global_step
        if state.is_world_process_zero and sys.stderr.isatty():
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit="step", leave=True)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: LogLine | None = None,
        **_: object,
    ) -> None:
        """Show a logged loss."""
        logs = logs or {}
        if not state.is_world_process_zero:
            return
        if VALIDATION_LOSS in logs:
            self._print(f"train: step {state.global_step}: validation loss {logs[VALIDATION_LOSS]:.4f}")
        if "loss" not in logs:
            return
        facts = f"loss {logs['loss']:.3f}, {self.metrics.last_rate:.0f} tokens/s"
        if self.bar is not None:
            self.bar.set_postfix_str(facts, refresh=False)
            self.bar.update(state.global_step - self.bar.n)
        elif state.global_step - self.last_step >= state.max_steps / 10 or state.global_step == state.max_steps:
            self.last_step = state.global_step
            self.say(
                f"train: step {state.global_step}/{state.max_steps}, {facts}, {self._seconds_left(state):.0f} s left"
            )

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()

    def _seconds_left(self, state: TrainerState) -> float:
        elapsed = time.monotonic() - self.metrics.start_time
        return elapsed / max(1, state.global_step - self.metrics.start_step) * (state.max_steps - state.global_step)

    def _print(self, text: str) -> None:
        if self.bar is None:
            self.say(text)
        else:
            self.bar.write(text, file=sys.stderr)


class MaximumOfProcesses:
    """The largest number of all processes, copied from the device without waiting for it."""

    def __init__(self, number: int, device: torch.device) -> None:
        # (): signal numbers are above 0, so the maximum is a signal wherever one came
        largest = torch.full((), number, device=device)
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
        self.number = largest.to("cpu", non_blocking=True)
        self.arrival = torch.cuda.Event() if device.type == "cuda" else None
        if self.arrival is not None:
            self.arrival.record()

    def wait(self) -> int:
        """Wait for the copy; return the number."""
        if self.arrival is not None:
            self.arrival.synchronize()
        return int(self.number)


@dataclass
class StopSignals(TrainerCallback):
    """End the run after a checkpoint on SIGTERM and SIGINT; all processes stop at the same step."""

    received: int = 0
    has_begun: bool = False
    """There are steps to finish and a state to save."""
    stopped_by: int = 0
    pending: MaximumOfProcesses | None = None
    """Of the step before: by now it is there, so that reading it does not keep a card from working ahead."""

    def install(self) -> None:
        """Catch the signals from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        if not self.has_begun:  # there is no state to save, and loading may take minutes
            raise SystemExit(128 + number)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Stop between steps from now on."""
        self.has_begun = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Request a checkpoint and the end, when any process got a signal."""
        number = self.received
        if args.world_size > 1:
            before, self.pending = self.pending, MaximumOfProcesses(number, args.device)
            # one step late on every process: a signal that only some have seen must not part them
            number = before.wait() if before else 0
        if number and state.global_step < state.max_steps:
            self.stopped_by = number
            control.should_save = control.should_training_stop = True


class EarlyStopping(TrainerCallback):
    """End the run after `patience` validations without a new best; read from the history, so resuming is exact."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Compare the best validation with the latest ones."""
        if is_over(state.log_history, self.patience):
            control.should_save = control.should_training_stop = True


def is_over(history: list[LogLine], patience: int) -> bool:
    """Tell whether the last `patience` validations of a Trainer's log history brought no new best.

    Example:
        >>> history = [{VALIDATION_LOSS: loss, "step": step} for step, loss in enumerate([2.0, 1.5, 1.6, 1.5])]
        >>> is_over(history, patience=2), is_over(history, patience=3)
        (True, False)
    """
    losses = [loss for loss, _ in validations(history)]
    # `index` is the first of equal bests: a loss that stands still is no improvement
    return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= patience
