"""Frozen weights in 8-bit floating point: the error that theory allows, exact algebra, and LoRA that stays its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.unit.engine import families
from trainer.engine import float8, lora
from trainer.engine.float8 import Float8Linear, Float8Weight, difference, hold, on_card, product, refuse, rounded
from trainer.engine.prepare import prepare, release
from trainer.engine.product import LoraProduct
from trainer.errors import HardwareError

CPU = torch.device("cpu")
RELATIVE, ABSOLUTE = 2.0**-4, 2.0**-10
"""Half a step of e4m3: of a normal number with 3 bits of mantissa, and of a subnormal one in units of the scale."""
IDS = torch.randint(3, families.VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(1))
SIZES = [(5, 32, 48), (40, 160, 16), (33, 64, 64)]


def random(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def wide_of(outputs: int, inputs: int) -> torch.Tensor:
    """Return a weight whose rows differ in size by up to 2^16."""
    return random(outputs, inputs, seed=7) * 2.0 ** -torch.arange(outputs).remainder(17)[:, None]


def weight_of(outputs: int, inputs: int) -> Float8Weight:
    return Float8Weight(*rounded(wide_of(outputs, inputs)))


def value(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return codes.double() * scale.double()


def allowed(numbers: torch.Tensor) -> torch.Tensor:
    """Return the largest error of each number that is rounded with its row's scale; float32 rounds it once more."""
    scale = numbers.abs().amax(1, keepdim=True) / 448
    return torch.maximum(RELATIVE * numbers.abs(), ABSOLUTE * scale) * (1 + 1e-5)


def adapted(family: str = "Llama", *, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    model = families.make(family).to(dtype)
    config = LoraConfig(**{"r": 8, "lora_alpha": 12, "target_modules": "all-linear", **settings})
    model = get_peft_model(model, config).train()
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
    logits.float().log_softmax(-1)[..., 7].sum().backward()
    return [logits.detach(), *[weight.grad.clone() for weight in model.parameters() if weight.grad is not None]]


def gap(result: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    assert len(result) == len(expected) > 1
    return max(float((f - e).double().norm() / e.double().norm()) for f, e in zip(result, expected, strict=True))


# Rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("outlier", [1.0, 1e3, 1e6])
def test_each_number_is_off_by_half_a_step_at_most(dtype: torch.dtype, outlier: float) -> None:
    numbers = random(64, 96).to(dtype)
    numbers[:, 0] *= outlier
    error = (value(*rounded(numbers)) - numbers.double()).abs()
    assert (error <= allowed(numbers.double())).all()
    assert float(error.max()) > 0


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1e-30, 1e30, 3e38])
def test_no_scale_is_zero_or_infinite(size: float) -> None:
    numbers = torch.full((2, 16), size)
    codes, scale = rounded(numbers)
    assert torch.isfinite(scale).all() and (scale > 0).all()
    expected = numbers.double()
    # below 448 times the smallest normal float32 the step is that of the scale's own end
    torch.testing.assert_close(value(codes, scale), expected, rtol=RELATIVE, atol=ABSOLUTE * 2.0**-126)


def test_largest_numbers_are_kept_exactly() -> None:
    numbers = random(256, 16)
    result = value(*rounded(numbers))
    at = numbers.abs().argmax(1, keepdim=True)
    torch.testing.assert_close(result.gather(1, at), numbers.double().gather(1, at), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_spoils_its_row_alone(bad: float) -> None:
    x = random(4, 32)
    x[2, 5] = bad
    y = weight_of(16, 32).forward(x)
    assert not torch.isfinite(y[2]).any() and torch.isfinite(y[[0, 1, 3]]).all()


def test_rounding_in_parts_is_rounding_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers, factor = random(50, 32), random(32, seed=1).abs()
    complete = rounded(numbers, factor)
    monkeypatch.setattr(float8, "CHUNK_8BIT", 7 * 32)
    parts = rounded(numbers, factor)
    assert torch.equal(complete[0].float(), parts[0].float()) and torch.equal(complete[1], parts[1])


def test_a_token_does_not_depend_on_the_others() -> None:
    x, weight = random(9, 64), weight_of(48, 64)
    together = weight.forward(x)
    alone = torch.cat([weight.forward(row[None]) for row in x])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


# Products


@pytest.mark.parametrize(("tokens", "inputs", "outputs"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_products_are_within_the_bound_of_rounding(
    tokens: int, inputs: int, outputs: int, dtype: torch.dtype
) -> None:
    weight, exact = weight_of(outputs, inputs), wide_of(outputs, inputs).double()
    x, dy = random(tokens, inputs).to(dtype), random(tokens, outputs, seed=1).to(dtype)
    last = 2.0**-8 if dtype == torch.bfloat16 else 1e-5
    of_w = allowed(exact)
    expected = x.double() @ exact.t()
    of_x = allowed(x.double())
    bound = of_x @ exact.abs().t() + x.double().abs() @ of_w.t() + of_x @ of_w.t()
    error = (weight.forward(x).double() - expected).abs()
    assert (error <= bound + last * (expected.abs() + bound)).all()
    assert float((error / bound).max()) > 0.01  # the bound says something
    # dY is rounded after the weight's scales are in it; the codes alone are what it meets then
    folded = dy.double() * weight.scale[:, 0].double()
    codes = weight.codes.double().abs()
    bound = allowed(folded) @ codes + dy.double().abs() @ of_w
    expected = dy.double() @ exact
    error = (weight.backward(dy).double() - expected).abs()
    assert (error <= bound + last * (expected.abs() + bound)).all()
    assert float((error / bound).max()) > 0.01


def test_scales_on_the_summed_side_are_moved_exactly() -> None:
    weight, dy = weight_of(48, 64), random(9, 48, seed=1).double()
    dense = value(weight.codes, weight.scale)
    moved = (dy * weight.scale[:, 0].double()) @ weight.codes.double()
    torch.testing.assert_close(moved, dy @ dense, rtol=1e-14, atol=1e-16)


def test_without_rounding_of_dy_the_gradient_is_that_of_the_forward_pass() -> None:
    weight = weight_of(48, 64)
    codes = torch.randint(-8, 9, (9, 48), generator=torch.Generator().manual_seed(3)).float()
    codes[:, 0] = 448.0 / 32  # e4m3 holds these numbers and their scale is a power of two
    dy = codes / weight.scale[:, 0]
    expected = dy.double() @ value(weight.codes, weight.scale)
    assert float((weight.backward(dy).double() - expected).norm() / expected.norm()) < 1e-6


def test_gradients_in_e4m3_are_closer_than_in_e5m2() -> None:
    """As measured on real gradients too: with a scale for each token, precision counts and range does not."""
    dy = random(64, 96) * torch.exp(2 * random(64, 96, seed=4))
    gaps = []
    for kind in (torch.float8_e4m3fn, torch.float8_e5m2):
        scale = dy.abs().amax(1, keepdim=True) / torch.finfo(kind).max
        gaps.append(float(((dy / scale).to(kind).float() * scale - dy).norm() / dy.norm()))
    assert gaps[0] < 0.6 * gaps[1]


@pytest.mark.parametrize(("tokens", "inputs", "outputs"), SIZES)
def test_the_products_are_those_of_torchs_kernel(tokens: int, inputs: int, outputs: int) -> None:
    weight = weight_of(outputs, inputs)
    x = rounded(random(tokens, inputs))
    try:
        theirs = on_card(*x, weight.codes, weight.scale)
    except RuntimeError as error:
        pytest.skip(f"this torch has no such product on a CPU: {error}")
    ours = product(*x, weight.codes, weight.scale, torch.float32)
    torch.testing.assert_close(theirs.float(), ours, rtol=2.0**-8, atol=1e-6)


def test_cards_get_the_layouts_that_torch_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[torch.Tensor]] = []
    original = torch._scaled_mm

    def watched(*tensors: torch.Tensor, out_dtype: torch.dtype) -> torch.Tensor:
        with FakeTensorMode():  # torch's own checks of a call on a card
            fake = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cuda") for t in tensors]
            result = original(*fake, out_dtype=out_dtype)
        calls.append(list(tensors))
        return torch.zeros(result.shape, dtype=result.dtype)

    monkeypatch.setattr(torch, "_scaled_mm", watched)
    monkeypatch.setattr(float8, "product", lambda a, s, b, t, dtype: on_card(a, s, b, t).to(dtype))
    weight = weight_of(48, 64)
    assert weight.forward(random(7, 64)).shape == (7, 48)
    assert weight.backward(random(7, 48)).shape == (7, 64)
    with pytest.raises(RuntimeError, match="divisible by 16"):
        weight_of(48, 40).forward(random(7, 40))
    (_, w, _, _), (_, across, _, _) = calls
    assert w.data_ptr() == weight.codes.data_ptr()  # nothing is copied forward
    assert across.stride() == (1, 48)  # by column


# Layers


def in_float8(model: Any) -> Any:
    assert set(hold(model, CPU)) <= {""}
    return model


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Phi3", "Gemma2"])
@pytest.mark.parametrize("autocast", [True, False])
def test_without_rounding_one_product_is_pefts_with_the_rounded_weights(family: str, autocast: bool) -> None:
    plain, model = adapted(family), in_float8(adapted(family))
    for layer, module in zip(_bases(plain), _bases(model), strict=True):
        layer.weight.data = module.frozen().wide(torch.float32)
    lora.switch_on(model)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        theirs = run(plain)
        with float8.without_rounding(model):
            ours = run(model)
        rounded_as_well = run(model)
    limit = 0.05 if autocast else 1e-4
    assert [tensor.dtype for tensor in ours] == [tensor.dtype for tensor in theirs]
    assert gap(ours, theirs) < limit < gap(rounded_as_well, theirs)


def _bases(model: Any) -> list[Any]:
    return [module.get_base_layer() for module in model.modules() if hasattr(module, "lora_A")]


def test_the_start_up_test_is_not_led_astray_by_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    model, lines, observed = in_float8(adapted()), list[str](), list[bool]()
    original = Float8Weight.forward
    monkeypatch.setattr(Float8Weight, "forward", lambda self, x: observed.append(self.rounds) or original(self, x))
    prepare(model, [row.numpy() for row in IDS], attention="auto", say=lines.append)
    assert lines[0] == "train: LoRA in 14 layers in one product" and "no padding" in lines[1]
    assert observed and not any(observed)
    observed.clear()
    release(model.get_base_model())
    run(model)
    assert observed and all(observed)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("switched_on", [True, False], ids=["one product", "PEFT's forward"])
def test_gradients_of_a_layer_use_the_input_as_it_was(biased: bool, switched_on: bool) -> None:
    torch.manual_seed(0)
    model = get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(64, 48, bias=biased)), LoraConfig(r=8, lora_alpha=12, target_modules=["0"])
    )
    layer = model.base_model.model[0]
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    in_float8(model)
    weight = layer.base_layer.frozen()
    if switched_on:
        assert lora.switch_on(model) == {"": 1}
    x, dy = random(3, 5, 64).requires_grad_(), random(3, 5, 48, seed=1)
    y = model(x)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    result = torch.autograd.grad(y, [x, a, b], dy)
    rows, grads = x.detach().reshape(-1, 64).double(), dy.reshape(-1, 48).double()
    small_a, small_b = a.detach().double(), b.detach().double()
    base = weight.forward(rows.float()).double() + (layer.base_layer.bias.double() if biased else 0)
    expected = [
        weight.backward(grads.float()).double() + 1.5 * grads @ small_b @ small_a,
        1.5 * (grads @ small_b).t() @ rows,
        1.5 * grads.t() @ (rows @ small_a.t()),
    ]
    torch.testing.assert_close(
        y.detach().reshape(-1, 48).double(), base + 1.5 * rows @ small_a.t() @ small_b.t(), rtol=1e-5, atol=1e-4
    )
    for first, second in zip(result, expected, strict=True):
        torch.testing.assert_close(first.reshape(second.shape).double(), second, rtol=1e-5, atol=1e-4)


def test_the_base_is_held_in_half_the_memory() -> None:
    model = adapted(dtype=torch.bfloat16)
    layers = [module.get_base_layer() for module in model.modules() if hasattr(module, "get_base_layer")]
    before = sum(layer.weight.nbytes for layer in layers)
    scales = sum(4 * layer.out_features for layer in layers)
    in_float8(model)
    lora.switch_on(model)
    held_layers = [module for module in model.modules() if isinstance(module, Float8Linear)]
    assert len(held_layers) == len(layers)
    tensors = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for layer in held_layers
        for tensor in (*layer.parameters(), *layer.buffers())
    }
    assert sum(tensors.values()) == before // 2 + scales
    assert not any("_lora_block" in vars(module) for module in model.modules())


def test_only_the_input_and_its_small_product_are_kept() -> None:
    model = in_float8(adapted())
    lora.switch_on(model)
    layer, x = model.base_model.model.model.layers[0].mlp.gate_proj, random(7, 64).requires_grad_()
    weights = {weight.data_ptr() for weight in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    assert sum(saved.values()) == 7 * (64 + 8) * 4


def test_disabled_adapters_leave_the_rounded_base() -> None:
    model = in_float8(adapted())
    lora.switch_on(model)
    layer, x = model.base_model.model.model.layers[1].mlp.down_proj, random(7, 96)
    with model.disable_adapter():
        assert torch.equal(layer(x), layer.base_layer.frozen().forward(x))
    assert not torch.equal(layer(x), layer.base_layer.frozen().forward(x))


def test_recomputed_layers_have_the_same_gradients() -> None:
    model = in_float8(adapted())
    model.enable_input_require_grads()
    lora.switch_on(model)
    expected = run(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert gap(run(model), expected) == 0.0


def test_casting_and_moving_a_model_leaves_the_codes_alone() -> None:
    model = in_float8(adapted())
    before = [layer.weight.clone() for layer in model.modules() if isinstance(layer, Float8Linear)]
    model.to(torch.device("cpu")).bfloat16()
    after = [layer.weight for layer in model.modules() if isinstance(layer, Float8Linear)]
    assert before and all(torch.equal(first, second) for first, second in zip(before, after, strict=True))


def test_saved_adapters_are_plain_peft_files_of_the_16_bit_model(tmp_path: Path) -> None:
    model = adapted()
    expected = copy.deepcopy(model).eval()(input_ids=IDS).logits
    in_float8(model)
    lora.switch_on(model)
    model.save_pretrained(str(tmp_path))
    assert not any("scale" in name or "base_layer" in name for name in _names(tmp_path / "adapter_model.safetensors"))
    plain = PeftModel.from_pretrained(families.make("Llama"), str(tmp_path)).eval()
    torch.testing.assert_close(plain(input_ids=IDS).logits, expected, rtol=1e-5, atol=1e-5)


def _names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return list(file.keys())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "DoraLinearVariant"),
        ({"target_modules": ["embed_tokens"]}, "no plain linear layer: Embedding"),
        ({"target_modules": ["lm_head"]}, "it is the output head"),
        ({"bias": "lora_only", "target_modules": ["q_proj"]}, None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_layers_stay_as_they_are_and_the_reason_is_given(settings: dict[str, Any], reason: str | None) -> None:
    model = adapted("Qwen2", **settings)
    expected = run(copy.deepcopy(model))
    counted = hold(model, CPU)
    if reason is None:  # trained biases are no obstacle: they are added to the product
        assert set(counted) == {""} and len(run(model)) == len(expected)
    else:
        assert set(counted) == {reason}
        assert gap(run(model), expected) == 0.0


def test_sizes_that_no_card_multiplies_stay_as_they_are() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 48), torch.nn.Linear(48, 24), torch.nn.Linear(24, 64))
    model = get_peft_model(model, LoraConfig(r=8, target_modules=["0", "1", "2"]))
    counted = hold(model, CPU)
    assert counted == {"": 1, "48 x 24 is no multiple of 16": 1, "24 x 64 is no multiple of 16": 1}
    assert lora.switch_on(model) == {"": 3}
    assert torch.isfinite(model(random(5, 64))).all()


def test_a_training_goes_down_as_it_does_in_float32() -> None:
    losses = []
    for is_float8 in (False, True):
        model = adapted()
        if is_float8:
            in_float8(model)
        lora.switch_on(model)
        optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=3e-3)
        line = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
            loss.backward()
            optimizer.step()
            line.append(float(loss))
        losses.append(line)
    wide, narrow = losses
    assert wide[-1] < 0.5 * wide[0]
    assert abs(narrow[-1] - wide[-1]) < 0.05 * wide[0]


# Cards


@pytest.mark.parametrize(("capability", "passes"), [((8, 0), False), ((8, 6), False), ((8, 9), True), ((9, 0), True)])
def test_cards_before_ada_are_refused(
    capability: tuple[int, int], passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "card")
    monkeypatch.setattr(float8, "difference", lambda _: 0.002)
    if passes:
        refuse(torch.device("cuda", 0))
        return
    with pytest.raises(HardwareError, match=r"needs compute capability 8\.9, card has 8\.\d") as caught:
        refuse(torch.device("cuda", 0))
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("gap", [0.1, float("inf"), float("nan")])
def test_a_card_whose_product_does_not_agree_is_refused(gap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(float8, "difference", lambda _: gap)
    with pytest.raises(HardwareError, match="differs by"):
        refuse(torch.device("cuda", 0))


def test_a_kernel_that_is_missing_or_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> Any:
        raise NotImplementedError("sm_120")

    def transposed(left: Any, left_scale: Any, right: Any, right_scale: Any, dtype: Any) -> Any:
        return product(left, left_scale, right, right_scale.flip(0), dtype)

    for kernel, passes in ((product, True), (missing, False), (transposed, False)):
        calls = iter([product, product, kernel, kernel])  # both products in float32, then both on the card
        monkeypatch.setattr(float8, "product", lambda *arguments, calls=calls: next(calls)(*arguments))
        gap = difference.__wrapped__(CPU)
        assert (gap <= float8.TOLERANCE) == passes


def test_a_layer_goes_through_the_product_that_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = in_float8(adapted())
    lora.switch_on(model)
    calls: list[Any] = []
    original = LoraProduct.apply
    monkeypatch.setattr(
        LoraProduct, "apply", lambda *arguments: calls.append(arguments[4].weight()) or original(*arguments)
    )
    run(model)
    assert len(calls) == 14 and all(isinstance(weight, Float8Weight) for weight in calls)
