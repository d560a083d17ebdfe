"""Measure the memory of a training step without doing it: on fake tensors, with the code that trains.

Each operation says what it would allocate, and each storage when it would be freed. So kinds of layers, shared layers,
experts and states need no formula of their own: their own code is run.

    bytes(items) = fixed + items * per_item        from steps of one and of two items
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from peft import PeftModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from trainer.engine import current, lora
from trainer.engine.attention import switch_on
from trainer.engine.batch import Batch, Layout, of_rows
from trainer.engine.expected import carries_state
from trainer.engine.head import Scorer
from trainer.engine.prepare import Engine
from trainer.engine.segments import Segments
from trainer.model.fake import fake_tensors
from trainer.shapes.blueprint import TracedMemory

CHUNK_TOKENS, SCAN_TOKENS = 256, 32
"""Longest row in the trace of a model with a state, which goes through a row chunk by chunk or token by token where its
kernels are missing."""


class Allocations(TorchDispatchMode):
    """Count operations, and the bytes of storages while they live."""

    def __init__(self, before: Iterable[torch.Tensor] = ()) -> None:
        """Leave out the storages of tensors that were there before."""
        super().__init__()
        self.operations = 0
        self.current = 0
        self.peak = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        for tensor in before:
            storage = tensor.untyped_storage()
            self._alive[storage._cdata] = weakref.ref(storage)

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Count the storages of an operation's results; results that are views or in place bring no new one."""
        self.operations += 1
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        known = self._alive.get(key)
        if known is not None and known() is not None:
            return

        def freed(_: object) -> None:
            self.current -= size
            self._alive.pop(key, None)

        # autograd's references count as well: the storage dies with the last of them
        self._alive[key] = weakref.ref(storage, freed)
        self.current += size
        self.peak = max(self.peak, self.current)


def _peak(model: torch.nn.Module, loss: Callable[[], torch.Tensor], segments: Segments | None) -> int:
    with Allocations([*model.parameters(), *model.buffers()]) as allocations, current.of(segments):
        loss().backward()
    model.zero_grad(set_to_none=True)
    return allocations.peak


def _scans(model: torch.nn.Module, engine: Engine, layout: Layout) -> bool:
    """Tell whether a model goes through a row token by token: operations grow with the number of tokens."""
    counts = []
    for tokens in (8, 16):
        batch = _batch(1, tokens, layout)
        with torch.no_grad(), Allocations() as allocations, current.of(batch["inputs"].get("segments")):
            _loss(model, engine, batch, None)
        counts.append(allocations.operations)
    return counts[1] > counts[0]


def traced_memory(
    model: PreTrainedModel | PeftModel,
    *,
    is_flat: bool,
    tokens: int,
    recomputes: bool,
    autocast: torch.dtype | None,
    four_bit: Container[str] = (),
) -> TracedMemory:
    """Trace a training step of a model on the meta device; the engine's parts stay switched on.

    Args:
        model: With or without an adapter.
        is_flat: Rows follow each other without padding.
        tokens: Of an item; all of them are trained. Rows of models with a state are cut.
        recomputes: transformers computes all layers again.
        autocast: Type of the matrix products where it differs from the weights.
        four_bit: Names of the base model's weights that will be quantised.

    Raises:
        RuntimeError: A step depends on a number, which fake tensors do not have.
    """
    base: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
    layout: Layout = "flat" if is_flat else "padded"
    sizes = {plain_name(name): weight.numel() for name, weight in base.named_parameters()}
    with fake_tensors(model):
        lora.switch_on(base)
        if is_flat:
            switch_on(base)
        engine = Engine(layout, None, None, Scorer(base) if base.get_output_embeddings() is not None else None)
        if recomputes:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        if carries_state(base):
            tokens = min(tokens, SCAN_TOKENS if _scans(model, engine, layout) else CHUNK_TOKENS)
        batches = [_batch(count, tokens, layout) for count in (1, 2)]
        storages = {id(storage): storage.nbytes() for storage in map(_storage, model.parameters())}
        one, two = (
            # layers that are computed again in the backward pass ask for the segments there
            _peak(model, partial(_loss, model, engine, batch, autocast), batch["inputs"].get("segments"))
            for batch in batches
        )
    return TracedMemory(
        weights=sum(storages.values()),
        widest=max((size for name, size in sizes.items() if name in four_bit), default=0),
        tokens=tokens,
        fixed=max(0, 2 * one - two),
        per_item=max(0, two - one),
        recomputes=recomputes,
    )


def plain_name(name: str) -> str:
    """Return the name of a weight before PEFT wrapped its layer.

    Example:
        >>> plain_name("model.layers.0.mlp.up_proj.base_layer.weight")
        'model.layers.0.mlp.up_proj.weight'
    """
    return name.replace(".base_layer", "")


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def _batch(count: int, tokens: int, layout: Layout) -> Batch:
    rows = [(np.arange(1, tokens + 1, dtype=np.int64), np.ones(tokens, dtype=np.uint8))] * count
    return of_rows([rows] if layout == "flat" else [[row] for row in rows], layout, 0)


def _loss(model: torch.nn.Module, engine: Engine, batch: Batch, autocast: torch.dtype | None) -> torch.Tensor:
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        log_probs, router_loss = engine.score(model, batch)
        return -log_probs.mean() if router_loss is None else router_loss - log_probs.mean()
