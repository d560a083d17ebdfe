"""Apply the adapters' changes to one parameter, a block of rows at a time, by PEFT's own layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from peft.tuners.lora.layer import Linear, LoraLayer, ParamWrapper

from trainer.export.merge.shards import StoredTensor

Parts = dict[str, StoredTensor]
"""Tensors of one adapter for one layer, by the word that PEFT ends their names with."""


class Update(Protocol):
    """A change of one parameter."""

    @property
    def needs_all_rows(self) -> bool:
        """Whether a row cannot be computed without the others."""
        ...

    def apply(self, start: int, block: torch.Tensor) -> torch.Tensor:
        """Return rows `start` and on of the changed parameter.

        Args:
            start: Number of the first row.
            block: Those rows of the base, float32.
        """
        ...


def _on(tensor: StoredTensor, like: torch.Tensor, rows: tuple[int, int] | None = None) -> torch.Tensor:
    read = tensor.read() if rows is None else tensor.rows(*rows)
    return read.to(like.device, torch.float32)


def _parameter(tensor: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor, requires_grad=False)


def _empty(layer: LoraLayer, adapters: Sequence[str]) -> None:
    """Let go of the adapter's numbers, so that never more than one layer's are in memory."""
    for adapter in adapters:
        for part in (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector):
            if adapter in part:
                part[adapter].weight = _parameter(part[adapter].weight.detach().to("meta"))
        for single in (layer.lora_embedding_A, layer.lora_embedding_B):
            if adapter in single:
                single[adapter] = _parameter(single[adapter].detach().to("meta"))


@dataclass
class LayerUpdate:
    """LoRA or DoRA on a linear layer or an embedding; `parts` are by the adapter's name in the layer."""

    layer: LoraLayer
    parts: dict[str, Parts]
    needs_all_rows: bool = field(init=False)

    def __post_init__(self) -> None:
        # DoRA normalises over inputs: a row of a Linear, but a column of an Embedding and of GPT-2's transposed layer
        across = self.is_embedding or self.layer.fan_in_fan_out
        self.needs_all_rows = across and any("lora_magnitude_vector" in parts for parts in self.parts.values())

    @property
    def is_embedding(self) -> bool:
        return any("lora_embedding_A" in parts for parts in self.parts.values())

    def apply(self, start: int, block: torch.Tensor) -> torch.Tensor:
        # PEFT's own merge on a layer that holds these rows alone: W[rows] + scaling * B[rows] A
        rows = (start, start + block.shape[0])
        base = self.layer.get_base_layer()
        empty = base.weight
        base.weight = _parameter(block.clone())
        for adapter, parts in self.parts.items():
            fill = self._fill_embedding if self.is_embedding else self._fill_linear
            fill(adapter, parts, rows, block)
        self.layer.merge(safe_merge=False, adapter_names=list(self.parts))
        result: torch.Tensor = base.weight.data
        base.weight = empty
        self.layer.merged_adapters.clear()
        self.layer._caches.clear()
        _empty(self.layer, list(self.parts))
        return result

    def _fill_linear(self, adapter: str, parts: Parts, rows: tuple[int, int], like: torch.Tensor) -> None:
        # A (r, in), B (out, r): rows of W are rows of B; of GPT-2's transposed W (in, out) they are columns of A
        layer, transposed = self.layer, self.layer.fan_in_fan_out
        a, b = _on(parts["lora_A"], like), _on(parts["lora_B"], like, None if transposed else rows)
        layer.lora_A[adapter].weight = _parameter(a[:, slice(*rows)] if transposed else a)
        layer.lora_B[adapter].weight = _parameter(b)
        if "lora_magnitude_vector" in parts:
            magnitude = _on(parts["lora_magnitude_vector"], like, None if transposed else rows)
            layer.lora_magnitude_vector[adapter].weight = _parameter(magnitude)

    def _fill_embedding(self, adapter: str, parts: Parts, rows: tuple[int, int], like: torch.Tensor) -> None:
        # A (r, words), B (dim, r): a row of the embedding is a column of A
        layer = self.layer
        layer.lora_embedding_A[adapter] = _parameter(_on(parts["lora_embedding_A"], like)[:, slice(*rows)])
        layer.lora_embedding_B[adapter] = _parameter(_on(parts["lora_embedding_B"], like))
        if "lora_magnitude_vector" in parts:
            layer.lora_magnitude_vector[adapter].weight = _parameter(_on(parts["lora_magnitude_vector"], like))


@dataclass
class ExpertUpdate:
    """LoRA on a parameter that holds the matrices of all experts."""

    layer: ParamWrapper
    parts: dict[str, Parts]
    needs_all_rows: bool = False

    def expert(self, number: int, like: torch.Tensor) -> torch.Tensor:
        """Return the update of one expert, (rows, columns) as the parameter holds them."""
        layer, total = self.layer, torch.zeros((), device=like.device)
        for adapter, parts in self.parts.items():
            a, b = _on(parts["lora_A"], like), _on(parts["lora_B"], like)
            # PEFT keeps the experts E in one pair: A (E * r, in) with an expert's ranks side by side, B (out, r * E)
            # with a rank's experts side by side
            experts = layer.num_experts
            layer.lora_A[adapter].weight = _parameter(a.reshape(experts, -1, a.shape[-1])[number])
            layer.lora_B[adapter].weight = _parameter(b.reshape(b.shape[0], -1, experts)[:, :, number].contiguous())
            delta = Linear.get_delta_weight(layer, adapter)  # scaling B A, (out, in)
            total = total + (delta if layer._did_swap_in_out_features or experts == 1 else delta.T)
        _empty(layer, list(self.parts))
        return total

    def apply(self, start: int, block: torch.Tensor) -> torch.Tensor:
        if block.dim() == 2:  # a model of one expert has no dimension for it
            return block + self.expert(0, block)[start : start + block.shape[0]]
        return torch.stack(
            [expert_block + self.expert(start + number, expert_block) for number, expert_block in enumerate(block)]
        )


@dataclass
class OneExpert:
    """Rows of one expert, where the checkpoint keeps experts apart."""

    experts: ExpertUpdate
    number: int
    first_row: int
    needs_all_rows: bool = False

    def apply(self, start: int, block: torch.Tensor) -> torch.Tensor:
        first = self.first_row + start
        return block + self.experts.expert(self.number, block)[first : first + block.shape[0]]


@dataclass
class BiasUpdate:
    """`lora_bias`: B has a bias, which is scaled as the rest."""

    layer: LoraLayer
    parts: dict[str, Parts]
    needs_all_rows: bool = False

    def apply(self, start: int, block: torch.Tensor) -> torch.Tensor:
        for adapter, parts in self.parts.items():
            block = block + _on(parts["lora_B.bias"], block) * self.layer.scaling[adapter]  # b + s b_B
        return block


@dataclass
class TokenRows:
    """Rows of single tokens that were trained and now replace those of the base."""

    indices: Sequence[int]
    rows: StoredTensor
    needs_all_rows: bool = False

    def apply(self, start: int, block: torch.Tensor) -> torch.Tensor:
        # (position in the block, row of `rows`) of the tokens whose rows are in this block
        here = [(index - start, row) for row, index in enumerate(self.indices) if 0 <= index - start < block.shape[0]]
        if not here:
            return block
        positions, rows = zip(*here, strict=True)
        trained = _on(self.rows, block)[list(rows)]  # (tokens in this block, H)
        return block.index_copy(0, torch.tensor(positions, device=block.device), trained)


@dataclass
class Chain:
    """Several changes in turn."""

    updates: list[Update]

    @property
    def needs_all_rows(self) -> bool:
        return any(update.needs_all_rows for update in self.updates)

    def apply(self, start: int, block: torch.Tensor) -> torch.Tensor:
        for update in self.updates:
            block = update.apply(start, block)
        return block
