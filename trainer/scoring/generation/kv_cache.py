"""Hold the keys and values of a batch while its rows come and go.

Shapes: B rows, H heads, T columns, D head size. A column holds one token of each row, or padding that the attention
mask hides: rows of several lengths share columns.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from transformers import Cache
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BLOCK = 64
"""Columns by which a layer grows: copying all keys for every new token would cost as much as attention itself."""


class BlockLayer(DynamicLayer):
    """One layer's (B, H, T, D) keys and values, as views of tensors with spare columns."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.stores: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns and return all."""
        if self.stores is None:
            self.lazy_initialization(key_states, value_states)
        used = self.get_seq_length()
        keys, values = self.stores or (None, None)
        end = used + key_states.shape[-2]
        self.hold(_appended(keys, used, key_states), _appended(values, used, value_states), end)
        return self.keys, self.values

    def hold(self, keys: torch.Tensor, values: torch.Tensor, used: int) -> None:
        """Take over tensors of which the first `used` columns count."""
        self.stores = (keys, values)
        self.keys, self.values = keys[:, :, :used], values[:, :, :used]  # views: nothing is copied


def _appended(store: torch.Tensor | None, used: int, states: torch.Tensor) -> torch.Tensor:
    end = used + states.shape[-2]
    if store is None or store.shape[-2] < end:
        room = states.new_zeros((*states.shape[:2], end + BLOCK, states.shape[-1]))  # (B, H, T + spare, D)
        if store is not None:
            room[:, :, :used] = store[:, :, :used]
        store = room
    store[:, :, used:end] = states
    return store


def empty() -> Cache:
    """Return a cache without columns."""
    return Cache(layer_class_to_replicate=BlockLayer)


def _from_layers(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> Cache:
    cache = empty()
    for keys, values in pairs:
        layer = BlockLayer()
        layer.lazy_initialization(keys, values)
        layer.hold(keys, values, keys.shape[-2])
        cache.layers.append(layer)
    return cache


def repeated(cache: Cache, count: int) -> Cache:
    """Return a cache of one row as `count` equal rows; the first update copies it."""
    return _from_layers(
        # (1, H, T, D) -> (count, H, T, D) without memory: all rows read the same keys
        [(layer.keys.expand(count, -1, -1, -1), layer.values.expand(count, -1, -1, -1)) for layer in cache.layers]
    )


def selected(cache: Cache, rows: torch.Tensor, columns: torch.Tensor) -> Cache:
    """Return some rows and columns (index tensors), in that order; layers may be on several cards."""
    return _from_layers(
        [(_picked(layer.keys, rows, columns), _picked(layer.values, rows, columns)) for layer in cache.layers]
    )


def _picked(states: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    return states[rows.to(states.device)][:, :, columns.to(states.device)]  # (B, H, T, D) -> (B', H, T', D)


def joined(first: Cache, second: Cache, column: int) -> Cache:
    """Return the rows of both; the narrower one gets empty columns before a column, which the mask must hide."""
    pairs = []
    for layers in zip(first.layers, second.layers, strict=True):
        width = max(layer.keys.shape[-2] for layer in layers)
        keys = torch.cat([widened(layer.keys, column, width, -2) for layer in layers])
        values = torch.cat([widened(layer.values, column, width, -2) for layer in layers])
        pairs.append((keys, values))
    return _from_layers(pairs)


def widened(tensor: torch.Tensor, index: int, width: int, dim: int) -> torch.Tensor:
    """Insert zeros before an index of dimension `dim`, up to `width`.

    Example: a row behind a shared prefix of two tokens gets two columns of padding.
        >>> widened(torch.tensor([[1, 2, 7, 8]]), 2, 6, 1).tolist()
        [[1, 2, 0, 0, 7, 8]]
    """
    missing = width - tensor.shape[dim]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    head, tail = tensor.split([index, tensor.shape[dim] - index], dim)
    return torch.cat([head, tensor.new_zeros(shape), tail], dim)


def max_shared_width(model: PreTrainedModel) -> int | None:
    """Return the most columns up to which prefixes can be shared; None where rows cannot come and go at all.

    Padding after a shared prefix counts as distance in masks: a sliding window narrower than the batch would hide
    tokens. Recurrent states and states shared between layers cannot be cut by columns; models that do not take
    positions would count padding.
    """
    config = getattr(model, "config", None)
    forward = inspect.signature(model.forward).parameters
    is_known = type(model).__module__.startswith("transformers.") and {"position_ids", "past_key_values"} <= set(
        forward
    )
    if (
        not is_known
        or config is None
        or config.get_text_config(decoder=True) is not config
        or config.is_encoder_decoder
        or not hasattr(config, "num_hidden_layers")  # several stacks of layers, as in BLT
    ):
        return None
    layers = DynamicCache(config=config).layers
    if {type(layer) for layer in layers} - {DynamicLayer, DynamicSlidingWindowLayer}:
        return None
    if getattr(config, "num_kv_shared_layers", 0) or "chunked_attention" in (
        getattr(config, "layer_types", None) or []
    ):
        return None
    # a batch that is no wider than its narrowest window hides nothing that a row should see
    windows = [layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
    return min(windows, default=1 << 30)
