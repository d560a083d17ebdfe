"""Define the whole recipe, the rules across its sections, and the values of `auto`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from trainer.recipe.base import Section
from trainer.recipe.data import DataSection, PackSection
from trainer.recipe.decide import DecideSection
from trainer.recipe.evaluate import EvalSection
from trainer.recipe.export import ExportSection
from trainer.recipe.method import Method, SftMethod, row_facts
from trainer.recipe.model import Adapter, LoraAdapter, ModelSection, four_bit_of, low_rank, start_of
from trainer.recipe.train import LaunchSection, TrackSection, TrainSection

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class Recipe(Section):
    """A run, described completely; what it does not say has a default."""

    recipe_version: Literal[1]
    """Version of this format; a renamed key bumps it."""
    name: str = Field(pattern=NAME_PATTERN, max_length=100)
    """Name of the run folder."""
    seed: int = Field(default=42, ge=0, lt=2**31)
    """Seed of initialisation, order of rows and dropout."""
    model: ModelSection
    """The base model."""
    adapter: Adapter = LoraAdapter(kind="lora")
    """Which weights move."""
    data: DataSection
    """Which rows."""
    pack: PackSection = PackSection()
    """How rows become tokens."""
    method: Method = SftMethod(kind="sft")
    """Which loss."""
    train: TrainSection = TrainSection()
    """How the weights move."""
    eval: EvalSection = EvalSection()
    """How the result is measured."""
    decide: DecideSection | None = None
    """Prompting against tuning: prices, volume, limits; without it `run` does not decide."""
    export: ExportSection = ExportSection()
    """What is delivered."""
    track: TrackSection = TrackSection()
    """Experiment trackers."""
    launch: LaunchSection = LaunchSection()
    """Processes and cards."""

    @model_validator(mode="after")
    def full_tuning_exports_merged(self) -> Recipe:
        if not low_rank(self.adapter) and self.export.formats != "auto" and "adapter" in self.export.formats:
            raise ValueError("export.formats: there is no adapter to export with adapter.kind none; use [merged]")
        return self

    @model_validator(mode="after")
    def only_qlora_has_a_dequantised_base(self) -> Recipe:
        if self.export.merge.base == "dequantised" and not four_bit_of(self.adapter):
            raise ValueError("export.merge.base: dequantised is for adapter.kind qlora; use plain or auto")
        return self

    @model_validator(mode="after")
    def best_model_needs_validation_rows(self) -> Recipe:
        needs_validation = self.train.load_best_model_at_end or self.train.early_stopping_patience is not None
        if needs_validation and not (self.data.split.validation or self.data.split.validation_path):
            raise ValueError("data.split.validation: load_best_model_at_end and early_stopping_patience need such rows")
        return self

    @model_validator(mode="after")
    def spread_weights_are_recomputed_as_a_whole(self) -> Recipe:
        level, strategy = self.train.gradient_checkpointing, self.launch.strategy
        if level in ("elementwise", "offload") and strategy in ("fsdp2", "zero3"):
            raise ValueError(
                f"train.gradient_checkpointing: {level} is for weights that one card holds, and launch.strategy is "
                f"{strategy}; use true or false"
            )
        return self

    @model_validator(mode="after")
    def preference_rows_are_not_packed(self) -> Recipe:
        rows = row_facts(self.method)
        if self.pack.packing is True and not rows.are_packed:
            raise ValueError(f"pack.packing: {rows.title} are not packed; use auto or false")
        return self

    @model_validator(mode="after")
    def preference_accuracy_needs_pairs(self) -> Recipe:
        metrics = self.eval.metrics if self.eval.metrics != "auto" else []
        for metric in ("preference_accuracy", "preference_margin"):
            if metric in metrics and not row_facts(self.method).has_preference:
                kind = self.method.kind
                raise ValueError(f"eval.metrics: {metric} needs preference rows, and method.kind is {kind}")
        return self

    @model_validator(mode="after")
    def compiled_layers_drop_nothing_and_are_whole(self) -> Recipe:
        adapter = low_rank(self.adapter)
        dropout = adapter.dropout if adapter else 0.0
        if self.train.torch_compile and dropout and row_facts(self.method).keeps_dropout:
            raise ValueError(f"train.torch_compile: compiled layers have no dropout; adapter.dropout is {dropout:g}")
        if self.train.torch_compile and self.launch.strategy in ("fsdp2", "zero3"):
            raise ValueError(f"train.torch_compile: not with launch.strategy {self.launch.strategy}; use ddp")
        return self

    @model_validator(mode="after")
    def nothing_waits_for_gradients(self) -> Recipe:
        processes, accumulation = stated(self)
        problems = obstacles(self, processes=processes, accumulation=accumulation)
        if self.train.optimizer_in_backward is True and problems:
            raise ValueError(f"train.optimizer_in_backward: {'; '.join(problems)}")
        return self

    @model_validator(mode="after")
    def the_start_is_known(self) -> Recipe:
        arms = [] if self.eval.arms == "auto" else self.eval.all_arms
        if any(arm.model == "start" for arm in arms) and not start_of(self.adapter):
            raise ValueError("eval.arms: start is the adapter of adapter.init_from, which is not set")
        return self


def solve(recipe: Recipe) -> Recipe:
    """Settle every `auto` that the recipe alone decides; those that need the rows or the machine stay."""
    adapter = low_rank(recipe.adapter)
    changes: dict[str, object] = {}
    if adapter and adapter.alpha == "auto" and not adapter.init_from:
        changes["adapter"] = adapter.model_copy(update={"alpha": float(2 * adapter.r)})
    train: dict[str, object] = {}
    if recipe.train.learning_rate == "auto":
        train["learning_rate"] = (2e-4 if adapter else 1e-5) / row_facts(recipe.method).rate_divisor
    if recipe.train.num_train_epochs is None and recipe.train.max_steps is None:
        train["num_train_epochs"] = 3.0
    if train:
        changes["train"] = recipe.train.model_copy(update=train)
    if recipe.export.formats == "auto":
        changes["export"] = recipe.export.model_copy(update={"formats": ["adapter"] if adapter else ["merged"]})
    if recipe.eval.arms == "auto":
        start = ["start"] if start_of(recipe.adapter) else []
        changes["eval"] = recipe.eval.model_copy(update={"arms": ["base", *start, "tuned"]})
    if recipe.track.run_name is None:
        changes["track"] = recipe.track.model_copy(update={"run_name": recipe.name})
    return recipe.model_copy(update=changes)


# The optimizer in the backward pass, where no gradient waits for another


def obstacles(recipe: Recipe, *, processes: int | None, accumulation: int | None) -> list[str]:
    """Return what stands in the way, each with the setting that removes it.

    Args:
        recipe: What is asked for.
        processes: Of the training; None: not known yet.
        accumulation: Micro-batches of a step in a process; None: not known yet.
    """
    return list(_obstacles(recipe, processes, accumulation))


def _obstacles(recipe: Recipe, processes: int | None, accumulation: int | None) -> Iterator[str]:
    train, launch = recipe.train, recipe.launch
    if low_rank(recipe.adapter):
        yield f"adapter.kind {recipe.adapter.kind} has hardly any gradients to free: adapter.kind=none"
    if train.max_grad_norm:
        yield f"max_grad_norm {train.max_grad_norm:g} needs all gradients at once: train.max_grad_norm=0"
    if recipe.model.dtype == "float16":
        yield "float16 gradients are scaled and looked at together: model.dtype=bfloat16"
    if launch.strategy not in ("auto", "ddp"):
        yield f"launch.strategy {launch.strategy} spreads weights over processes: launch.strategy=auto"
    if (processes or 1) * launch.num_nodes > 1:
        yield "gradients of several processes are averaged first: launch.num_processes=1 and launch.num_nodes=1"
    elif (accumulation or 1) > 1:
        yield f"{accumulation} micro-batches a step add up: train.micro_batch_size={train.global_batch_size}"


def stated(recipe: Recipe) -> tuple[int | None, int | None]:
    """Return processes and micro-batches a step and process as far as the recipe names them."""
    num_processes, micro = recipe.launch.num_processes, recipe.train.micro_batch_size
    processes = None if num_processes == "auto" else num_processes
    if micro == "auto":
        return processes, None
    return processes, recipe.train.global_batch_size // (micro * (processes or 1) * recipe.launch.num_nodes)
