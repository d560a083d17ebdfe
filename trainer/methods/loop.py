"""What both trainers share: item order, checkpoints, validation loss.

transformers' Trainer carries the loop; the parts where it is silent about faults are replaced here.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from trainer.errors import DivergedError
from trainer.methods import checkpoints
from trainer.methods.stream import StreamSampler

VALIDATION_LOSS = "eval_loss"


class RecipeLoop(Trainer):
    """A Trainer whose data order is given and whose checkpoints are whole."""

    stream: StreamSampler
    checkpoint_dir: Path
    keep: int

    def configure(self, *, stream: StreamSampler, checkpoint_dir: Path, keep: int) -> None:
        """Set what the constructors of transformers and TRL have no room for."""
        self.stream = stream
        self.checkpoint_dir = checkpoint_dir
        self.keep = keep

    def _get_train_sampler(self, train_dataset: Any = None) -> StreamSampler:
        return self.stream

    def _get_output_dir(self, trial: Any = None) -> str:
        return str(self.checkpoint_dir / ".staged")

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any = None) -> None:
        """Write aside, then publish; every process takes part, the first one renames."""
        self._refuse_non_finite()
        step = self.state.global_step
        staged = Path(self._get_output_dir()) / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        if self.args.should_save:
            shutil.rmtree(staged.parent, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            Trainer._save_checkpoint(self, model, trial)
        except Exception:
            shutil.rmtree(staged.parent, ignore_errors=True)  # on a full disk it is in the way
            raise
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            (staged / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing reads
            checkpoints.publish(staged, self.checkpoint_dir / checkpoints.step_name(step))
            checkpoints.rotate(self.checkpoint_dir, keep=self.keep, best=best_step(self.state.log_history))
            shutil.rmtree(staged.parent, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _refuse_non_finite(self) -> None:
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                raise diverged(self.state.global_step, f"weight {name} is not finite")


def diverged(step: int, what: str) -> DivergedError:
    """Return the error for a loss, gradient or weight that is not finite."""
    return DivergedError(
        f"training diverged at step {step}: {what}",
        hint="lower train.learning_rate (under a new name: --set name=NEW --set train.learning_rate=...), "
        "or look at the rows of that step",
    )


def validations(history: list[dict[str, Any]]) -> list[tuple[float, int]]:
    """Return (validation loss, step) from a Trainer's log history."""
    return [(line[VALIDATION_LOSS], line["step"]) for line in history if VALIDATION_LOSS in line]


def best_step(history: list[dict[str, Any]]) -> int | None:
    """Return the step with the lowest validation loss, the earliest of equals."""
    return min(validations(history))[1] if validations(history) else None
