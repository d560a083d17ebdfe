"""The weights of a run one after the other: base, the adapter that training started from, and the tuned model."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

from peft import PeftModel

from trainer.model.adapter import adapter_folder
from trainer.model.load import load_model, precision
from trainer.recipe.model import Adapter, LoraAdapter, ModelSection

Kind = Literal["base", "start", "tuned"]


def open_models(
    section: ModelSection, adapter: Adapter, kinds: Collection[Kind], *, tuned: Path, cache: Path
) -> Iterator[tuple[Kind, Any]]:
    """Yield the wanted models in evaluation mode; with an adapter all of them share one copy of the base weights.

    Args:
        section: The recipe's `model`.
        adapter: The recipe's `adapter`.
        kinds: Which ones.
        tuned: Folder `train/` of the run.
        cache: Folder for converted models.

    Raises:
        HardwareError: A model cannot be loaded.
        StageError: `adapter.init_from` holds no adapter.
    """
    dtype = precision(section, None).weights
    if not isinstance(adapter, LoraAdapter):
        for kind in ("base", "tuned"):
            if kind in kinds:
                name = section.name_or_path if kind == "base" else str((tuned / "model").absolute())
                yield kind, load_model(section.model_copy(update={"name_or_path": name}), cache, dtype=dtype).eval()
        return
    base = load_model(section, cache, adapter=adapter, dtype=dtype).eval()
    if "base" in kinds:
        yield "base", base
    model: Any = None
    folders: dict[Kind, Path] = {}
    if "start" in kinds:
        assert adapter.init_from is not None, "checked by the recipe"
        folders["start"] = adapter_folder(adapter.init_from)
    folders["tuned"] = tuned / "adapter"
    for kind, folder in folders.items():
        if kind not in kinds:
            continue
        if model is None:
            model = PeftModel.from_pretrained(base, str(folder), adapter_name=kind)
        else:
            model.load_adapter(str(folder), adapter_name=kind)
        model.set_adapter(kind)
        yield kind, model.eval()
