"""How much of each decoder layer is kept for the backward pass, and how much is computed a second time.

    none         everything is kept
    elementwise  results of matrix products and attention are kept; norms, activations and their products with the
                 gate are computed again from them, which costs no matrix product
    full         a layer's input is kept, the whole layer is computed again

Each layer has a level of its own. All levels compute the same operations on the same values, so gradients are the same
bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from trainer.model.memory import Level

NORM = "RMSNorm"
"""How classes of norms are called that are a function of their input alone."""


class NotRecomputed(Exception):
    """The model has no layers that can be computed again."""


def apply(model: torch.nn.Module, levels: Sequence[Level]) -> None:
    """Give each decoder layer its level, the first layer first.

    Raises:
        NotRecomputed: The model has another number of layers that transformers can recompute.
    """
    layers = decoder_layers(model)
    if len(layers) != len(levels):
        raise NotRecomputed(f"{len(layers)} layers can be recomputed, the plan has {len(levels)}")
    remove(model)
    for layer, level in zip(layers, levels, strict=True):
        if level == "full":
            layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)
            layer.gradient_checkpointing = True
        elif level == "elementwise":
            layer._elementwise = _Elementwise(layer)


def remove(model: torch.nn.Module) -> None:
    """Let all layers keep everything."""
    for layer in decoder_layers(model):
        layer.gradient_checkpointing = False
        if "_elementwise" in vars(layer):
            layer._elementwise.remove()
            del layer._elementwise


def decoder_layers(model: torch.nn.Module) -> list[Any]:
    """Return the layers that transformers can compute again, in order."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@dataclass
class _Again:
    """A tensor that is not kept but computed from others that are."""

    function: Callable[..., torch.Tensor]
    inputs: tuple[torch.Tensor, ...]
    autocast: torch.dtype | None
    uses: int = 0
    """How many parts of the backward pass still want it."""
    value: torch.Tensor | None = None

    def take(self) -> torch.Tensor:
        """Compute it for the first that wants it, hold it until the last one has it."""
        value = self.value
        if value is None:
            device = self.inputs[0].device.type
            with torch.no_grad(), torch.autocast(device, self.autocast, enabled=self.autocast is not None):
                value = self.function(*self.inputs)
        self.uses -= 1
        self.value = value if self.uses > 0 else None
        return value


class _Elementwise:
    """One layer whose elementwise results are not kept."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.known: dict[int, tuple[torch.Tensor, int, _Again]] = {}
        self.is_on = False
        self.patched: list[Any] = [layer]
        self.hooks: list[Any] = []
        for module in list(layer.modules()):
            if type(module).__name__.endswith(NORM):
                module.forward = functools.partial(self._norm, module)
                self.patched.append(module)
            if all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
                self._gated(module)
        layer.forward = self._forward

    def remove(self) -> None:
        """Put the layer back."""
        for module in self.patched:
            del module.forward
        for hook in self.hooks:
            hook.remove()

    def _forward(self, *arguments: Any, **named: Any) -> Any:
        forward = type(self.layer).forward
        if not (self.layer.training and torch.is_grad_enabled()):
            return forward(self.layer, *arguments, **named)
        self.is_on = True
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack):
                return forward(self.layer, *arguments, **named)
        finally:
            self.is_on = False
            self.known.clear()

    def _norm(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        original = functools.partial(type(module).forward, module)
        if not self.is_on:
            result: torch.Tensor = original(x)
            return result
        y: torch.Tensor = checkpoint(original, x, use_reentrant=False, preserve_rng_state=False)
        self._note(y, original, x)
        return y

    def _gated(self, mlp: Any) -> None:
        """Watch down(act(gate(x)) * up(x)): the activation and the product follow from gate(x) and up(x)."""
        if not isinstance(mlp.act_fn, torch.nn.Module):
            return
        seen: dict[str, torch.Tensor] = {}
        checked: list[bool] = []

        def after_act(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if self.is_on:
                seen.update(gate=inputs[0].detach(), act=output.detach())
                self._note(output, type(module).forward.__get__(module), inputs[0])

        def after_up(_: Any, __: Any, output: torch.Tensor) -> None:
            if self.is_on:
                seen.update(up=output.detach())

        def before_down(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            if self.is_on and len(seen) == 3:
                gate, act, up = (seen.pop(name) for name in ("gate", "act", "up"))
                if not checked:  # once: a model may do more than multiply
                    checked.append(act.shape == up.shape and torch.equal(inputs[0], act * up))
                if checked[0]:
                    again = type(mlp.act_fn).forward.__get__(mlp.act_fn)
                    self._note(inputs[0], lambda g, u: again(g) * u, gate, up)

        self.hooks += [
            mlp.act_fn.register_forward_hook(after_act),
            mlp.up_proj.register_forward_hook(after_up),
            mlp.down_proj.register_forward_pre_hook(before_down),
        ]

    def _note(self, tensor: torch.Tensor, function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> None:
        """Remember how a tensor comes about; it is held until the layer ends, so that its address stays its own."""
        device = tensor.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        again = _Again(function, tuple(one.detach() for one in inputs), autocast)
        held = tensor.detach()
        self.known[held.data_ptr()] = (held, held._version, again)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor | tuple[_Again, torch.Size]:
        held, version, again = self.known.get(tensor.data_ptr(), (None, 0, None))
        if held is None or again is None or not _same(held, version, tensor):
            return keep(tensor)
        again.uses += 1
        return again, tensor.shape


def _same(held: torch.Tensor, version: int, tensor: torch.Tensor) -> bool:
    return (
        held.numel() == tensor.numel()
        and held.dtype == tensor.dtype
        and held.is_contiguous()
        and tensor.is_contiguous()
        and held._version == version
    )


def keep(tensor: torch.Tensor) -> torch.Tensor:
    """Return what is kept of a tensor that is not computed again."""
    return tensor.detach()


def _unpack(packed: torch.Tensor | tuple[_Again, torch.Size]) -> torch.Tensor:
    if isinstance(packed, torch.Tensor):
        return packed
    again, shape = packed
    return again.take().view(shape)
