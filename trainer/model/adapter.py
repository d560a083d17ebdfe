"""Attach, continue, check and name adapters, in PEFT's own files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from transformers import PreTrainedModel

from trainer.digests import refuse_damage
from trainer.disk import is_out_of_memory
from trainer.errors import DivergedError, HardwareError, StageError
from trainer.model.expert_adapter import sum_lazily
from trainer.model.fake import NOT_FAKED, fake_tensors
from trainer.model.foreign.adapter import check_adapter
from trainer.model.gradients import unreached
from trainer.model.name_patterns import check_modules_to_save, check_patterns, modules_in_layers, parameters_named
from trainer.model.targets import UNREACHED, UNREADABLE, choose_targets, shortest_names
from trainer.recipe.model import LoraAdapter

WEIGHTS = "adapter_model.safetensors"
PROBE_TOKENS = 64
UNTRACED = "layers that no gradient reaches are looked for when training starts: this model cannot run without weights"


@dataclass(frozen=True)
class Coverage:
    """Counts of trained modules and weights; the fields are keys of `stage.json`."""

    adapted_modules: int
    linear_modules: int
    trained_parameters: int
    all_parameters: int
    four_bit_bytes: int = 0
    """Frozen weights that bitsandbytes holds in 4 bits, with their scales."""
    wide_bytes: int = 0
    """Frozen weights beside them; both are 0 without qlora."""


def _keep_four_bit_layout(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from rearranging 4-bit weights on the CPU when a forward pass needs no gradient.

    The first such pass (a validation, for example) rearranges them for an inference kernel. Later backward passes read
    them in the old order and give wrong gradients, with no error (bitsandbytes 0.50).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def adapter_folder(start: str) -> Path:
    """Return the adapter inside a run folder, or the adapter folder itself.

    Raises:
        StageError: There is none.
    """
    for folder in (Path(start) / "train" / "adapter", Path(start)):
        if (folder / WEIGHTS).is_file():
            return folder
    raise StageError(f"no {WEIGHTS} in {start}", hint="train that run first, or correct adapter.init_from")


def settings(start: str) -> dict[str, object]:
    """Return the settings of the adapter in a run folder or adapter folder, without the path of its base model."""
    values = check_adapter(adapter_folder(start))
    return {name: value for name, value in values.items() if name != "base_model_name_or_path"}


def attach(model: PreTrainedModel, adapter: LoraAdapter, say: Callable[[str], None] = lambda _: None) -> PeftModel:
    """Put a trainable adapter on a frozen model; a fresh one changes no output (B = 0).

    Args:
        model: Base model, plain or 4-bit; or without weights, on the meta device.
        adapter: The recipe's section.
        say: Told which layers of `all-linear` get no adapter, and why.

    Raises:
        HardwareError: `target_modules` match no module of the model.
        StageError: `init_from` holds no adapter, or one of another model.
    """
    _keep_four_bit_layout(model)
    if adapter.init_from:
        folder = adapter_folder(adapter.init_from)
        return open_adapter(model, folder, is_trainable=True)
    assert adapter.alpha != "auto", "solve() settles alpha"
    # before PEFT wraps them
    names = sorted({name.rsplit(".", 1)[-1] for name, _ in _linear_layers(model)})
    try:
        return _with_fresh_adapter(model, adapter, say)
    except ValueError as error:
        if "use_dora" in str(error):  # a mixture of experts keeps the matrices of all experts in one parameter
            raise HardwareError(
                f"adapter.use_dora: PEFT has no DoRA for stacked experts, which {adapter.target_modules} includes",
                hint=f"--set adapter.use_dora=false, or adapter.target_modules: some of {', '.join(names)}",
            ) from error
        raise HardwareError(
            f"adapter.target_modules {adapter.target_modules}: {str(error).splitlines()[0]}",
            hint=f"use all-linear, or some of: {', '.join(names)}",
        ) from error


def _with_fresh_adapter(model: PreTrainedModel, adapter: LoraAdapter, say: Callable[[str], None]) -> PeftModel:
    """Attach a fresh adapter; `all-linear` leaves out the layers that no gradient reaches.

    Mamba's time steps are read as weights, and indexers of sparse attention only select positions: an adapter on such
    layers would never change.
    """
    check_modules_to_save(model, adapter)
    named = parameters_named(model, adapter.target_parameters)
    if adapter.target_modules != "all-linear":
        modules = adapter.target_modules
        if adapter.layers_to_transform:
            modules = modules_in_layers(model, modules, adapter.layers_to_transform)
        peft = _peft_model(model, adapter, modules, named, excluded=adapter.exclude_modules)
        check_patterns(peft, adapter)
        return peft
    targets = choose_targets(model, adapter)
    targets.parameters += [name for name in named if name not in targets.parameters]
    peft = _peft_model(model, adapter, shortest_names(model, targets.modules), targets.parameters)
    idle, unreadable = _layers_of(_idle_weights(peft, say)), _layers_of(_unreadable(peft))
    # PEFT has no way to take single layers out again: unload and attach anew
    if idle or unreadable:
        base = peft.unload()
        targets.leave_out(idle, UNREACHED)
        targets.leave_out(unreadable, UNREADABLE)
        peft = _peft_model(base, adapter, shortest_names(base, targets.modules), targets.parameters)
    check_patterns(peft, adapter)
    if targets.excluded:
        say(f"train: no adapter on layers: {targets.summary()}")
    return peft


def _peft_model(
    model: PreTrainedModel,
    adapter: LoraAdapter,
    modules: str | list[str],
    parameters: list[str],
    *,
    excluded: list[str] | None = None,
) -> PeftModel:
    config = LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.alpha,  # PEFT takes fractions although it declares int
        lora_dropout=adapter.dropout,
        target_modules=modules,
        target_parameters=parameters or None,
        exclude_modules=excluded or None,
        rank_pattern=adapter.rank_pattern,
        alpha_pattern=adapter.alpha_pattern,
        modules_to_save=adapter.modules_to_save or None,
        use_rslora=adapter.use_rslora,
        use_dora=adapter.use_dora,
        task_type="CAUSAL_LM",
    )
    peft: PeftModel = get_peft_model(model, config)
    sum_lazily(peft)
    return peft


def _layers_of(names: Iterable[str]) -> set[str]:
    """Return the layers of weights of an adapter, by their names in the base model.

    Example:
        >>> _layers_of(["base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight"])
        {'model.layers.0.mlp.up_proj'}
    """
    return {name.partition(".lora_")[0].removeprefix("base_model.model.") for name in names}


def _unreadable(peft: PeftModel) -> list[str]:
    """Return the weights that PEFT writes under names that it does not find again.

    PEFT renames keys as transformers renames those of the checkpoint, and a pattern may match the new name too:
    Laguna's `shared_expert.` also matches `shared_experts`. Such weights would be lost without a word.
    """
    written = get_peft_model_state_dict(peft)
    missing: list[str] = set_peft_model_state_dict(peft, written).missing_keys
    return [name for name in missing if "lora_" in name]


def _idle_weights(peft: PeftModel, say: Callable[[str], None]) -> list[str]:
    """Return the weights of an adapter that get no gradient from a few tokens."""
    num_ids = peft.get_input_embeddings().weight.shape[0]

    def loss() -> torch.Tensor:
        ids = (torch.arange(PROBE_TOKENS, device=next(peft.parameters()).device) % num_ids)[None]  # (1, T)
        logits: torch.Tensor = peft(input_ids=ids, use_cache=False).logits
        return logits.float().logsumexp(-1).mean()  # (1, T, V): depends on every logit, whatever the ids

    if peft.device.type != "meta":
        return unreached(peft, loss)
    try:
        with fake_tensors(peft):
            return unreached(peft, loss)
    except NOT_FAKED as error:
        say(f"{UNTRACED}: {str(error).splitlines()[0]}")
        return []


def _linear_layers(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Linear]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))


def coverage(model: torch.nn.Module) -> Coverage:
    """Count trained modules and weights."""
    adapted = [module for module in model.modules() if hasattr(module, "lora_A") and len(module.lora_A) > 0]
    # stacked experts, for example: adapted, but no linear layers of torch
    not_linear = sum(not isinstance(getattr(module, "base_layer", module), torch.nn.Linear) for module in adapted)
    linear = not_linear + sum("lora_" not in name for name, _ in _linear_layers(model))
    parameters = list(model.parameters())
    return Coverage(
        adapted_modules=len(adapted),
        linear_modules=linear,
        trained_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        all_parameters=sum(_numel(p) for p in parameters),
    )


def _numel(parameter: torch.nn.Parameter) -> int:
    """Count weights; bitsandbytes keeps two 4-bit ones in a byte."""
    packed = parameter.__class__.__name__ == "Params4bit"
    return parameter.numel() * (2 * parameter.element_size() if packed else 1)  # bytes, two weights in each


def load_on(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Put a saved adapter on a base model, frozen.

    Raises:
        StageError: PEFT does not put every tensor of the file on the model, or the file is damaged.
    """
    return open_adapter(model, folder).eval()


def open_adapter(
    model: PreTrainedModel | PeftModel, folder: Path, *, name: str = "default", is_trainable: bool = False
) -> PeftModel:
    """Put a saved adapter on a model, beside those that it has.

    Args:
        model: Base model, or one with adapters of other names.
        folder: The adapter.
        name: What it is called on the model.
        is_trainable: Its weights get gradients.

    Raises:
        StageError: A file is damaged or names code, or PEFT does not put every tensor of it on the model.
    """
    refuse_damage(folder)
    check_adapter(folder)
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), adapter_name=name, is_trainable=is_trainable)
        else:
            model = PeftModel.from_pretrained(model, str(folder), adapter_name=name, is_trainable=is_trainable)
    except Exception as error:  # whatever PEFT makes of an adapter that does not fit
        if is_out_of_memory(error) or isinstance(error, torch.OutOfMemoryError):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise StageError(
            f"{folder} does not fit this model: {' '.join(line.strip() for line in lines[:2])}",
            hint="use the base model that the adapter was trained on (base_model_name_or_path in adapter_config.json)",
        ) from error
    sum_lazily(model)
    check_loaded(model, folder, adapter_name=name)
    return model


def check_loaded(peft: PeftModel, folder: Path, *, adapter_name: str = "default") -> None:
    """Compare the tensors of an adapter's file with those on the model.

    Raises:
        StageError: A tensor is missing on the model, or differs.
    """
    loaded = get_peft_model_state_dict(peft, adapter_name=adapter_name)
    lost = [
        name
        for name, tensor in load_peft_weights(str(folder), device="cpu").items()
        # compared in the type of the file: PEFT may hold adapters in float32 that were saved in 16 bits
        if name not in loaded or not torch.equal(loaded[name].cpu().to(tensor.dtype), tensor)
    ]
    if lost:
        raise StageError(
            f"PEFT does not put {len(lost)} tensors of {folder / WEIGHTS} on this model, the first is {lost[0]}",
            hint="the adapter is of another base, or of a layer whose name this PEFT cannot read back",
        )


def check_saved(folder: Path) -> dict[str, float]:
    """Read a saved adapter back: every tensor finite, and some update in it.

    Returns:
        `tensors` and `b_norm`, the Euclidean norm over all B matrices (0 would mean that nothing was learned).

    Raises:
        DivergedError: A weight is not finite.
        StageError: The file is damaged, or the adapter is empty.
    """
    hint = "this file must not be used; continue from a checkpoint: trainer train RECIPE"
    try:
        weights = load_peft_weights(str(folder), device="cpu")
    except Exception as error:  # safetensors raises its own type, which is no subclass of OSError
        if is_out_of_memory(error):
            raise
        raise StageError(f"{folder / WEIGHTS} cannot be read back: {error}", hint=hint) from error
    bad = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise DivergedError(
            f"{len(bad)} of {len(weights)} adapter tensors are not finite, the first is {bad[0]}", hint=hint
        )
    # an embedding layer starts with A at zero, where linear layers start with B at zero
    squares = [weights[name].double().square().sum() for name in weights if "lora_B" in name or "embedding_A" in name]
    # sqrt(sum of all |B|^2), in float64
    norm = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
    if norm == 0.0:
        raise StageError(
            f"the adapter in {folder} is empty: every B matrix is zero", hint="check learning_rate and data"
        )
    return {"tensors": len(weights), "b_norm": norm}


def name_base(folder: Path, name_or_path: str) -> None:
    """Write the base model's name into a saved adapter; of an absolute path only the last part."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    is_path = Path(name_or_path).is_absolute()
    config["base_model_name_or_path"] = Path(name_or_path).name if is_path else name_or_path
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
