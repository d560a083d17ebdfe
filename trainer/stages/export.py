"""export: adapter and merged weights, each reopened from disk and proven.

Writes `adapter/`, `merged/`, `verify.json`, `README.md` (the model card).

The reference of every proof is the trained adapter on the same unquantised base, in float32, on held-out rows.
"""

from __future__ import annotations

import gc
import io
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML

import trainer
from trainer.errors import GateError, HardwareError
from trainer.model import adapter as adapters
from trainer.model.load import device, load_model, load_tokenizer, precision
from trainer.model.merge import add_stop, changed_weights, merged, open_to_all, refuse_tied_embeddings, save_model
from trainer.recipe import Recipe
from trainer.recipe.evaluate import Verify
from trainer.recipe.model import LoraAdapter, ModelSection, QloraAdapter
from trainer.render.card import CardFacts, render_card
from trainer.rundir import StageContext, cache_dir, read_json, write_json
from trainer.scoring.likelihood import Agreement, agreement, logits_of
from trainer.tokens.store import TokenStore

Logits = list[torch.Tensor]

FLOAT64_PARAMETERS = 500_000_000


def run(recipe: Recipe, context: StageContext) -> None:
    """Write every format of `export.formats`, then prove it.

    Raises:
        GateError: A proof failed; nothing is published.
        HardwareError: The model does not fit, or an adapter cannot be merged.
    """
    rows = _rows(recipe, context)
    stop_id = int(read_json(context.input("pack", "report.json"))["stop_token_id"])
    try:
        if isinstance(recipe.adapter, LoraAdapter):
            proofs = _export_adapter_run(recipe, recipe.adapter, context, rows, stop_id)
        else:
            proofs = {"merged": _export_full(recipe, context, rows, stop_id)}
    except torch.OutOfMemoryError as error:
        raise HardwareError(
            f"out of memory in export: {str(error).splitlines()[0]}",
            hint="hide the card: CUDA_VISIBLE_DEVICES= trainer export RECIPE",
        ) from error
    write_json(context.dir / "verify.json", proofs)
    (context.dir / "README.md").write_text(_card(recipe, context, proofs), encoding="utf-8")
    context.numbers.update({f"{name}_max_logit_diff": proof["max_logit_diff"] for name, proof in proofs.items()})
    failed = [f"{name}: {proof['because']}" for name, proof in proofs.items() if not proof["passed"]]
    if failed:
        raise GateError(
            "the export is not equal to the trained model: " + "; ".join(failed),
            hint="see export.verify in the recipe for the limits; export.dtype: float32 rounds least",
        )
    for name, proof in proofs.items():
        context.say(
            f"export: {name} proven on {proof['num_positions']} positions: largest logit difference "
            f"{proof['max_logit_diff']:.1e}, same best token {proof['top1_agreement']:.1%}"
        )


def _rows(recipe: Recipe, context: StageContext) -> list[Any]:
    """Return token ids of held-out rows, or of training rows where nothing is held out."""
    store = TokenStore.load(context.input("pack", "heldout.safetensors"))
    if not len(store):
        store = TokenStore.load(context.input("pack", "train.safetensors"))
    count = min(recipe.export.verify.num_rows, len(store))
    starts = store.offsets[:: store.segments]
    return [store.input_ids[starts[index] : starts[index + 1]] for index in range(count)]


def _export_adapter_run(
    recipe: Recipe, adapter: LoraAdapter, context: StageContext, rows: Sequence[Any], stop_id: int
) -> dict[str, dict[str, Any]]:
    trained = context.input("train", "adapter")
    facts = adapters.check_saved(trained)
    tokenizer = load_tokenizer(recipe.model, cache_dir())
    base = _plain_base(recipe.model)
    without = logits_of(base, rows)
    model = adapters.load_on(base, trained)
    reference = logits_of(model, rows)
    proofs: dict[str, dict[str, Any]] = {}
    if "adapter" in recipe.export.formats:
        _copy_adapter(trained, context.dir / "adapter", tokenizer, base, stop_id)
    if "merged" in recipe.export.formats:
        rounding = _write_merged(recipe, model, base, tokenizer, context.dir / "merged", rows, reference, stop_id)
    del model, base
    _free()
    if "adapter" in recipe.export.formats:
        again = logits_of(adapters.load_on(_plain_base(recipe.model), context.dir / "adapter"), rows)
        proofs["adapter"] = _proof(recipe.export.verify, agreement(reference, again), without, again) | facts
    if "merged" in recipe.export.formats:
        again = logits_of(_reopened(context.dir / "merged"), rows)
        proofs["merged"] = _proof(recipe.export.verify, agreement(reference, again), without, again, **rounding)
    if isinstance(adapter, QloraAdapter):
        drift = asdict(agreement(_four_bit_logits(recipe, adapter, trained, rows), reference))
        for proof in proofs.values():
            proof["drift_from_4bit"] = drift
    return proofs


def _plain_base(section: ModelSection) -> Any:
    """Load the unquantised base in float32, on the card if it fits there.

    Small models are then computed in float64, so that a difference is one of weights, not of summation order.
    """
    try:
        model = load_model(section, cache_dir(), dtype=torch.float32, place=device()).eval()
    except HardwareError as error:
        if not isinstance(error.__cause__, torch.OutOfMemoryError):
            raise
        _free()
        model = load_model(section, cache_dir(), dtype=torch.float32, place=torch.device("cpu")).eval()
    return model.double() if model.num_parameters() <= FLOAT64_PARAMETERS else model


def _reopened(folder: Path) -> Any:
    section = ModelSection(name_or_path=str(folder.absolute()))
    return _plain_base(section)


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _copy_adapter(source: Path, target: Path, tokenizer: Any, base: Any, stop_id: int) -> None:
    """Copy the PEFT files; tokenizer, template and generation settings travel with them."""
    shutil.copytree(source, target)
    tokenizer.save_pretrained(str(target))
    settings = base.generation_config
    add_stop(settings, stop_id)
    settings.save_pretrained(str(target))
    open_to_all(target)


def _write_merged(
    recipe: Recipe,
    model: Any,
    base: Any,
    tokenizer: Any,
    folder: Path,
    rows: Sequence[Any],
    reference: Logits,
    stop_id: int,
) -> dict[str, Any]:
    """Merge in float32, compare before rounding, write.

    Returns:
        `unrounded`: agreement of the float32 merge, where the file is of a 16-bit type.

    Raises:
        GateError: The merge changed no weight.
    """
    refuse_tied_embeddings(model, base)
    names = [name for name, _ in model.named_modules() if name.endswith(".base_layer")]
    before = _first_weights(model, names)
    result = merged(model)
    changed = changed_weights(before, result)
    if changed < len(before):
        raise GateError(
            f"the merge left {len(before) - changed} of {len(before)} adapted layers unchanged",
            hint="the adapter is empty there; train longer or check adapter.target_modules",
        )
    dtype = _output_dtype(recipe)
    unrounded = None if dtype == torch.float32 else agreement(reference, logits_of(result, rows))
    save_model(result, tokenizer, folder, dtype=dtype, max_shard_gb=recipe.export.max_shard_gb, stop_id=stop_id)
    return {"unrounded": unrounded, "dtype": str(dtype).removeprefix("torch.")}


def _first_weights(model: Any, names: list[str]) -> dict[str, torch.Tensor]:
    """Copy a few adapted weights, by the names that they have after the merge."""
    found = {}
    for name in names[:8]:
        plain = name.removeprefix("base_model.model.").removesuffix(".base_layer") + ".weight"
        found[plain] = model.get_submodule(name).weight.detach().clone()
    return found


def _output_dtype(recipe: Recipe) -> torch.dtype:
    if recipe.export.dtype != "auto":
        return getattr(torch, recipe.export.dtype)
    return precision(recipe.model, recipe.adapter).weights


def _proof(
    limits: Verify,
    found: Agreement,
    without: Logits,
    again: Logits,
    *,
    unrounded: Agreement | None = None,
    dtype: str = "float32",
) -> dict[str, Any]:
    """Judge one format.

    A float32 file must agree within `max_logit_diff`. Of a 16-bit file the float32 merge must, and rounding may add
    no more than `max_mean_kl`.
    """
    exact = unrounded or found
    reasons = []
    limit = limits.max_logit_diff * _scale(again)
    if not exact.max_logit_diff <= limit:  # also true for NaN
        reasons.append(f"largest logit difference {exact.max_logit_diff:.2e}, limit {limit:.1e}")
    if unrounded and not found.mean_kl <= limits.max_mean_kl:
        reasons.append(f"rounding to {dtype} adds {found.mean_kl:.2e} nats a token, limit {limits.max_mean_kl}")
    gain = agreement(without, again)
    if not gain.max_logit_diff > 0:
        reasons.append("the outputs are those of the base model")
    proof = asdict(found) | {"dtype": dtype, "passed": not reasons, "because": "; ".join(reasons)}
    proof["differs_from_base"] = {"mean_kl": gain.mean_kl, "max_logit_diff": gain.max_logit_diff}
    if unrounded:
        proof["before_rounding"] = asdict(unrounded)
    return proof


def _scale(logits: Logits) -> float:
    """Return how much float32 arithmetic widens the limit: a tenth of the largest logit, 1 where float64 was used."""
    if logits[0].dtype == torch.float64:
        return 1.0
    return max(1.0, max(float(row.abs().max()) for row in logits) / 10)


def _four_bit_logits(recipe: Recipe, adapter: QloraAdapter, trained: Path, rows: Sequence[Any]) -> Logits:
    """Return the logits of the model as it was trained: the adapter on the 4-bit base."""
    types = precision(recipe.model, adapter)
    base = load_model(recipe.model, cache_dir(), adapter=adapter, dtype=types.weights).eval()
    return logits_of(adapters.load_on(base, trained), rows)


def _export_full(recipe: Recipe, context: StageContext, rows: Sequence[Any], stop_id: int) -> dict[str, Any]:
    """Write the trained model in its output type and compare it with `train/model`."""
    trained = recipe.model.model_copy(update={"name_or_path": str(context.input("train", "model").absolute())})
    base = _plain_base(recipe.model)
    without = logits_of(base, rows)
    del base
    _free()
    model = _plain_base(trained)
    reference = logits_of(model, rows)
    dtype = _output_dtype(recipe)
    tokenizer = load_tokenizer(recipe.model, cache_dir())
    save_model(
        model,
        tokenizer,
        context.dir / "merged",
        dtype=dtype,
        max_shard_gb=recipe.export.max_shard_gb,
        stop_id=stop_id,
    )
    del model
    _free()
    again = logits_of(_reopened(context.dir / "merged"), rows)
    found = agreement(reference, again)
    exact = None if dtype == torch.float32 else replace(found, max_logit_diff=0.0)
    return _proof(recipe.export.verify, found, without, again, unrounded=exact, dtype=str(dtype).removeprefix("torch."))


def _card(recipe: Recipe, context: StageContext, proofs: dict[str, Any]) -> str:
    record = context.run.record("train")
    return render_card(
        CardFacts(
            name=recipe.name,
            base_model=_public_name(recipe.model.name_or_path),
            revision=recipe.model.revision,
            formats=list(proofs),
            adapter_kind=recipe.adapter.kind,
            method_kind=recipe.method.kind,
            recipe_yaml=_recipe_text(recipe),
            trainer_version=trainer.__version__,
            data_report=read_json(context.input("data", "report.json")),
            train_numbers=record.numbers if record else {},
            scores=read_json(context.input("eval", "scores.json")),
            verify=proofs,
            gates=read_json(context.input("eval", "gates.json")),
            licence=None,
        )
    )


def _public_name(name_or_path: str) -> str:
    return Path(name_or_path).name if Path(name_or_path).is_absolute() else name_or_path


def _recipe_text(recipe: Recipe) -> str:
    """Return what was run, parents and `--set` included, as YAML without the paths of this machine."""
    values = recipe.model_dump(mode="json", exclude_defaults=True)
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(_without_folders(values), text)
    return text.getvalue()


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_folders(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return _public_name(value) if isinstance(value, str) else value
