"""Rounding: seeded, unbiased, chosen by what survives; and the dequantised base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.unit.export import merging
from trainer.errors import HardwareError
from trainer.export.merge import FourBit, MergePlan, merge_streaming, replay
from trainer.export.merge.rounding import rounded


def silent(_: str) -> None:
    pass


def stochastic(values: torch.Tensor, dtype: torch.dtype, seed: int = 0, name: str = "w") -> torch.Tensor:
    return rounded(values, dtype, seed=seed, name=name, block=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [0.1, -0.3, 1.0e-5, -7.0e-8, 1.999])
def test_stochastic_rounding_is_unbiased_and_goes_to_a_neighbour(dtype: torch.dtype, value: float) -> None:
    exact = torch.full((40_000,), value)
    actual = stochastic(exact, dtype)
    below, above = sorted(set(actual.double().tolist())) if actual.unique().numel() == 2 else (None, None)
    assert below is not None and below < float(exact[0]) < above
    step, share = above - below, (float(exact[0]) - below) / (above - below)
    middle = torch.tensor((below + above) / 2).to(dtype).double()
    assert float(middle) in (below, above)  # nothing lies between them
    error = abs(float(actual.double().mean()) - float(exact[0])) / step
    assert error < 5 * (share * (1 - share) / exact.numel()) ** 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stochastic_rounding_keeps_what_the_type_holds(dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, -0.0, 1.0, -2.5, 6.1e-5, 2.0**-24, float("inf"), float("nan")])
    values = values.to(dtype).float()
    assert torch.equal(stochastic(values, dtype)[:-1].float(), values[:-1])
    assert torch.isnan(stochastic(values, dtype)[-1])


def test_the_bits_depend_on_seed_and_name_alone() -> None:
    values = torch.randn(5000) / 3
    first = stochastic(values, torch.bfloat16)
    assert torch.equal(first, stochastic(values, torch.bfloat16))
    assert not torch.equal(first, stochastic(values, torch.bfloat16, seed=1))
    assert not torch.equal(first, stochastic(values, torch.bfloat16, name="v"))


def small_update(folder: Path, dtype: torch.dtype = torch.bfloat16) -> tuple[Path, Path]:
    """An adapter whose update is mostly below half a step of bfloat16, as after a short run."""
    base = merging.make_base(folder / "base", dtype=dtype)
    return base, merging.make_adapter(folder / "adapter", base, scale=0.004)


def merge(folder: Path, adapter: Path, target: Path, **plan: Any) -> Any:
    return merge_streaming(folder, [(adapter, 1.0)], target, MergePlan(**plan), silent)


def test_auto_rounds_stochastically_where_little_would_survive(tmp_path: Path) -> None:
    base, adapter = small_update(tmp_path)
    nearest = merge(base, adapter, tmp_path / "nearest", rounding="nearest")
    auto = merge(base, adapter, tmp_path / "auto")
    assert nearest.survival["median"] < 0.9 and nearest.rounding == "nearest"
    assert auto.rounding == "stochastic" and auto.nearest_survival == pytest.approx(nearest.survival["median"])
    assert 0.9 < auto.survival["median"] < 1.1 and auto.survival["lowest"] > nearest.survival["lowest"]
    assert replay(base, [(adapter, 1.0)], tmp_path / "auto", MergePlan()).equal


def test_auto_rounds_to_nearest_where_the_update_survives(tmp_path: Path) -> None:
    base = merging.make_base(tmp_path / "base", dtype=torch.bfloat16)
    adapter = merging.make_adapter(tmp_path / "adapter", base, scale=0.2)
    report = merge(base, adapter, tmp_path / "auto")
    assert report.rounding == "nearest" and report.survival["lowest"] > 0.9
    assert report.nearest_survival == pytest.approx(report.survival["median"])


def test_survival_is_the_share_of_the_update_in_the_file(tmp_path: Path) -> None:
    base, adapter = small_update(tmp_path)
    report = merge(base, adapter, tmp_path / "merged", rounding="nearest")
    exact = merging.peft_merged(base, [(adapter, 1.0)], tmp_path / "peft")
    before, after = merging.weights(base), merging.weights(tmp_path / "merged")
    shares = []
    for name, weight in exact.items():
        update = weight.double() - before[name].double()
        if update.any():
            shares.append(float(((after[name].double() - before[name].double()) * update).sum() / (update**2).sum()))
    assert report.survival["mean"] == pytest.approx(sum(shares) / len(shares), abs=1e-6)
    assert report.survival["lowest"] == pytest.approx(min(shares), abs=1e-6)


def test_float32_keeps_everything(tmp_path: Path) -> None:
    base, adapter = small_update(tmp_path)
    report = merge(base, adapter, tmp_path / "merged", dtype="float32")
    assert report.survival["lowest"] == pytest.approx(1.0, abs=1e-6) and report.rounding == "nearest"


def test_the_same_bytes_on_any_number_of_shards(tmp_path: Path) -> None:
    base, adapter = small_update(tmp_path)
    item = merge(base, adapter, tmp_path / "one", rounding="stochastic", seed=7)
    many = merge(base, adapter, tmp_path / "many", rounding="stochastic", seed=7, max_shard_gb=2e-5)
    assert len(item.shards) == 1 and len(many.shards) > 3
    first, second = merging.weights(tmp_path / "one"), merging.weights(tmp_path / "many")
    assert set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)
    merging.reopened(tmp_path / "many")


def test_a_weight_beyond_float16_is_named(tmp_path: Path) -> None:
    base = merging.make_base(tmp_path / "base")
    merging.rewrite(base / "model.safetensors", lambda actual: actual["model.norm.weight"].mul_(1e6))
    adapter = merging.make_adapter(tmp_path / "adapter", base)
    with pytest.raises(HardwareError, match=r"model\.norm\.weight reaches 1e\+06, .*6\.55e\+04"):
        merge(base, adapter, tmp_path / "merged", dtype="float16")


@pytest.mark.parametrize(("quant_type", "double_quant"), [("nf4", True), ("fp4", False)])
def test_the_dequantised_base_is_what_bitsandbytes_computes_with(
    quant_type: Any, double_quant: bool, tmp_path: Path
) -> None:
    base = merging.make_base(tmp_path / "base", dtype=torch.bfloat16, tie_word_embeddings=False)
    adapter = merging.make_adapter(tmp_path / "adapter", base, target_modules=["q_proj"])
    settings = FourBit(quant_type, double_quant)
    merge(base, adapter, tmp_path / "merged", base="dequantised", four_bit=settings, rounding="nearest")
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=quant_type, bnb_4bit_use_double_quant=double_quant
    )
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.bfloat16)
    before, actual, quantised = merging.weights(base), merging.weights(tmp_path / "merged"), 0
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None or f"{name}.weight" not in actual or "q_proj" in name:
            continue
        is_packed = type(module).__name__ == "Linear4bit"
        expected = dequantize_4bit(weight.data, weight.quant_state) if is_packed else before[f"{name}.weight"]
        assert torch.equal(actual[f"{name}.weight"], expected.reshape(actual[f"{name}.weight"].shape)), name
        quantised += is_packed
    assert quantised == 12
    plan = MergePlan(base="dequantised", four_bit=settings, rounding="nearest")
    assert replay(base, [(adapter, 1.0)], tmp_path / "merged", plan).equal
