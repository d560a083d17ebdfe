"""Assign every adapter tensor to the parameter that it changes; each is assigned exactly once."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from peft.tuners.lora.layer import Embedding, Linear, LoraLayer, ParamWrapper
from peft.tuners.lora.variants import DoraEmbeddingVariant, DoraLinearVariant
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper

from trainer.errors import DivergedError, StageError
from trainer.export.merge.plan import Adapters, NotStreamableError, wrong_adapter
from trainer.export.merge.shards import StoredTensor, row_blocks, tensors_of
from trainer.export.merge.skeleton import PREFIX, Skeleton
from trainer.export.merge.updates import BiasUpdate, ExpertUpdate, LayerUpdate, Parts, TokenRows, Update
from trainer.model.adapter import WEIGHTS

SUFFIXES = {
    "lora_A": "lora_A.weight",
    "lora_B": "lora_B.weight",
    "lora_B.bias": "lora_B.bias",
    "lora_embedding_A": "lora_embedding_A",
    "lora_embedding_B": "lora_embedding_B",
    "lora_magnitude_vector": "lora_magnitude_vector",
}
START_AT_ZERO = ("lora_B.weight", "lora_embedding_A")
"""Of an embedding layer, A is the matrix that begins at zero."""


@dataclass
class ParameterChange:
    """What becomes of one parameter: `source` takes the place of the base's tensor, then `updates` apply in turn."""

    source: StoredTensor | None = None
    updates: list[Update] = field(default_factory=list)


@dataclass
class AdapterTensors:
    """The tensors of one adapter that no parameter has taken yet."""

    number: int
    weight: float
    left: dict[str, StoredTensor]

    @property
    def name(self) -> str:
        return f"a{self.number}"

    def take(self, key: str) -> StoredTensor | None:
        return self.left.pop(key, None)

    def only_whole(self, replaced: str) -> None:
        """Refuse a share of something that is replaced, not added."""
        if self.weight != 1:
            raise StageError(
                f"adapter {self.number + 1} has weight {self.weight} and replaces {replaced}, which has no shares",
                hint="give that adapter weight 1, or merge the others alone",
            )


def read_adapters(adapters: Adapters) -> list[AdapterTensors]:
    """Open the adapters' files and look at every number in them.

    Raises:
        DivergedError: A number is not finite.
        StageError: A file is damaged, or every B matrix of an adapter is zero.
    """
    opened = []
    for number, (folder, weight) in enumerate(adapters):
        tensors = tensors_of(folder / WEIGHTS)
        faults = faults_of(tensors)
        if faults.not_finite:
            raise DivergedError(
                f"{len(faults.not_finite)} of {len(tensors)} tensors of {folder / WEIGHTS} are not finite, the first "
                f"is {faults.not_finite[0]}",
                hint="this file must not be used; continue from a checkpoint: trainer train RECIPE",
            )
        if faults.empty:
            raise StageError(
                f"the adapter in {folder} is empty: every B matrix is zero", hint="check learning_rate and data"
            )
        opened.append(AdapterTensors(number, weight, tensors))
    return opened


@dataclass(frozen=True)
class Faults:
    """Tensors of an adapter that cannot be right."""

    not_finite: list[str]
    zero: list[str]
    empty: bool


def faults_of(tensors: dict[str, StoredTensor]) -> Faults:
    """Look at every number of an adapter, block by block."""
    not_finite, zero, num_starts = [], [], 0
    for name, tensor in tensors.items():
        blocks = [tensor.rows(*rows) for rows in row_blocks(tensor.shape)] if tensor.shape else [tensor.read()]
        if not all(bool(torch.isfinite(block.float()).all()) for block in blocks):
            not_finite.append(name)
        # B A = 0 as long as this matrix is zero: the layer was never trained
        if name.endswith(START_AT_ZERO):
            num_starts += 1
            if not any(bool(block.any()) for block in blocks):
                zero.append(name)
    has_others = any(not name.endswith(tuple(SUFFIXES.values())) for name in tensors)
    return Faults(not_finite, zero, empty=len(zero) == num_starts and not has_others)


def changes_of(bones: Skeleton, adapters: list[AdapterTensors]) -> dict[str, ParameterChange]:
    """Give every adapter tensor to the parameter that it changes.

    Returns:
        Changes by parameter name.

    Raises:
        NotStreamableError: PEFT has no row-wise definition of such a layer.
        StageError: A tensor is missing, has another shape, or belongs to no parameter.
    """
    # PEFT names a weight base_model.model.NAME.lora_A.weight, or NAME.base_layer.weight for what it wraps
    changes: dict[str, ParameterChange] = {}
    for path, module in list(bones.peft.named_modules()):
        name = path.removeprefix(PREFIX).replace(".base_layer", "")
        if isinstance(module, LoraLayer):
            _add_layer(changes, path, name, module, adapters)
        elif isinstance(module, TrainableTokensWrapper):
            _add_tokens(changes, path, name, module, adapters, bones)
        elif isinstance(module, ModulesToSaveWrapper):
            _add_saved(changes, path, name, module, adapters)
    _add_replacements(changes, bones, adapters)
    return changes


def _change(changes: dict[str, ParameterChange], parameter: str) -> ParameterChange:
    return changes.setdefault(parameter, ParameterChange())


def _add_layer(
    changes: dict[str, ParameterChange], path: str, name: str, layer: LoraLayer, adapters: list[AdapterTensors]
) -> None:
    parts = {}
    for adapter in adapters:
        if adapter.name in layer.scaling:
            parts[adapter.name] = _parts(path, layer, adapter)
            layer.scaling[adapter.name] *= adapter.weight  # PEFT multiplies B A by it
    if not parts:
        return
    if isinstance(layer, ParamWrapper):
        _change(changes, f"{name}.{layer.parameter_name}").updates.append(ExpertUpdate(layer, parts))
        return
    if not isinstance(layer, Linear | Embedding):
        raise NotStreamableError(f"{name} is a {type(layer).__name__} of PEFT")
    if not all(type(kind) in (DoraLinearVariant, DoraEmbeddingVariant) for kind in layer.lora_variant.values()):
        raise NotStreamableError(f"{name} uses {type(next(iter(layer.lora_variant.values()))).__name__} of PEFT")
    if not hasattr(layer, "fan_in_fan_out"):  # an embedding has none
        layer.fan_in_fan_out = False
    _change(changes, f"{name}.weight").updates.append(LayerUpdate(layer, parts))
    biases = {adapter: tensors for adapter, tensors in parts.items() if "lora_B.bias" in tensors}
    if biases:
        _change(changes, f"{name}.bias").updates.append(BiasUpdate(layer, biases))


def _parts(path: str, layer: LoraLayer, adapter: AdapterTensors) -> Parts:
    """Take the tensors of one layer.

    Raises:
        StageError: One is missing or has another shape than the model asks for.
    """
    candidates = {word: adapter.take(f"{path}.{suffix}") for word, suffix in SUFFIXES.items()}
    parts = {word: tensor for word, tensor in candidates.items() if tensor is not None}
    is_embedding = isinstance(layer, Embedding)
    needed = ["lora_embedding_A", "lora_embedding_B"] if is_embedding else ["lora_A", "lora_B"]
    if adapter.name in layer.lora_variant:
        needed.append("lora_magnitude_vector")
    if not is_embedding and layer.lora_bias.get(adapter.name):
        needed.append("lora_B.bias")
    for word in needed:
        if word not in parts:
            raise wrong_adapter(f"{path}.{SUFFIXES[word]} is missing from adapter {adapter.number + 1}")
    if "lora_magnitude_vector" in parts:
        adapter.only_whole("the magnitudes of DoRA")
    if not is_embedding:  # embeddings may have grown with the vocabulary
        for word in ("lora_A", "lora_B"):
            expected = tuple(getattr(layer, word)[adapter.name].weight.shape)
            if parts[word].shape != expected:
                raise wrong_adapter(f"{path}.{SUFFIXES[word]} is {parts[word].shape}, the model needs {expected}")
    return parts


def _add_tokens(
    changes: dict[str, ParameterChange],
    path: str,
    name: str,
    module: TrainableTokensWrapper,
    adapters: list[AdapterTensors],
    bones: Skeleton,
) -> None:
    """Take trained token rows; a tied head has none of its own and follows the embeddings."""
    for adapter in adapters:
        indices = module.token_adapter.token_indices.get(adapter.name)
        if not indices:
            continue
        adapter.only_whole("the rows of tokens")
        parameter = f"{name}.weight"
        rows = adapter.take(f"{path}.token_adapter.trainable_tokens_delta")
        if rows is None and parameter == bones.head and bones.tied:
            # tied: one tensor at both ends, so one list of updates
            shared = changes[bones.embeddings].updates
            _change(changes, parameter).updates.extend(shared)
        elif rows is None:
            raise wrong_adapter(f"{path}.token_adapter.trainable_tokens_delta is missing")
        else:
            _change(changes, parameter).updates.append(TokenRows(tuple(indices), rows))
        base_weight = adapter.take(f"{path}.token_adapter.base_layer.weight")
        if base_weight is not None:
            _replace(changes, parameter, base_weight)


def _add_saved(
    changes: dict[str, ParameterChange],
    path: str,
    name: str,
    module: ModulesToSaveWrapper,
    adapters: list[AdapterTensors],
) -> None:
    for adapter in adapters:
        if adapter.name not in module.modules_to_save:
            continue
        for inner, _ in module.modules_to_save[adapter.name].named_parameters():
            tensor = adapter.take(f"{path}.{inner}")
            if tensor is None:
                raise wrong_adapter(f"{path}.{inner} is missing from adapter {adapter.number + 1}")
            adapter.only_whole(f"{name}.{inner}")
            _replace(changes, f"{name}.{inner}", tensor)
            for copy in ("modules_to_save", "original_module"):  # PEFT writes both beside it with a resized vocabulary
                adapter.take(f"{path}.{copy}.{inner}")


def _add_replacements(changes: dict[str, ParameterChange], bones: Skeleton, adapters: list[AdapterTensors]) -> None:
    """Take what is left: whole weights (resized embeddings) and trained biases, by their own names."""
    parameters = {name.removeprefix(PREFIX).replace(".base_layer", "") for name in bones.peft.state_dict()}
    for adapter in adapters:
        for key in list(adapter.left):
            name = key.removeprefix(PREFIX).replace(".base_layer", "")
            if name not in parameters or "lora_" in name:
                raise wrong_adapter(f"nothing in the model takes {key}")
            adapter.only_whole(name)
            _replace(changes, name, adapter.left.pop(key))


def _replace(changes: dict[str, ParameterChange], parameter: str, tensor: StoredTensor) -> None:
    change = _change(changes, parameter)
    if change.source is not None:
        raise StageError(
            f"two adapters replace {parameter}, which has room for one", hint="merge one of them, then the other"
        )
    change.source = tensor
