"""Translate the recipe to arguments of transformers' Trainer."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import torch
from transformers import TrainingArguments, get_scheduler

from trainer.errors import Problem, RecipeError
from trainer.methods.order import StepPlan
from trainer.model.load import Precision
from trainer.recipe import Recipe


def settings_of(
    recipe: Recipe, out_dir: Path, steps: StepPlan, types: Precision, *, validates: bool, recompute: bool
) -> dict[str, object]:
    """Return the keyword arguments of `TrainingArguments`."""
    train, track = recipe.train, recipe.track
    every = max(1, steps.num_steps // 10)
    eval_steps = train.eval_steps or every
    on_cuda = torch.cuda.is_available()
    if track.project:
        os.environ.setdefault("WANDB_PROJECT", track.project)
    settings: dict[str, object] = {
        "output_dir": str(out_dir / "checkpoints" / ".staged"),
        "per_device_train_batch_size": steps.micro_batch_size,
        "per_device_eval_batch_size": steps.micro_batch_size,
        "gradient_accumulation_steps": steps.accumulation,
        "num_train_epochs": 1,  # the stream holds all epochs, see methods/order.py
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": train.lr_scheduler_type,
        "lr_scheduler_kwargs": train.lr_scheduler_kwargs or None,
        "warmup_steps": warmup_steps(train.warmup_steps, steps.num_steps),
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "optim": train.optim,
        "gradient_checkpointing": recompute,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if recompute else None,
        "logging_steps": train.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # it would replace a NaN by the mean of earlier losses
        "eval_strategy": "steps" if validates else "no",
        "eval_steps": eval_steps if validates else None,
        "save_strategy": "steps",
        "save_steps": train.save_steps or (eval_steps if validates else every),
        "seed": recipe.seed,
        "bf16": types.autocast == torch.bfloat16,
        "fp16": types.autocast == torch.float16,
        "use_cpu": not on_cuda,
        "report_to": list(track.report_to) or "none",
        "run_name": track.run_name,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": on_cuda,
        "accelerator_config": {"non_blocking": on_cuda},
        "ddp_find_unused_parameters": False,
        "average_tokens_across_devices": True,
        "push_to_hub": False,
    }
    parameters = inspect.signature(TrainingArguments.__init__).parameters
    missing = [name for name in settings if name not in parameters]
    assert not missing, f"this transformers has no {missing}"
    return settings


def check_schedule(recipe: Recipe, steps: StepPlan) -> None:
    """Build the schedule once, before the training starts.

    Raises:
        RecipeError: `lr_scheduler_kwargs` do not suit `lr_scheduler_type`.
    """
    train = recipe.train
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=float(train.learning_rate))
    try:
        get_scheduler(
            train.lr_scheduler_type,
            optimizer,
            num_warmup_steps=warmup_steps(train.warmup_steps, steps.num_steps),
            num_training_steps=steps.num_steps,
            scheduler_specific_kwargs=train.lr_scheduler_kwargs or None,
        )
    except (TypeError, ValueError) as error:
        problem = Problem("recipe", None, "train.lr_scheduler_kwargs", f"{train.lr_scheduler_type}: {error}")
        raise RecipeError([problem], hint="see the arguments of this schedule in transformers") from error


def warmup_steps(setting: float, num_steps: int) -> int:
    """Return whole steps; a share is rounded down, for a warm-up begins at rate 0.

    Example:
        >>> warmup_steps(0.1, 25), warmup_steps(10, 25)
        (2, 10)
    """
    return int(setting * num_steps) if setting < 1 else int(setting)
