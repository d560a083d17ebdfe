"""Preference losses by TRL, on pairs that `pack` has tokenized."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer

from trainer.methods.loop import RecipeLoop
from trainer.recipe.method import DpoMethod
from trainer.tokens.pack import PackPlan
from trainer.tokens.store import TokenStore


class DpoLoop(RecipeLoop, DPOTrainer):
    """TRL's DPO on token ids that are already there; the reference is the policy at step 0."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def pair_dataset(store: TokenStore, plan: PackPlan) -> Dataset:
    """Return preference rows in the columns that TRL's collator takes."""
    pairs = [store.pair(row) for index in range(len(plan)) for row in plan[index]]
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return Dataset.from_dict({name: [pair[column].tolist() for pair in pairs] for column, name in enumerate(names)})


def dpo_config(method: DpoMethod, settings: dict[str, Any], *, max_length: int) -> DPOConfig:
    """Return TRL's arguments for the recipe's method."""
    return DPOConfig(
        **settings,
        beta=method.beta,
        loss_type=list(method.loss_type),
        loss_weights=method.loss_weights,
        label_smoothing=method.label_smoothing,
        max_length=max_length,
        disable_dropout=True,
    )


def dpo_loop(
    *,
    model: Any,
    reference: PreTrainedModel | None,
    config: DPOConfig,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    validation: Dataset | None,
    callbacks: list[Any],
) -> DpoLoop:
    """Build the trainer; `reference` is a second model for full fine-tuning and None for adapters.

    TRL copies the adapter as the reference and then rounds a quantised model's adapter to bfloat16, so that policy
    and reference would differ at step 0; the unrounded weights are put back.
    """
    start = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    loop = DpoLoop(
        model=model,
        ref_model=reference,
        args=config,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    for name, weight in model.named_parameters():
        if name in start:
            weight.data = start[name].to(weight.device)
    return loop
