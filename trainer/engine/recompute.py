"""Set how much of each decoder layer is kept for the backward pass, and how much is computed a second time.

    level        kept of a layer h -> norm -> q k v -> attention -> o -> + h -> norm -> gate up -> act * up -> down -> +
    none         everything
    elementwise  h, results of matrix products and attention; norms, activations and products with the gate are
                 computed again from them, without a matrix product
    full         h; the layer is computed again and then keeps everything until its backward pass, or, in a lean plan,
                 as much as elementwise
    offload      as full, and h waits in the host's memory

Each layer has its own level. All levels compute the same operations on the same values, so gradients are the same bit
for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import torch
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle
from transformers.modeling_layers import GradientCheckpointingLayer

from trainer.engine import current
from trainer.engine.offload import Host
from trainer.engine.segments import Segments
from trainer.model.planning.activations import WHOLE, Level

NORM = "RMSNorm"
"""End of the class names of norms that depend on their input alone."""


class NotRecomputed(Exception):
    """The model has no layers that can be computed again."""


def apply(model: torch.nn.Module, levels: Sequence[Level], *, is_lean: bool = False) -> None:
    """Give each decoder layer its level, the first layer first.

    Args:
        model: From transformers, with or without adapters.
        levels: Of all layers.
        is_lean: Layers at level full or offload keep as much as elementwise in their second pass, and dequantise 4-bit
            weights once more.

    Raises:
        NotRecomputed: The number of layers that transformers can recompute is another one.
    """
    layers = decoder_layers(model)
    if len(layers) != len(levels):
        raise NotRecomputed(f"{len(layers)} layers can be recomputed, the plan has {len(levels)}")
    remove(model)
    host = Host()
    products: dict[object, bool] = {}
    for index, (layer, level) in enumerate(zip(layers, levels, strict=True)):
        if level == "elementwise" or (level in WHOLE and is_lean):
            layer._elementwise = _Elementwise(layer, products)
        if level in WHOLE:
            layer.forward = _LayerFromInput(layer, index, host if level == "offload" else None)
            layer._reuses_weights = not is_lean


def remove(model: torch.nn.Module) -> None:
    """Set level none for all layers."""
    for layer in decoder_layers(model):
        layer.gradient_checkpointing = False
        if "_elementwise" in vars(layer):
            layer._elementwise.remove()
            del layer._elementwise
        for name in ("forward", "_reuses_weights"):
            vars(layer).pop(name, None)


def decoder_layers(model: torch.nn.Module) -> list[GradientCheckpointingLayer]:
    """Return the layers that transformers can compute again, in order."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


class _LayerFromInput:
    """Forward function of a layer at level full or offload."""

    def __init__(self, layer: GradientCheckpointingLayer, index: int, host: Host | None) -> None:
        self.layer = layer
        self.index = index
        self.host = host

    def __call__(self, hidden_states: torch.Tensor, *arguments: object, **keywords: object) -> torch.Tensor:
        run = functools.partial(self._run, arguments, keywords)
        layer = self.layer
        learns = hidden_states.requires_grad or any(weight.requires_grad for weight in layer.parameters())
        if not (layer.training and torch.is_grad_enabled() and learns):
            return run(hidden_states)
        # an output requires a gradient only if an input does; the input of the first layer does not
        anchor = hidden_states.new_empty(0, requires_grad=True)
        output: torch.Tensor = _ComputedAgain.apply(hidden_states, anchor, run, self.index, self.host)
        return output

    def _run(
        self, arguments: tuple[object, ...], keywords: dict[str, object], hidden_states: torch.Tensor
    ) -> torch.Tensor:
        inner = vars(self.layer).get("_elementwise")
        forward = functools.partial(type(self.layer).forward, self.layer) if inner is None else inner.forward
        output: torch.Tensor = forward(hidden_states, *arguments, **keywords)
        return output


class _ComputedAgain(torch.autograd.Function):
    """A layer of which only the input is kept.

    Unlike torch's `checkpoint`, the input may wait on the host, and the second pass may keep less than everything.
    Other inputs of the layer must not require gradients, which is true of positions and segments.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden: torch.Tensor,
        anchor: torch.Tensor,
        run: Callable[[torch.Tensor], torch.Tensor],
        index: int,
        host: Host | None,
    ) -> torch.Tensor:
        """Compute the layer; autograd saves nothing in here."""
        # dropout must draw the same numbers in the second pass
        ctx.run, ctx.host, ctx.state = run, host, _State.now(hidden.device)
        if host is None:
            ctx.save_for_backward(hidden)
        else:
            ctx.waiting = host.put(hidden.detach(), index)
        output = run(hidden)
        assert isinstance(output, torch.Tensor), "decoder layers return their hidden states alone"
        return output

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Compute the layer again with gradients, then its backward pass.

        Raises:
            RuntimeError: Called by `torch.autograd.grad`, which must not add to `.grad` as this does.
        """
        if not torch.autograd._is_checkpoint_valid():
            raise RuntimeError("layers that are computed again in whole need .backward(), not torch.autograd.grad")
        saved = ctx.saved_tensors[0] if ctx.host is None else ctx.host.take(ctx.waiting)
        hidden = saved.detach().requires_grad_(ctx.needs_input_grad[0])
        with torch.enable_grad(), ctx.state.restored():
            output = ctx.run(hidden)
        if output.requires_grad:  # false where an adapter has been switched off since
            torch.autograd.backward(output, gradient)
        return hidden.grad, None, None, None, None


@dataclass(frozen=True)
class _State:
    """State that a computation depends on beside its inputs: random numbers, types of autocast, rows of the batch."""

    device: torch.device
    random: torch.Tensor
    random_of_card: torch.Tensor | None
    autocast: tuple[tuple[str, torch.dtype, bool], ...]
    segments: Segments | None

    @classmethod
    def now(cls, device: torch.device) -> _State:
        """Return the present state."""
        kinds = dict.fromkeys(("cpu", device.type))
        autocast = tuple((kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)) for kind in kinds)
        of_card = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(device, torch.get_rng_state(), of_card, autocast, current.segments())

    def restored(self) -> AbstractContextManager[ExitStack]:
        """Return a context with this state; afterwards the present state is back."""
        stack = ExitStack()
        is_card = self.random_of_card is not None
        stack.enter_context(torch.random.fork_rng([self.device] if is_card else [], device_type="cuda"))
        torch.set_rng_state(self.random)
        if self.random_of_card is not None:
            torch.cuda.set_rng_state(self.random_of_card, self.device)
        for kind, dtype, is_on in self.autocast:
            stack.enter_context(torch.autocast(kind, dtype, enabled=is_on))
        stack.enter_context(current.of(self.segments))
        return stack


@dataclass
class _Again:
    """A tensor that is computed again from saved ones."""

    function: Callable[..., torch.Tensor]
    inputs: tuple[torch.Tensor, ...]
    autocast: torch.dtype | None
    uses: int = 0
    """Uses in the backward pass that are still to come."""
    value: torch.Tensor | None = None

    def take(self) -> torch.Tensor:
        """Compute the tensor at its first use, keep it until the last one."""
        value = self.value
        if value is None:
            device = self.inputs[0].device.type
            with torch.no_grad(), torch.autocast(device, self.autocast, enabled=self.autocast is not None):
                value = self.function(*self.inputs)
        self.uses -= 1
        self.value = value if self.uses > 0 else None
        return value


class _Elementwise:
    """Forward function of a layer at level elementwise.

    Autograd saves tensors through `_pack`. A tensor that `_note` has registered is replaced by the recipe to compute it
    again; it is identified by its address, which stays its own because `noted` holds the tensor until the layer ends.
    """

    def __init__(self, layer: GradientCheckpointingLayer, products: dict[object, bool]) -> None:
        """Take a layer, and what is known of the model's gated blocks: whether each kind computes the plain product."""
        self.layer = layer
        self.products = products
        self.noted: dict[int, tuple[torch.Tensor, int, _Again]] = {}
        self.is_on = False
        self.patched: list[torch.nn.Module] = []
        self.hooks: list[RemovableHandle] = []
        for module in list(layer.modules()):
            if type(module).__name__.endswith(NORM):
                module.forward = functools.partial(self._norm, module)
                self.patched.append(module)
            if all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
                self._gated(module)
        layer.forward = self.forward

    def remove(self) -> None:
        """Restore the layer."""
        for module in self.patched:
            del module.forward
        for hook in self.hooks:
            hook.remove()

    def forward(self, *arguments: object, **keywords: object) -> torch.Tensor:
        """Run the layer; with gradients, save only tensors that are not noted."""
        forward: Callable[..., torch.Tensor] = type(self.layer).forward
        if not (self.layer.training and torch.is_grad_enabled()):
            return forward(self.layer, *arguments, **keywords)
        self.is_on = True
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack):
                return forward(self.layer, *arguments, **keywords)
        finally:
            self.is_on = False
            self.noted.clear()

    def _norm(self, module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        original = functools.partial(type(module).forward, module)
        if not self.is_on:
            result: torch.Tensor = original(x)
            return result
        # autograd keeps x alone, not the norm's own intermediate results; norms draw no random numbers
        y: torch.Tensor = checkpoint(original, x, use_reentrant=False, preserve_rng_state=False)
        self._note(y, original, x)
        return y

    def _gated(self, mlp: torch.nn.Module) -> None:
        """Note the activation and the product of down(act(gate(x)) * up(x)): both follow from gate(x) and up(x)."""
        if not isinstance(mlp.act_fn, torch.nn.Module):
            return
        outputs: dict[str, torch.Tensor] = {}

        def after_act(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if self.is_on:
                outputs.update(gate=inputs[0].detach(), act=output.detach())
                self._note(output, type(module).forward.__get__(module), inputs[0])

        def after_up(_: torch.nn.Module, __: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if self.is_on:
                outputs.update(up=output.detach())

        def before_down(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if self.is_on and len(outputs) == 3:
                gate, act, up = (outputs.pop(name) for name in ("gate", "act", "up"))
                kind = _kind(mlp)
                if kind not in self.products:  # a model may compute more than this product; the host waits for it once
                    self.products[kind] = act.shape == up.shape and torch.equal(inputs[0], act * up)
                if self.products[kind]:
                    again = type(mlp.act_fn).forward.__get__(mlp.act_fn)
                    self._note(inputs[0], lambda g, u: again(g) * u, gate, up)

        self.hooks += [
            mlp.act_fn.register_forward_hook(after_act),
            mlp.up_proj.register_forward_hook(after_up),
            mlp.down_proj.register_forward_pre_hook(before_down),
        ]

    def _note(self, tensor: torch.Tensor, function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> None:
        """Register a tensor with the function and inputs that compute it again."""
        device = tensor.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        again = _Again(function, tuple(saved.detach() for saved in inputs), autocast)
        alias = tensor.detach()
        self.noted[alias.data_ptr()] = (alias, alias._version, again)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor | tuple[_Again, torch.Size]:
        noted, version, again = self.noted.get(tensor.data_ptr(), (None, 0, None))
        if noted is None or again is None or not _same(noted, version, tensor):
            return keep(tensor)
        again.uses += 1
        return again, tensor.shape


def _kind(mlp: torch.nn.Module) -> tuple[object, ...]:
    """Return what decides how a gated block computes: its code and its settings."""
    settings = [(name, value) for name, value in vars(mlp).items() if isinstance(value, (bool, int, float, str))]
    return type(mlp), type(mlp.act_fn), *sorted(settings)


def _same(noted: torch.Tensor, version: int, tensor: torch.Tensor) -> bool:
    """Tell whether a tensor holds the values that were noted: not a part of them, and not changed in place."""
    return (
        noted.numel() == tensor.numel()
        and noted.dtype == tensor.dtype
        and noted.is_contiguous()
        and tensor.is_contiguous()
        and noted._version == version
    )


def keep(tensor: torch.Tensor) -> torch.Tensor:
    """Return the saved form of a tensor that is not computed again."""
    return tensor.detach()


def _unpack(packed: torch.Tensor | tuple[_Again, torch.Size]) -> torch.Tensor:
    if isinstance(packed, torch.Tensor):
        return packed
    again, shape = packed
    return again.take().view(shape)
