"""LoRA layers as one product: PEFT's results and gradients, on PEFT's modules."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.checkpoint import checkpoint

from tests.unit.engine import families
from tests.unit.engine.closeness import errors, gap
from trainer.engine import lora
from trainer.engine.product import Frozen, FrozenBlock, LoraProduct

FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 16},
    "Mistral": {"sliding_window": 8},
    "Gemma": {"head_dim": 16},
    "Gemma2": {},
    "Phi": {},
    "Phi3": {},
    "SmolLM3": {},
}
IDS = torch.randint(3, families.VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(1))


def adapted(family: str = "Llama", *, dtype: torch.dtype = torch.float64, **settings: Any) -> Any:
    """Return a model of the family with an adapter that does something."""
    model = families.make(family, **FAMILIES.get(family, {})).to(dtype)
    config = LoraConfig(**{"r": 8, "lora_alpha": 12, "target_modules": "all-linear", **settings})
    return fill(get_peft_model(model, config)).train()


def fill(model: Any) -> Any:
    torch.manual_seed(2)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return model


def run(model: Any) -> list[torch.Tensor]:
    """Return logits and the gradient of every trained weight."""
    model.zero_grad()
    logits = model(input_ids=IDS, use_cache=False).logits
    logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)[..., 7].sum().backward()
    gradients = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    return [logits.detach(), *gradients]


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Size]]:
    """Give the shapes that went through the product."""
    calls: list[torch.Size] = []
    original = LoraProduct.apply

    def counted(x: torch.Tensor, *arguments: Any) -> torch.Tensor:
        calls.append(x.shape)
        result: torch.Tensor = original(x, *arguments)
        return result

    monkeypatch.setattr(LoraProduct, "apply", counted)
    yield calls


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_peft_in_float64(family: str, products: list[torch.Size]) -> None:
    model = adapted(family)
    expected = run(model)
    counted = lora.switch_on(model)
    assert set(counted) == {""} and counted[""] >= 8
    result = run(model)
    assert len(products) == counted[""]
    assert gap(result, expected) < 1e-12


@pytest.mark.parametrize("widths", [(24, 64), (64, 24), (32, 32)], ids=["wider", "narrower", "square"])
@pytest.mark.parametrize("blocked", [True, False], ids=["block", "plain"])
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
def test_values_and_gradients_are_those_of_three_products(widths: tuple[int, int], blocked: bool, biased: bool) -> None:
    torch.manual_seed(0)
    inputs, outputs = widths
    weight, bias = torch.randn(outputs, inputs).double(), torch.randn(outputs).double() if biased else None
    leaves = [torch.randn(*size).double().requires_grad_() for size in ((3, 5, inputs), (4, inputs), (outputs, 4))]
    base = Frozen(lambda: weight, bias, FrozenBlock(weight, 4) if blocked else None, False)
    x, a, b = leaves
    result = LoraProduct.apply(x, a, b, 1.7, base, torch.float64, torch.float64)
    linear = torch.nn.functional.linear
    expected = linear(x, weight, bias) + 1.7 * linear(linear(x, a), b)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(result, expected, rtol=1e-13, atol=1e-13)
    for first, second in zip(
        torch.autograd.grad(result, leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True
    ):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


def test_only_the_input_and_its_small_product_are_kept() -> None:
    model = adapted()
    layer = model.base_model.model.model.layers[0].mlp.gate_proj
    x = torch.randn(7, 64).double().requires_grad_()
    weights = {weight.data_ptr() for weight in model.parameters()}

    def kept(act: Callable[[], Any]) -> int:
        saved: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.untyped_storage().data_ptr() not in weights:
                saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            act()
        return sum(saved.values())

    lora.switch_on(model)
    assert kept(lambda: layer(x)) == 7 * (64 + 8) * 8


@pytest.mark.parametrize("widths", [(48, 160), (160, 48), (96, 96)], ids=["wider", "narrower", "square"])
@pytest.mark.parametrize("mode", ["autocast", "float32 adapter", "bfloat16 adapter"])
@pytest.mark.parametrize("scaling", [1.5, 2.0])
def test_half_precision_is_no_worse_than_peft(widths: tuple[int, int], mode: str, scaling: float) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(*widths)).bfloat16()
    config = LoraConfig(r=8, lora_alpha=8 * scaling, target_modules=["0"])
    peft = fill(get_peft_model(model, config, autocast_adapter_dtype=mode != "bfloat16 adapter"))
    x = torch.randn(2000, widths[0]).bfloat16().requires_grad_()
    grad = torch.randn(2000, widths[1]).bfloat16()

    def results(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode == "autocast" and x.dtype == torch.bfloat16):
            y = model(x)
        return [y.detach(), *torch.autograd.grad(y, [x, *trained], grad.to(y.dtype))]

    exact = results(copy.deepcopy(peft).double(), x.detach().double().requires_grad_())
    theirs = results(peft, x)
    assert lora.switch_on(peft) == {"": 1}
    ours = results(peft, x)
    assert [tensor.dtype for tensor in ours] == [tensor.dtype for tensor in theirs]
    for our, their in zip(errors(ours, exact), errors(theirs, exact), strict=True):
        assert our < 1.05 * their  # a tie is decided by chance


@pytest.mark.parametrize("autocast", [True, False])
def test_a_model_in_half_precision_keeps_pefts_types(autocast: bool) -> None:
    model = adapted(dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        theirs = run(model)
        lora.switch_on(model)
        ours = run(model)
    assert [tensor.dtype for tensor in ours] == [tensor.dtype for tensor in theirs]
    assert gap(ours, theirs) < 0.05


def test_float32_weights_under_autocast_keep_pefts_types() -> None:
    model = adapted(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs = run(model)
        lora.switch_on(model)
        ours = run(model)
    assert [tensor.dtype for tensor in ours] == [tensor.dtype for tensor in theirs]
    exact = run(adapted())
    assert gap(ours, exact) < 1.1 * gap(theirs, exact)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"lora_dropout": 0.1}, "dropout"),
        ({"use_dora": True}, "DoraLinearVariant"),
        ({"lora_bias": True, "target_modules": ["q_proj"]}, "a bias in the adapter"),
        ({"bias": "lora_only", "target_modules": ["q_proj"]}, "the base layer is trained as well"),
        ({"target_modules": ["embed_tokens"]}, "no linear layer: Embedding"),
        ({"target_modules": ["lm_head"]}, "it is the output head"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_adapters_go_through_peft_and_the_reason_is_given(
    settings: dict[str, Any], reason: str, products: list[torch.Size]
) -> None:
    model = adapted("Qwen2", **settings)
    if settings.get("target_modules") == ["lm_head"]:
        model.get_output_embeddings().weight.requires_grad_(False)
    torch.manual_seed(3)
    expected = run(model)
    counted = lora.switch_on(model)
    assert set(counted) == {reason}
    torch.manual_seed(3)
    assert gap(run(model), expected) == 0.0 and not products


def test_dropout_is_off_in_evaluation(products: list[torch.Size]) -> None:
    model = adapted(lora_dropout=0.1).eval()
    expected = model(input_ids=IDS).logits
    lora.switch_on(model.eval())
    torch.testing.assert_close(model(input_ids=IDS).logits, expected, rtol=1e-12, atol=1e-12)


def test_disabled_adapters_are_the_base_model() -> None:
    model = adapted()
    base = copy.deepcopy(model).unload()(input_ids=IDS).logits
    lora.switch_on(model)
    with model.disable_adapter():
        assert torch.equal(model(input_ids=IDS).logits, base)
    assert not torch.equal(model(input_ids=IDS).logits, base)


def test_adapters_may_be_switched_between_forward_and_backward() -> None:
    model = adapted()
    model.add_adapter("second", LoraConfig(r=8, lora_alpha=3, target_modules="all-linear"))
    fill(model)
    lora.switch_on(model)

    def gradients(between: bool) -> list[torch.Tensor]:
        model.zero_grad()
        model.set_adapter("default")
        loss = model(input_ids=IDS).logits.square().mean()
        if between:
            model.set_adapter("second")
            with torch.no_grad():
                model(input_ids=IDS)
            model.set_adapter("default")
        loss.backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    alone = gradients(between=False)
    assert gap(gradients(between=True), alone) == 0.0
    model.set_adapter("second")
    results = run(model)
    lora.switch_off(model)
    assert gap(results, run(model)) < 1e-12


def test_two_active_adapters_and_other_ranks_are_pefts() -> None:
    model = adapted()
    model.add_adapter("second", LoraConfig(r=3, target_modules=["q_proj", "down_proj"]))
    fill(model)
    lora.switch_on(model)
    for active in (["default", "second"], ["second"], ["default"]):
        model.base_model.set_adapter(active)
        result = run(model)
        lora.switch_off(model)
        expected = run(model)
        lora.switch_on(model)
        assert gap(result, expected) < 1e-12


def test_merged_and_unmerged_weights_stay_right() -> None:
    model = adapted().eval()
    lora.switch_on(model)
    before = model(input_ids=IDS).logits
    for safe in (False, True):  # the safe way puts new weights where the block was
        model.merge_adapter(safe_merge=safe)
        torch.testing.assert_close(model(input_ids=IDS).logits, before, rtol=1e-9, atol=1e-9)
        model.unmerge_adapter()
        torch.testing.assert_close(model(input_ids=IDS).logits, before, rtol=1e-9, atol=1e-9)


def test_weights_that_are_moved_are_read_where_they_are() -> None:
    model = adapted()
    lora.switch_on(model)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = module.weight.data * 2
    results = run(model)
    lora.switch_off(model)
    assert gap(results, run(model)) < 1e-12


def test_recomputed_layers_have_the_same_gradients(products: list[torch.Size]) -> None:
    model = adapted()
    model.enable_input_require_grads()  # as recomputation does: the first layers' inputs then get a gradient as well
    lora.switch_on(model)
    expected = run(model)
    count = len(products)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert gap(run(model), expected) == 0.0
    assert len(products) > 2 * count  # every layer ran once more


def test_saved_adapters_are_plain_peft_files(tmp_path: Path) -> None:
    model = adapted(dtype=torch.float32)
    lora.switch_on(model)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    run(model)
    optimizer.step()
    logits = model.eval()(input_ids=IDS).logits
    model.save_pretrained(str(tmp_path))
    plain = PeftModel.from_pretrained(families.make("Llama"), str(tmp_path)).eval()
    torch.testing.assert_close(plain(input_ids=IDS).logits, logits, rtol=1e-4, atol=1e-5)


def test_frozen_adapters_pass_the_gradient_of_their_input() -> None:
    model = adapted()
    for weight in model.parameters():
        weight.requires_grad_(False)
    x = torch.randn(2, 5, 64).double().requires_grad_()

    def gradient() -> torch.Tensor:
        output = model(inputs_embeds=x, use_cache=False).logits
        return torch.autograd.grad(output.square().mean(), x)[0]

    expected = gradient()
    lora.switch_on(model)
    torch.testing.assert_close(gradient(), expected, rtol=1e-11, atol=1e-13)


def test_a_hook_on_a_layer_is_still_called(products: list[torch.Size]) -> None:
    model = adapted(target_modules=["q_proj"])
    lora.switch_on(model)
    calls: list[int] = []
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    layer.base_layer.register_forward_hook(lambda *_: calls.append(1))
    model(input_ids=IDS)
    assert calls == [1] and len(products) == 1


def test_switching_twice_is_switching_once() -> None:
    model = adapted()
    expected = run(model)
    for _ in range(2):
        lora.switch_on(model)
    assert gap(run(model), expected) < 1e-12
    lora.switch_off(model)
    assert gap(run(model), expected) < 1e-15
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_function_that_is_checkpointed_by_hand_works() -> None:
    model = adapted()
    lora.switch_on(model)
    layer = model.base_model.model.model.layers[0].mlp
    x = torch.randn(1, 5, 64).double().requires_grad_()
    plain = torch.autograd.grad(layer(x).sum(), x)[0]
    again = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).sum(), x)[0]
    assert torch.equal(plain, again)
