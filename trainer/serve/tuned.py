"""The tuned model of a run, opened as the eval stage opens it: same weights, template, stop tokens and decoding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from trainer.errors import StageError
from trainer.model.load import load_model, load_tokenizer, precision
from trainer.recipe import Recipe
from trainer.recipe.model import LoraAdapter
from trainer.rundir import RunFolder, cache_dir, hash_value, read_json
from trainer.scoring.generate import LocalModel
from trainer.scoring.models import open_models
from trainer.scoring.sampling import Sampling
from trainer.tokens.chat import Renderer

MIN_NEW_TOKENS = 32
"""As the eval stage has it: shorter references do not make answers shorter."""
LONGEST_UNKNOWN = 512
"""Longest answer where the run has measured none."""


@dataclass
class Tuned:
    """A model that answers."""

    recipe: Recipe
    renderer: Renderer
    model: Any
    stop_ids: list[int]
    max_new_tokens: int
    identity: str
    """sha256 of all that an answer depends on beside its prompt."""
    base: Any = None
    """The untuned weights, where they are a model of their own."""

    @property
    def sampling(self) -> Sampling | None:
        """How answers are drawn; None is greedy."""
        chosen = self.recipe.eval.sampling
        return Sampling(chosen.temperature, chosen.top_p, chosen.seed) if chosen else None

    @property
    def max_context(self) -> int | None:
        """Tokens of prompt and answer together, where the model has a limit."""
        return getattr(self.model.config, "max_position_embeddings", None)

    def local(self, model: Any, max_new_tokens: int) -> LocalModel:
        """Return what answers token ids."""
        return LocalModel(
            model,
            self.renderer.tokenizer,
            stop_ids=self.stop_ids,
            max_new_tokens=max_new_tokens,
            sampling=self.sampling,
            batch_size=self.recipe.eval.batch_size,
        )

    @contextmanager
    def as_base(self) -> Iterator[Any]:
        """Yield the untuned model: the adapter is switched off, nothing is loaded again."""
        if self.base is not None:
            yield self.base
            return
        with self.model.disable_adapter():
            yield self.model


def open_tuned(recipe: Recipe, run: RunFolder, *, merged: bool = False, with_base: bool = False) -> Tuned:
    """Load the tuned model of a run.

    Args:
        recipe: The run's.
        run: Its folder.
        merged: Take `export/merged` instead of what training wrote.
        with_base: Also keep the untuned weights at hand.

    Raises:
        StageError: There is no trained model, or no merged one.
        HardwareError: It cannot be loaded.
    """
    tokenizer = load_tokenizer(recipe.model, cache_dir())
    renderer = Renderer(
        tokenizer, loss_on=recipe.pack.loss_on, template_kwargs=recipe.model.chat_template_kwargs
    )
    stop_ids = _stop_ids(run, tokenizer)
    limit = longest_answer(recipe, run, tokenizer)
    name = weights_name(recipe, run, merged=merged)
    decoding = {
        "weights": name,
        "stop_ids": stop_ids,
        "max_new_tokens": limit,
        "sampling": asdict(recipe.eval.sampling) if hasattr(recipe.eval.sampling, "__dataclass_fields__") else
        (recipe.eval.sampling.model_dump(mode="json") if recipe.eval.sampling else None),
        "template": str(tokenizer.chat_template),
        "template_kwargs": recipe.model.chat_template_kwargs,
        "system": recipe.data.system_prompt.model_dump(mode="json") if recipe.data.system_prompt else None,
    }
    base = None
    if merged:
        section = recipe.model.model_copy(update={"name_or_path": str((run.path / "export" / "merged").absolute())})
        model = load_model(section, cache_dir(), dtype=precision(recipe.model, None).weights).eval()
    else:
        model = _trained(recipe, run)
    if with_base and (merged or not isinstance(recipe.adapter, LoraAdapter)):
        [(_, base)] = open_models(recipe.model, recipe.adapter, {"base"}, tuned=run.stage_dir("train"), cache=cache_dir())
    return Tuned(recipe, renderer, model, stop_ids, limit, hash_value(decoding), base)
