"""Open the tuned model of a run as the eval stage does: same weights, template, stop tokens and decoding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.data.records.kinds import Record
from trainer.data.served_prompt import ServedSystem
from trainer.digests import hash_value
from trainer.disk import cache_dir, read_json, read_json_lines
from trainer.model.load import load_model, load_tokenizer, precision
from trainer.recipe import Recipe
from trainer.recipe.model import low_rank
from trainer.rundir import RunFolder
from trainer.scoring.generation.local import LocalModel
from trainer.scoring.generation.models import open_models
from trainer.scoring.generation.sampling import NucleusSampling
from trainer.scoring.generation.stopping import longest_answer, stop_ids, tokens_of
from trainer.tokens.chat import Renderer
from trainer.verbs.serve.artefacts import exported, refuse_other_base, system_of, trained, weights_hash

LONGEST_UNKNOWN = 512
"""Longest answer where the run has no held-out answers to go by."""


@dataclass(frozen=True)
class Tuned:
    """A tuned model and all that its answers depend on beside the prompt."""

    recipe: Recipe
    renderer: Renderer
    model: PreTrainedModel
    stop_ids: list[int]
    max_new_tokens: int
    weights: str
    """Their hash."""
    system: ServedSystem
    base: PreTrainedModel | None = None
    """The untuned model, where it is one of its own."""

    @property
    def sampling(self) -> NucleusSampling | None:
        """How answers are drawn; None is greedy."""
        chosen = self.recipe.eval.sampling
        return NucleusSampling(chosen.temperature, chosen.top_p, chosen.seed) if chosen else None

    @property
    def max_context(self) -> int | None:
        """Tokens of prompt and answer together, where the model has a limit."""
        limit: int | None = getattr(self.model.config, "max_position_embeddings", None)
        return limit

    @property
    def identity(self) -> str:
        """Return one hash of everything that decides an answer."""
        return hash_value(
            {
                "weights": self.weights,
                "template": str(self.renderer.tokenizer.chat_template),
                "template_kwargs": self.renderer.template_kwargs,
                "system": self.system.text,
                "replaces": self.recipe.data.system_prompt and self.recipe.data.system_prompt.when,
                "stop_ids": self.stop_ids,
                "max_new_tokens": self.max_new_tokens,
                "sampling": asdict(self.sampling) if self.sampling else None,
                "form": asdict(self.renderer.form),
            }
        )

    def prompt_ids(self, row: Record) -> list[int]:
        """Return what the model is given for `{"prompt": turns, ...}`.

        Raises:
            DataError: The template refuses the conversation.
        """
        return self.renderer.prompt_ids(row)

    def leaves_room(self, prompt: list[int]) -> bool:
        """Tell whether the longest answer fits behind a prompt."""
        return self.max_context is None or len(prompt) + self.max_new_tokens <= self.max_context

    def local(self, model: PreTrainedModel) -> LocalModel:
        """Return what answers token ids."""
        return LocalModel(
            model,
            self.renderer.tokenizer,
            stop_ids=self.stop_ids,
            max_new_tokens=self.max_new_tokens,
            sampling=self.sampling,
            batch_size=self.recipe.eval.batch_size,
            engine=self.recipe.eval.engine,
            form=self.renderer.form,
        )

    @contextmanager
    def untuned(self) -> Iterator[PreTrainedModel]:
        """Yield the base model: with an adapter, the same weights with the adapter switched off."""
        if self.base is not None:
            yield self.base
            return
        with self.model.disable_adapter():
            yield self.model


def open_tuned(
    recipe: Recipe, run: RunFolder, arguments: str, *, merged: bool = False, with_base: bool = False, at_least: int = 0
) -> Tuned:
    """Load the tuned model of a run.

    Args:
        recipe: The run's.
        run: Its folder.
        arguments: The recipe, as a fix repeats it.
        merged: Take `export/merged` instead of what training wrote.
        with_base: Have the untuned model at hand.
        at_least: Tokens that an answer may have, where `eval.max_new_tokens` is auto.

    Raises:
        StageError: There is no trained model, or no merged one; or its weights are damaged.
        HardwareError: It cannot be loaded.
    """
    folder = exported(run, "merged", arguments) if merged else trained(run, arguments)
    if not merged or with_base:
        refuse_other_base(recipe, run, arguments)
    section = recipe.model.model_copy(update={"name_or_path": str(folder.absolute())})
    tokenizer = load_tokenizer(section if merged else recipe.model, cache_dir())
    kwargs = recipe.model.chat_template_kwargs
    adapter, base, model = recipe.adapter, None, None
    if merged:
        model = load_model(section, cache_dir(), dtype=precision(recipe.model, None).weights).eval()
    kinds = [kind for kind, is_needed in (("base", with_base), ("tuned", not merged)) if is_needed]
    for kind, loaded in open_models(recipe.model, adapter, kinds, tuned=folder, cache=cache_dir()):  # type: ignore[arg-type]
        base, model = (loaded, model) if kind == "base" else (base, loaded)
    shares_base = low_rank(adapter) is not None and not merged
    return Tuned(
        recipe,
        Renderer(tokenizer, loss_on=recipe.pack.loss_on, template_kwargs=kwargs),
        model,
        stop_ids(read_json(run.stage_dir("pack") / "report.json"), tokenizer),
        _longest_answer(recipe, run, tokenizer, at_least),
        weights_hash(run, merged=merged),
        system_of(recipe, run),
        None if shares_base else base,
    )


def _longest_answer(recipe: Recipe, run: RunFolder, tokenizer: PreTrainedTokenizerBase, at_least: int) -> int:
    """Return `eval.max_new_tokens`; auto is twice the longest held-out answer, as in the eval stage."""
    limit = recipe.eval.max_new_tokens
    if limit != "auto":
        return limit
    predictions = read_json_lines(run.stage_dir("eval") / "predictions.jsonl")
    if not predictions:
        return max(LONGEST_UNKNOWN, at_least)
    return max(at_least, longest_answer(limit, tokens_of(predictions, tokenizer)))
