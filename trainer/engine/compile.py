"""Compile decoder layers by torch.compile, where the compiled layers give the same gradients.

Elementwise operations are compiled: norms, rotations, activations, residual sums. Attention, LoRA products and the
output head are not traced: they stay the tested functions, and torch has miscompiled some of them before (`TESTED`).
One batch is computed both ways before the first step; where the results differ, or on any error, the layers stay
uncompiled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch._dynamo
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from trainer.engine import attention, mixers, outcome
from trainer.engine.lora import is_sharded
from trainer.engine.recompute import decoder_layers

TESTED = ((2, 11), (2, 13))
"""First and last version of torch whose compiled layers are used.

Inductor before 2.11 gave wrong gradients for traced LoRA functions, 2.13 for `add(alpha=...)` inside them: none is
traced here, and the comparison at the start would show it. 2.14 breaks recompute of compiled layers.

Source: Unsloth's notes on compiled LoRA layers; Axolotl's documentation of regional compilation;
https://github.com/pytorch/pytorch/issues/166926.
"""


class NotCompiled(Exception):
    """The layers stay uncompiled; the message is the reason."""


def try_on(
    model: PreTrainedModel,
    loss: Callable[[], torch.Tensor],
    *,
    dtype: torch.dtype,
    is_static: bool,
    backend: str = "inductor",
) -> int:
    """Compile the decoder layers of a model if one batch gives the same loss and gradients; return how many there are.

    Weights, gradients and random states are left as they were.

    Args:
        model: On the device where it trains, in training mode, prepared, with its levels of recompute set.
        loss: Computes the loss of one batch, by a forward pass of the model.
        dtype: Of the matrix products.
        is_static: Every batch has as many tokens as this one.
        backend: Of torch.compile.

    Raises:
        NotCompiled: The layers stay uncompiled.
    """
    layers = _layers(model)
    # LoRA starts at B = 0, where A has no gradient: a wrong one would not show
    with outcome.without_zeros(model):
        try:
            expected = _results(model, loss)
            _switch_on(model, layers, is_static, backend)
            results = _results(model, loss)
        except Exception as error:
            switch_off(model)
            cause = getattr(error, "inner_exception", error)  # Dynamo wraps errors
            first = next(iter(str(cause).strip().splitlines()), "no message")
            raise NotCompiled(f"{type(cause).__name__}: {first}") from error
    problem = outcome.problem(results, expected, dtype)
    if problem is not None:
        switch_off(model)
        raise NotCompiled(problem)
    return len(layers)


def switch_off(model: PreTrainedModel) -> None:
    """Undo `try_on`."""
    for layer in decoder_layers(model):
        layer._compiled_call_impl = None
    for module in model.modules():
        if "_traced_forward" in vars(module):
            module.forward = module._traced_forward
            del module._traced_forward
    AttentionInterface.register(attention.NAME, attention.segment_attention)
    torch._dynamo.reset()


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Run layers uncompiled for a while: batches of validation have many shapes."""
    with torch.compiler.set_stance("force_eager"):
        yield


def is_tested(version: str) -> bool:
    """Tell whether compiled layers of a version of torch are used."""
    major, minor = version.split(".")[:2]
    return TESTED[0] <= (int(major), int(minor)) <= TESTED[1]


def _layers(model: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    """Return the layers that can be compiled; raise NotCompiled where there are none."""
    if not is_tested(torch.__version__):
        low, high = (".".join(map(str, version)) for version in TESTED)
        raise NotCompiled(f"torch is {torch.__version__}, and {low} to {high} are known to be right")
    if is_sharded():
        raise NotCompiled("weights are spread over processes")
    dropout = max((_dropout(module) for module in model.modules()), default=0.0)
    if dropout:
        raise NotCompiled(f"dropout {dropout:g} draws other numbers when it is compiled")
    layers = [layer for layer in decoder_layers(model) if not {"_elementwise", "_reuses_weights"} & vars(layer).keys()]
    if not layers:
        raise NotCompiled("every decoder layer is recomputed")
    return layers


def _dropout(module: torch.nn.Module) -> float:
    """Return the rate of a dropout module, or the largest one that an attention layer keeps as a number."""
    if isinstance(module, torch.nn.Dropout):
        return module.p
    return max((value for name, value in vars(module).items() if "drop" in name and type(value) is float), default=0.0)


def _switch_on(model: PreTrainedModel, layers: list[GradientCheckpointingLayer], is_static: bool, backend: str) -> None:
    AttentionInterface.register(attention.NAME, torch.compiler.disable(attention.segment_attention))
    for module in model.modules():
        if "_product" in vars(module) or mixers.is_row_wise(module):
            module._traced_forward = module.forward
            module.forward = torch.compiler.disable(module.forward)
    # The second pass of a recomputed layer must choose the graph that the first one chose (pytorch#166926).
    torch._C._dynamo.eval_frame._set_lru_cache(False)
    for layer in layers:
        # batches of many lengths: one graph with symbolic sizes, in place of a recompilation for each
        layer.compile(backend=backend, dynamic=not is_static)


def _results(model: PreTrainedModel, loss: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
    """Return the loss and the gradients of the trained weights."""
    value = loss()
    return [value.detach(), *outcome.gradients(model, [value])]
