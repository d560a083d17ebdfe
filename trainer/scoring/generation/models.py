"""Open the models of a run one after the other: base, the adapter that training started from, and tuned."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

import torch
from peft import PeftModel

from trainer.model.adapter import adapter_folder, open_adapter
from trainer.model.load import Placement, load_model, precision
from trainer.model.size import weight_bytes
from trainer.recipe.model import Adapter, ModelSection, low_rank, start_of
from trainer.scoring.generation.local import LocalModel
from trainer.scoring.generation.replicas import Layout, LocalSettings, Replicas, ReplicatedModel, devices, layout_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Kind = Literal["base", "start", "tuned"]


def open_models(
    section: ModelSection,
    adapter: Adapter,
    kinds: Collection[Kind],
    *,
    tuned: Path,
    cache: Path,
    placement: Placement | None = None,
) -> Iterator[tuple[Kind, PreTrainedModel | PeftModel]]:
    """Yield some models in evaluation mode; with an adapter all of them share one copy of the base weights.

    Args:
        section: The recipe's `model`.
        adapter: The recipe's `adapter`.
        kinds: Which ones.
        tuned: Folder `train/` of the run.
        cache: Folder for converted models.
        placement: Device, or auto for all cards; by default this process's.

    Raises:
        HardwareError: A model cannot be loaded.
        StageError: `adapter.init_from` holds no adapter.
    """
    dtype = precision(section, None).weights
    if not low_rank(adapter):
        for kind in ("base", "tuned"):
            if kind in kinds:
                name = section.name_or_path if kind == "base" else str((tuned / "model").absolute())
                weights = section.model_copy(update={"name_or_path": name})
                yield kind, load_model(weights, cache, dtype=dtype, placement=placement).eval()
        return
    base = load_model(section, cache, adapter=adapter, dtype=dtype, placement=placement).eval()
    if "base" in kinds:
        yield "base", base
    model: PeftModel | None = None
    folders: dict[Kind, Path] = {}
    if "start" in kinds:
        start = start_of(adapter)
        assert start is not None, "checked by the recipe"
        folders["start"] = adapter_folder(start)
    folders["tuned"] = tuned / "adapter"
    for kind, folder in folders.items():
        if kind not in kinds:
            continue
        # PEFT changes `base` in place, so the plain model has been yielded before
        model = open_adapter(model or base, folder, name=kind)
        model.set_adapter(kind)
        yield kind, model.eval()


def open_one(
    section: ModelSection, adapter: Adapter, kind: Kind, tuned: Path, cache: Path, device: torch.device
) -> PreTrainedModel | PeftModel:
    """Return one of the models, on one device."""
    return next(open_models(section, adapter, [kind], tuned=tuned, cache=cache, placement=device))[1]


class Models:
    """The models of a run on all visible cards: copies where one card holds the weights, else spread over them."""

    def __init__(
        self, section: ModelSection, adapter: Adapter, tokenizer: PreTrainedTokenizerBase, *, tuned: Path, cache: Path
    ) -> None:
        self.section = section
        self.adapter = adapter
        self.tokenizer = tokenizer
        self.tuned = tuned
        self.cache = cache
        self.cards = devices()
        self.replicas: Replicas | None = None

    def opened(self, kinds: Collection[Kind]) -> Iterator[tuple[Kind, PreTrainedModel | PeftModel]]:
        """Yield some models; one is in use at a time."""
        layout = self._layout()
        spread: Placement | None = "auto" if layout == "sharded" else None
        models = open_models(self.section, self.adapter, kinds, tuned=self.tuned, cache=self.cache, placement=spread)
        for kind, model in models:
            if layout != "replicas":
                yield kind, model
                continue
            load = partial(open_one, self.section, self.adapter, kind, self.tuned, self.cache)
            with Replicas(load, self.tokenizer, self.cards[1:]) as self.replicas:
                yield kind, model

    def local(self, model: PreTrainedModel | PeftModel, **settings: Unpack[LocalSettings]) -> LocalModel:
        """Return a model that is open as one that answers; settings are keywords of `LocalModel`."""
        if self.replicas is None:
            return LocalModel(model, self.tokenizer, **settings)
        return ReplicatedModel(model, self.tokenizer, replicas=self.replicas, **settings)

    def _layout(self) -> Layout:
        if len(self.cards) == 1:
            return "single"
        size = weight_bytes(self.section, self.cache, self.adapter, precision(self.section, None).weights)
        return layout_of(size, [_memory(card) for card in self.cards])


def _memory(card: torch.device) -> int:
    return int(torch.cuda.get_device_properties(card).total_memory)
