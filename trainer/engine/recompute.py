"""How much of each decoder layer is kept for the backward pass, and how much is computed a second time.

    none         everything is kept
    elementwise  results of matrix products and attention are kept; norms, activations and their products with the
                 gate are computed again from them, which costs no matrix product
    full         a layer's input is kept, the whole layer is computed again; meanwhile it keeps everything, or, where
                 memory matters more than time (lean), what elementwise keeps
    offload      the same, and the input waits in the host's memory

Each layer has a level of its own. All levels compute the same operations on the same values, so gradients are the same
bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from trainer.engine.offload import Host
from trainer.model.planning.activations import WHOLE, Level

NORM = "RMSNorm"
"""How classes of norms are called that are a function of their input alone."""


class NotRecomputed(Exception):
    """The model has no layers that can be computed again."""


def apply(model: torch.nn.Module, levels: Sequence[Level], *, is_lean: bool = False) -> None:
    """Give each decoder layer its level, the first layer first.

    Args:
        model: From transformers, with or without adapters.
        levels: Of all layers.
        is_lean: Layers computed again in whole keep what elementwise keeps, and no 4-bit weights dequantised.

    Raises:
        NotRecomputed: The model has another number of layers that transformers can recompute.
    """
    layers = decoder_layers(model)
    if len(layers) != len(levels):
        raise NotRecomputed(f"{len(layers)} layers can be recomputed, the plan has {len(levels)}")
    remove(model)
    host = Host()
    for place, (layer, level) in enumerate(zip(layers, levels, strict=True)):
        if level == "elementwise" or (level in WHOLE and is_lean):
            layer._elementwise = _Elementwise(layer)
        if level in WHOLE:
            layer.forward = _Whole(layer, place, host if level == "offload" else None)
            layer._reuses_weights = not is_lean


def remove(model: torch.nn.Module) -> None:
    """Let all layers keep everything."""
    for layer in decoder_layers(model):
        layer.gradient_checkpointing = False
        if "_elementwise" in vars(layer):
            layer._elementwise.remove()
            del layer._elementwise
        for name in ("forward", "_reuses_weights"):
            vars(layer).pop(name, None)


def decoder_layers(model: torch.nn.Module) -> list[Any]:
    """Return the layers that transformers can compute again, in order."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


class _Whole:
    """The forward function of a layer that is computed again in whole."""

    def __init__(self, layer: Any, place: int, host: Host | None) -> None:
        self.layer = layer
        self.place = place
        self.host = host

    def __call__(self, hidden_states: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        run = functools.partial(self._run, arguments, named)
        layer = self.layer
        learns = hidden_states.requires_grad or any(weight.requires_grad for weight in layer.parameters())
        if not (layer.training and torch.is_grad_enabled() and learns):
            return run(hidden_states)
        # outputs have a gradient when an input has one; the first layer's input has none
        anchor = hidden_states.new_empty(0, requires_grad=True)
        return _ComputedAgain.apply(hidden_states, anchor, run, self.place, self.host)

    def _run(self, arguments: tuple[Any, ...], named: dict[str, Any], hidden_states: torch.Tensor) -> Any:
        inner = vars(self.layer).get("_elementwise")
        forward = functools.partial(type(self.layer).forward, self.layer) if inner is None else inner.forward
        return forward(hidden_states, *arguments, **named)


class _ComputedAgain(torch.autograd.Function):
    """A layer whose input alone is kept.

    Unlike torch's `checkpoint` it may hold the input elsewhere, and the second computation may keep less than all.
    Other inputs of the layer must need no gradient, which holds for positions and segments.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        anchor: torch.Tensor,
        run: Callable[[torch.Tensor], torch.Tensor],
        place: int,
        host: Host | None,
    ) -> torch.Tensor:
        """Compute the layer without keeping anything; gradients are off in here."""
        ctx.run, ctx.host, ctx.state = run, host, _State.now(hidden.device)
        if host is None:
            ctx.save_for_backward(hidden)
        else:
            ctx.waiting = host.put(hidden.detach(), place)
        output = run(hidden)
        assert isinstance(output, torch.Tensor), "decoder layers return their hidden states alone"
        return output

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Compute the layer again with gradients, and go through it backward.

        Raises:
            RuntimeError: Gradients are asked for by `torch.autograd.grad`, which would add to `.grad` in here.
        """
        if not torch.autograd._is_checkpoint_valid():
            raise RuntimeError("layers that are computed again in whole need .backward(), not torch.autograd.grad")
        kept = ctx.saved_tensors[0] if ctx.host is None else ctx.host.take(ctx.waiting)
        hidden = kept.detach().requires_grad_(ctx.needs_input_grad[0])
        with torch.enable_grad(), ctx.state.again():
            output = ctx.run(hidden)
        if output.requires_grad:  # not where an adapter has been switched off meanwhile
            torch.autograd.backward(output, gradient)
        return hidden.grad, None, None, None, None


@dataclass(frozen=True)
class _State:
    """What a computation depends on beside its inputs: random numbers, and the types of autocast."""

    device: torch.device
    random: torch.Tensor
    random_of_card: torch.Tensor | None
    autocast: tuple[tuple[str, torch.dtype, bool], ...]

    @classmethod
    def now(cls, device: torch.device) -> _State:
        """Return the present state."""
        kinds = dict.fromkeys(("cpu", device.type))
        autocast = tuple((kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)) for kind in kinds)
        of_card = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(device, torch.get_rng_state(), of_card, autocast)

    def again(self) -> AbstractContextManager[Any]:
        """Return a context in which the state is what it was; afterwards it is what it is now."""
        stack = ExitStack()
        is_card = self.random_of_card is not None
        stack.enter_context(torch.random.fork_rng([self.device] if is_card else [], device_type="cuda"))
        torch.set_rng_state(self.random)
        if self.random_of_card is not None:
            torch.cuda.set_rng_state(self.random_of_card, self.device)
        for kind, dtype, is_on in self.autocast:
            stack.enter_context(torch.autocast(kind, dtype, enabled=is_on))
        return stack


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
        self.patched: list[Any] = []
        self.hooks: list[Any] = []
        for module in list(layer.modules()):
            if type(module).__name__.endswith(NORM):
                module.forward = functools.partial(self._norm, module)
                self.patched.append(module)
            if all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
                self._gated(module)
        layer.forward = self.forward

    def remove(self) -> None:
        """Put the layer back."""
        for module in self.patched:
            del module.forward
        for hook in self.hooks:
            hook.remove()

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Run the layer; with gradients, keep what cannot be computed from what is kept."""
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
