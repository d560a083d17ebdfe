"""Bytes that one LoRA linear layer moves, operation by operation, as a share of its base layer's product alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.engine import lora

TOKENS = 512
VIEWS = {"t", "view", "detach", "_unsafe_view", "alias", "transpose", "slice", "expand", "as_strided", "new_empty"} | {
    "set_"
}


class Traffic(TorchDispatchMode):
    """Adds up what every operation reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in VIEWS:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def shares(inputs: int, outputs: int, *, ours: bool) -> tuple[float, float]:
    """Return forward, and forward and backward together, under bfloat16 autocast with float32 adapters."""
    layer = torch.nn.Sequential(torch.nn.Linear(inputs, outputs, bias=False)).bfloat16()
    model = get_peft_model(layer, LoraConfig(r=16, target_modules=["0"]))
    if ours:
        assert lora.switch_on(model) == {"": 1}
    x = torch.randn(TOKENS, inputs).bfloat16().requires_grad_()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    grad = torch.randn(TOKENS, outputs).bfloat16()
    product = 2 * (TOKENS * inputs + inputs * outputs + TOKENS * outputs)
    with Traffic() as traffic:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = model(x)
        forward = traffic.bytes
        torch.autograd.grad(y, [x, *trained], grad)
    return forward / product, traffic.bytes / 2 / product


@pytest.mark.parametrize(
    ("widths", "limit"), [((256, 896), 2.3), ((896, 256), 2.3), ((256, 256), 2.6), ((256, 64), 2.5)]
)
def test_few_bytes_are_moved(widths: tuple[int, int], limit: float) -> None:
    forward, both = shares(*widths, ours=True)
    assert forward < 2.3 and both < limit
    their_forward, their_both = shares(*widths, ours=False)
    assert their_forward > 5 and their_both > 2 * both
