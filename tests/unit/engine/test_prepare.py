"""What each family of models can use, and that what it cannot use is left out with a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.unit.engine import families
from trainer.engine.batch import of_pairs, of_rows
from trainer.engine.prepare import Engine, prepare, release

ROWS = [np.random.default_rng(0).integers(3, families.VOCABULARY, size) for size in (40, 17, 25)]
PAIRS = [(ROWS[0][:20], ROWS[0][20:], ROWS[1]), (ROWS[2][:5], ROWS[2][5:9], ROWS[1][:3])]


def prepared(family: str, **changes: Any) -> tuple[Any, Any, list[str]]:
    model, lines = families.make(family, **changes), list[str]()
    return model, prepare(model, ROWS, attention="auto", say=lines.append), lines


def pair_results(model: Any, engine: Any, layout: Any) -> list[torch.Tensor]:
    """Return the answers' log-probabilities and the gradients of a DPO-like loss."""
    batch = of_pairs(PAIRS, layout, 0)
    log_probs, _ = engine.score(model, batch)
    sums = batch["targets"].sums(log_probs)
    loss = -torch.nn.functional.logsigmoid(0.1 * (sums[0::2] - sums[1::2])).sum()
    model.zero_grad()
    loss.backward()
    return [sums.detach(), *(weight.grad.clone() for weight in model.parameters() if weight.grad is not None)]


@pytest.mark.parametrize("family", [*families.COVERED, *families.RECURRENT])
def test_flat_batches_with_shared_prefixes_are_the_model_itself(family: str) -> None:
    model, engine, lines = prepared(family)
    assert engine.layout == engine.packed_layout == "flat" and engine.scorer is not None, lines
    flat = pair_results(model, engine, "flat")
    release(model)  # its own attention, its own logits
    padded = pair_results(model, Engine("padded", None, None, None), "padded")
    assert len(flat) == len(padded) > 5
    for result, expected in zip(flat, padded, strict=True):
        size = float(expected.abs().max()) or 1.0
        torch.testing.assert_close(result / size, expected / size, rtol=0, atol=1e-3)


@pytest.mark.parametrize("family", families.FALLBACKS)
def test_other_models_fall_back_to_padding_and_say_so(family: str) -> None:
    model, engine, lines = prepared(family)
    assert engine.layout in ("padded", "masked") and any("rows are padded" in line for line in lines), lines
    batch = of_rows([[(row, np.ones(len(row), dtype=np.uint8))] for row in ROWS], engine.layout, 0)
    result, _ = engine.score(model, batch)
    alone = []
    fresh = families.make(family)
    for row in ROWS:
        logs = fresh(input_ids=torch.from_numpy(row)[None]).logits[0].log_softmax(-1)
        alone.append(logs[:-1].gather(1, torch.from_numpy(row)[1:, None])[:, 0])
    torch.testing.assert_close(result, torch.cat(alone), rtol=1e-3, atol=1e-3)


def test_an_attention_that_the_recipe_names_is_left_in_place() -> None:
    model, lines = families.make("Llama"), list[str]()
    engine = prepare(model, ROWS, attention="eager", say=lines.append)
    assert engine.layout == "padded" and engine.packed_layout == "positions"
    assert "model.attn_implementation is eager" in lines[-1]


def test_only_models_that_look_at_padding_are_given_a_mask() -> None:
    model = families.make("Llama")
    assert prepare(model, ROWS, attention="sdpa", say=lambda _: None).layout == "padded"
    results = [pair_results(model, Engine("padded", None, None, None), layout) for layout in ("padded", "masked")]
    for result, expected in zip(*results, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    routed = families.make("Mixtral", router_aux_loss_coef=0.1)
    assert prepare(routed, ROWS, attention="sdpa", say=lambda _: None).layout == "masked"


def test_a_model_is_prepared_twice_as_once() -> None:
    model, first, _ = prepared("Llama")
    batch = of_rows([[(row, np.ones(len(row), dtype=np.uint8)) for row in ROWS]], "flat", 0)
    before, _ = first.score(model, batch)
    second = prepare(model, ROWS, attention="auto", say=lambda _: None)
    assert torch.equal(second.score(model, batch)[0], before)
    release(model)
    assert model.config._attn_implementation == "sdpa" and "forward" not in vars(model)


def test_a_routers_loss_is_kept() -> None:
    model, engine, _ = prepared("Mixtral")
    rows = [(row, np.ones(len(row), dtype=np.uint8)) for row in ROWS[:1]]
    _, router = engine.score(model, of_rows([rows], "flat", 0))
    fresh = families.make("Mixtral")
    router_loss = fresh(input_ids=torch.from_numpy(ROWS[0])[None], output_router_logits=True).aux_loss
    assert float(router_loss) > 0
    torch.testing.assert_close(router, router_loss)


def test_half_precision_passes_the_probe() -> None:
    model, lines = families.make("Llama").bfloat16(), list[str]()
    assert prepare(model, ROWS, attention="auto", say=lines.append).layout == "flat", lines


def test_the_probe_notices_attention_that_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.engine import attention
    from trainer.engine.segments import Segment, Segments

    original = attention.by_segment

    def leaking(q: Any, k: Any, v: Any, segments: Any, **options: Any) -> torch.Tensor:
        return original(q, k, v, Segments.of([Segment(0, q.shape[2])]), **options)

    monkeypatch.setattr(attention, "by_segment", leaking)
    model, engine, lines = prepared("Llama")
    assert engine.layout == "padded" and "do not agree" in lines[-1]
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("rope", "limit"),
    [
        ({"rope_type": "default"}, None),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, None),
        ({"rope_type": "dynamic", "factor": 4.0}, 512),
        (
            {
                "rope_type": "longrope",
                "factor": 4.0,
                "short_factor": [1.0] * 8,
                "long_factor": [4.0] * 8,
                "original_max_position_embeddings": 128,
            },
            128,
        ),
    ],
    ids=lambda value: value["rope_type"] if isinstance(value, dict) else "",
)
def test_rows_beyond_the_rope_limit_turn_their_neighbours(rope: dict[str, Any], limit: int | None) -> None:
    from trainer.engine.prepare import rope_limit

    model = families.make("Llama", rope_parameters={"rope_theta": 10000.0, **rope})
    assert rope_limit(model.config) == limit
    ids = torch.randint(3, 97, (1, 600))

    def row_of_20_beside(length: int) -> torch.Tensor:
        positions = torch.cat([torch.arange(20), torch.arange(length)])[None]
        turned: torch.Tensor = model.model.rotary_emb(ids.float(), positions)[0][:, :20]
        return turned.clone()

    if limit is not None:
        assert torch.equal(row_of_20_beside(limit), row_of_20_beside(20))
        assert not torch.equal(row_of_20_beside(limit + 1), row_of_20_beside(20))
    else:
        assert torch.equal(row_of_20_beside(580), row_of_20_beside(20))


@pytest.mark.parametrize(
    ("dropout", "line"),
    [
        (0.0, "train: LoRA in 14 layers in one product"),
        (0.1, "train: LoRA in 14 layers by PEFT's own forward: dropout"),
    ],
)
def test_what_computes_the_adapters_is_said(dropout: float, line: str) -> None:
    config = LoraConfig(r=8, lora_dropout=dropout, target_modules="all-linear")
    model, lines = get_peft_model(families.make("Llama"), config), list[str]()
    prepare(model, ROWS, attention="auto", say=lines.append)
    assert line in lines


@pytest.mark.parametrize("part", ["_forward_below", "_backward_below"])
def test_adapters_that_do_not_agree_are_left_to_peft(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.engine import product

    original = getattr(product, part)

    def wrong(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        wide, narrow = original(*arguments)
        return wide * 1.1, narrow

    monkeypatch.setattr(product, part, wrong)
    model = get_peft_model(families.make("Llama"), LoraConfig(r=8, target_modules=["q_proj", "down_proj", "k_proj"]))
    lines = list[str]()
    prepare(model, ROWS, attention="auto", say=lines.append)
    assert any("LoRA in 6 layers by PEFT's own forward: one product does not agree" in line for line in lines), lines
    assert not any("forward" in vars(module) for module in model.modules() if hasattr(module, "lora_A"))
    assert lines[-1].startswith("train: no padding")


@pytest.mark.parametrize(("autocast", "uses_block"), [(torch.bfloat16, True), (None, False)])
def test_adapters_are_tested_in_the_types_of_the_training(
    autocast: torch.dtype | None, uses_block: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.engine import product

    calls = set[str]()

    def noted(name: str) -> Any:
        original = getattr(product, name)
        return lambda *arguments: calls.add(name) or original(*arguments)

    for name in (*(block := ("_forward_below", "_backward_beside")), *(plain := ("_forward", "_backward"))):
        monkeypatch.setattr(product, name, noted(name))
    settings = LoraConfig(r=8, target_modules="all-linear")
    model = get_peft_model(families.make("Llama").bfloat16(), settings)  # PEFT makes adapters in float32
    before = [weight.detach().clone() for weight in model.parameters()]
    prepare(model, ROWS, attention="auto", say=lambda _: None, autocast=autocast)
    assert calls == set(block if uses_block else plain)
    assert all(weight.grad is None for weight in model.parameters())
    assert all(map(torch.equal, model.parameters(), before))


@pytest.mark.parametrize("kind", ["head", "attention"])
def test_a_wrong_gradient_switches_a_part_off(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.engine import attention, head

    original = head._gradient if kind == "head" else attention.by_segment
    scores = torch.tensor(0.5)

    def wrong(*arguments: Any, **keywords: Any) -> torch.Tensor:
        result: torch.Tensor = original(*arguments, **keywords)
        return result * scores if kind == "head" else result * scores + (result * (1 - scores)).detach()

    monkeypatch.setattr(*(head, "_gradient") if kind == "head" else (attention, "by_segment"), wrong)
    model, lines = families.make("Llama"), list[str]()
    for name, weight in model.named_parameters():
        weight.requires_grad_("proj" in name)  # the gathered head takes a frozen head
    engine = prepare(model, ROWS, attention="auto", say=lines.append)
    assert any("do not agree: gradients" in line or "does not agree: gradients" in line for line in lines), lines
    assert (engine.scorer is None) == (kind == "head") and (engine.layout == "padded") == (kind == "attention")
