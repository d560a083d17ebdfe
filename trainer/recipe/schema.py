"""The whole recipe, the rules across its sections, and what `auto` comes to."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainer.recipe.base import Section
from trainer.recipe.data import DataSection, PackSection
from trainer.recipe.decide import DecideSection
from trainer.recipe.evaluate import EvalSection
from trainer.recipe.export import ExportSection
from trainer.recipe.method import Method, SftMethod
from trainer.recipe.model import Adapter, LoraAdapter, ModelSection, NoAdapter, QloraAdapter
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
        if isinstance(self.adapter, NoAdapter) and self.export.formats != "auto" and "adapter" in self.export.formats:
            raise ValueError("export.formats: there is no adapter to export with adapter.kind none; use [merged]")
        return self

    @model_validator(mode="after")
    def only_qlora_has_a_dequantised_base(self) -> Recipe:
        if self.export.merge.base == "dequantised" and not isinstance(self.adapter, QloraAdapter):
            raise ValueError("export.merge.base: dequantised is for adapter.kind qlora; use plain or auto")
        return self

    @model_validator(mode="after")
    def best_model_needs_validation_rows(self) -> Recipe:
        wanted = self.train.load_best_model_at_end or self.train.early_stopping_patience is not None
        if wanted and not (self.data.split.validation or self.data.split.validation_path):
            raise ValueError("data.split.validation: load_best_model_at_end and early_stopping_patience need such rows")
        return self

    @model_validator(mode="after")
    def preference_rows_are_not_packed(self) -> Recipe:
        if self.method.kind != "sft" and self.pack.packing is True:
            raise ValueError("pack.packing: preference pairs are not packed; use auto or false")
        return self

    @model_validator(mode="after")
    def preference_accuracy_needs_pairs(self) -> Recipe:
        named = self.eval.metrics if self.eval.metrics != "auto" else []
        for metric in ("preference_accuracy", "preference_margin"):
            if metric in named and self.method.kind == "sft":
                raise ValueError(f"eval.metrics: {metric} needs preference rows, and method.kind is sft")
        return self

    @model_validator(mode="after")
    def compiled_layers_drop_nothing_and_are_whole(self) -> Recipe:
        dropout = getattr(self.adapter, "dropout", 0.0)
        if self.train.torch_compile and dropout and self.method.kind == "sft":
            raise ValueError(f"train.torch_compile: compiled layers have no dropout; adapter.dropout is {dropout:g}")
        if self.train.torch_compile and self.launch.strategy in ("fsdp2", "zero3"):
            raise ValueError(f"train.torch_compile: not with launch.strategy {self.launch.strategy}; use ddp")
        return self

    @model_validator(mode="after")
    def the_start_is_known(self) -> Recipe:
        arms = [] if self.eval.arms == "auto" else self.eval.all_arms
        if any(arm.model == "start" for arm in arms) and not getattr(self.adapter, "init_from", None):
            raise ValueError("eval.arms: start is the adapter of adapter.init_from, which is not set")
        return self


def solve(recipe: Recipe) -> Recipe:
    """Settle every `auto` that the recipe alone decides; those that need the rows or the machine stay."""
    is_full = isinstance(recipe.adapter, NoAdapter)
    changes: dict[str, object] = {}
    if isinstance(recipe.adapter, LoraAdapter) and recipe.adapter.alpha == "auto" and not recipe.adapter.init_from:
        changes["adapter"] = recipe.adapter.model_copy(update={"alpha": float(2 * recipe.adapter.r)})
    train: dict[str, object] = {}
    if recipe.train.learning_rate == "auto":
        train["learning_rate"] = (1e-5 if is_full else 2e-4) / (1 if recipe.method.kind == "sft" else 20)
    if recipe.train.num_train_epochs is None and recipe.train.max_steps is None:
        train["num_train_epochs"] = 3.0
    if train:
        changes["train"] = recipe.train.model_copy(update=train)
    if recipe.export.formats == "auto":
        changes["export"] = recipe.export.model_copy(update={"formats": ["merged"] if is_full else ["adapter"]})
    if recipe.eval.arms == "auto":
        start = ["start"] if getattr(recipe.adapter, "init_from", None) else []
        changes["eval"] = recipe.eval.model_copy(update={"arms": ["base", *start, "tuned"]})
    if recipe.track.run_name is None:
        changes["track"] = recipe.track.model_copy(update={"run_name": recipe.name})
    return recipe.model_copy(update=changes)
