"""Define `train`, `track` and `launch`: optimizer, schedule, checkpoints, trackers and processes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from trainer.recipe.base import Section

LAUNCHED = "TRAINER_LAUNCHED"  # set for processes that `trainer train` itself launches: their number


class TrainSection(Section):
    """How the weights move. Names of transformers' TrainingArguments where it has one."""

    global_batch_size: int = Field(default=16, ge=1)
    """Optimizer items a step over all processes: packs when packing, else rows or pairs. The contract."""
    micro_batch_size: PositiveInt | Literal["auto"] = "auto"
    """Items in one forward pass of one process; gradient accumulation follows. auto: on CUDA what makes a step fastest
    and fits, as a rule about 8,192 tokens; on the CPU about 2,048."""
    num_train_epochs: float | None = Field(default=None, gt=0)
    """Passes over the training rows; 3 when neither this nor `max_steps` is given."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps, instead of epochs."""
    learning_rate: PositiveFloat | Literal["auto"] = "auto"
    """Peak rate; auto: 2e-4 for adapters and 1e-5 in full, a twentieth of that on preference pairs."""
    lr_scheduler_type: Literal[
        "linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt", "cosine_with_min_lr"
    ] = "cosine"
    """Schedule after the warm-up."""
    lr_scheduler_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further settings of the schedule."""
    warmup_steps: float = Field(default=0.03, ge=0)
    """Steps of linear warm-up; below 1 a share of all steps."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Gradient clipping; 0 is off."""
    optim: Literal["adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "sgd"] = (
        "adamw_torch_fused"
    )
    """Optimizer; the fused one is the fastest on cards and CPUs, the 8-bit and paged ones are for CUDA cards.
    Bfloat16 weights are rounded stochastically."""
    optimizer_in_backward: bool | Literal["auto"] = "auto"
    """Step each weight as soon as its gradient is whole, and free that; full fine-tuning in one process only.

    It needs `max_grad_norm: 0` and one micro-batch a step, which `micro_batch_size: auto` then is. The steps are the
    same. auto: where all of this is so already.
    """
    gradient_checkpointing: bool | Literal["auto", "elementwise", "full", "offload"] = "auto"
    """What layers compute again in the backward pass: nothing (false), norms and activations (elementwise), all (full,
    or true), all while their inputs wait on the host (offload); auto: on CUDA as little as fits, on the CPU nothing."""
    torch_compile: bool = False
    """Compile the decoder layers, where this torch is known to do so rightly; packs are filled up to one length."""
    logging_steps: int = Field(default=1, ge=1)
    """Steps between two lines of metrics.jsonl."""
    eval_steps: int | None = Field(default=None, ge=1)
    """Steps between two validation losses; by default ten in a run, when there are validation rows."""
    save_steps: int | None = Field(default=None, ge=1)
    """Steps between two checkpoints; by default that of `eval_steps`, else ten in a run."""
    save_total_limit: int = Field(default=2, ge=1)
    """Checkpoints kept, the best one besides."""
    load_best_model_at_end: bool = False
    """Keep the weights with the best validation metric instead of the last."""
    metric_for_best_model: Literal["validation_loss"] = "validation_loss"
    """What best means."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Validations without a new best before training stops."""

    @model_validator(mode="after")
    def epochs_or_steps(self) -> TrainSection:
        if self.num_train_epochs is not None and self.max_steps is not None:
            raise ValueError("give one of `num_train_epochs` and `max_steps`")
        return self

    @model_validator(mode="after")
    def best_weights_are_saved(self) -> TrainSection:
        if self.load_best_model_at_end and self.save_steps is not None and self.save_steps != self.eval_steps:
            raise ValueError(
                f"load_best_model_at_end needs a checkpoint at every validation; save_steps is {self.save_steps}, "
                f"eval_steps is {self.eval_steps}"
            )
        return self

    @model_validator(mode="after")
    def micro_divides_global(self) -> TrainSection:
        if self.micro_batch_size != "auto" and self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} does not divide global_batch_size {self.global_batch_size}"
            )
        return self


class TrackSection(Section):
    """Experiment trackers; none by default, and no telemetry ever."""

    report_to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field(default_factory=list)
    """Trackers of transformers to report to; each needs its own package."""
    project: str | None = None
    """Project name for the trackers."""
    run_name: str | None = None
    """Run name for the trackers; the recipe's name by default."""


class LaunchSection(Section):
    """What `accelerate launch` is told."""

    num_processes: PositiveInt | Literal["auto"] = "auto"
    """Training processes on this machine; auto: one for each visible card, one on the CPU."""
    num_nodes: int = Field(default=1, ge=1)
    """Machines; with more than one, start `accelerate launch -m trainer train RECIPE` on each."""
    strategy: Literal["auto", "ddp", "fsdp2", "zero3"] = "auto"
    """How a model is spread over processes; auto: ddp."""
    accelerate_config: str | None = None
    """Configuration file of accelerate to use instead of our own."""
    card: str | None = None
    """Card that `trainer check` predicts memory and time for, such as H100-80GB; by default those of this machine."""
