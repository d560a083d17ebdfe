"""Compiled layers are the layers: where they are not, or cannot be, nothing changes."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch._dynamo.utils import counters

from tests.unit.engine import families
from trainer.engine import compile, recompute
from trainer.engine.batch import Batch, filled, of_rows
from trainer.engine.compile import NotCompiled, try_on
from trainer.engine.prepare import prepare

RANDOM = np.random.default_rng(0)
ROWS = [(RANDOM.integers(3, families.VOCABULARY, size), np.ones(size, dtype=np.uint8)) for size in (40, 17, 25)]


@pytest.fixture(autouse=True)
def fresh() -> Any:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def adapted(family: str = "Llama", **changes: Any) -> tuple[Any, Any]:
    """Return a model with a fresh adapter, and its engine."""
    torch.manual_seed(0)
    settings = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(families.make(family, **changes), settings).train()
    return model, prepare(model, [ids for ids, _ in ROWS], attention="auto", say=lambda _: None)


def batch_of(rows: Any = ROWS, width: int = 0) -> Batch:
    return filled(of_rows([rows], "flat", 0), width, 0)


def loss_of(model: Any, engine: Any, batch: Batch) -> torch.Tensor:
    loss: torch.Tensor = -engine.score(model, batch)[0].mean()
    return loss


def gradients(model: Any, loss: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


def compiled(model: Any, engine: Any, *, is_static: bool = True, backend: str = "aot_eager") -> int:
    loss = functools.partial(loss_of, model, engine, batch_of())
    return try_on(model, loss, dtype=torch.float32, is_static=is_static, backend=backend)


def same(result: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(result) == len(expected) > 5
    for a, b in zip(result, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def both_ways(family: str, backend: str, **changes: Any) -> None:
    model, engine = adapted(family, **changes)
    plain, same_engine = adapted(family, **changes)
    assert compiled(model, engine, backend=backend) == changes.get("num_hidden_layers", 2)
    assert counters["stats"]["unique_graphs"] > 0
    losses = [loss_of(first, second, batch_of()) for first, second in ((model, engine), (plain, same_engine))]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    same(gradients(model, losses[0]), gradients(plain, losses[1]))


SLOW = [pytest.param(family, marks=pytest.mark.slow) for family in ("Phi3", "Gemma2")]


@pytest.mark.parametrize("family", ["Llama", "Qwen3", *SLOW])
def test_losses_and_gradients_stay_the_same(family: str) -> None:
    both_ways(family, "aot_eager")


@pytest.mark.slow
def test_losses_and_gradients_stay_the_same_in_code_that_inductor_writes() -> None:
    both_ways("Llama", "inductor")


def test_all_layers_share_their_graphs() -> None:
    graphs = []
    for layers in (2, 4):  # the first layer has a graph of its own: its input has no gradient
        torch._dynamo.reset()
        counters.clear()
        model, engine = adapted(num_hidden_layers=layers)
        compiled(model, engine)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] > 0


def test_packs_filled_up_to_one_length_compile_nothing_anew() -> None:
    model, engine = adapted()
    compiled(model, engine)
    before = counters["stats"]["unique_graphs"]
    width = sum(len(ids) for ids, _ in ROWS)
    for rows in (ROWS[:1], ROWS[1:], ROWS[:2]):
        gradients(model, loss_of(model, engine, batch_of(rows, width)))
    assert counters["stats"]["unique_graphs"] == before
    gradients(model, loss_of(model, engine, batch_of(ROWS[:2])))
    assert counters["stats"]["unique_graphs"] > before


@pytest.mark.slow
def test_batches_of_any_length_share_their_graphs_too() -> None:
    model, engine = adapted()
    compiled(model, engine, is_static=False)
    before = counters["stats"]["unique_graphs"]
    plain, same_engine = adapted()
    for rows in (ROWS[:1], ROWS[1:], ROWS[:2]):
        result = gradients(model, loss_of(model, engine, batch_of(rows)))
        same(result, gradients(plain, loss_of(plain, same_engine, batch_of(rows))))
    assert counters["stats"]["unique_graphs"] == before


def test_what_fills_a_pack_up_changes_nothing() -> None:
    model, engine = adapted()
    results = []
    for width in (0, 128):
        loss = loss_of(model, engine, batch_of(width=width))
        results.append([loss.detach(), *gradients(model, loss)])
    assert batch_of(width=128)["inputs"]["input_ids"].shape == (1, 128)
    for result, expected in zip(*results, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("level", ["full", "elementwise"])
def test_recomputed_layers(level: Any) -> None:
    model, engine = adapted()
    recompute.apply(model, (level, "none"))
    plain, same_engine = adapted()
    assert compiled(model, engine) == 1
    result = gradients(model, loss_of(model, engine, batch_of()))
    same(result, gradients(plain, loss_of(plain, same_engine, batch_of())))


def test_the_comparison_leaves_weights_gradients_and_random_numbers_alone() -> None:
    model, engine = adapted()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    compiled(model, engine)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def miscompiled(graph: Any, inputs: Any) -> Any:
    """Stand for a compiler that forgets a tenth of every product."""
    for node in list(graph.graph.nodes):
        if "mul" in str(node.target):
            with graph.graph.inserting_after(node):
                less = graph.graph.call_function(torch.mul, (node, 0.9))
            node.replace_all_uses_with(less, delete_user_cb=lambda user, new=less: user is not new)
    graph.recompile()
    return graph.forward


def broken(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no C++ compiler")


@pytest.mark.parametrize(("backend", "why"), [(miscompiled, "gradients differ by"), (broken, "no C\\+\\+ compiler")])
def test_a_compiler_that_is_wrong_or_fails_is_not_used(backend: Any, why: str) -> None:
    model, engine = adapted()
    expected = loss_of(model, engine, batch_of())
    with pytest.raises(NotCompiled, match=why):
        compiled(model, engine, backend=backend)
    assert torch.equal(loss_of(model, engine, batch_of()), expected)
    assert all(layer._compiled_call_impl is None for layer in recompute.decoder_layers(model))


def test_other_releases_of_torch_and_dropout_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [compile.is_tested(version) for version in ("2.10.1", "2.11.0", "2.13.0+cpu", "2.14.0", "3.0")] == [
        False,
        True,
        True,
        False,
        False,
    ]
    model, engine = adapted(attention_dropout=0.25)
    with pytest.raises(NotCompiled, match=r"dropout 0\.25"):
        compiled(model, engine)
    with monkeypatch.context() as context, pytest.raises(NotCompiled, match="spread over processes"):
        context.setenv("ACCELERATE_USE_FSDP", "true")
        compiled(model, engine)
    monkeypatch.setattr(compile, "TESTED", ((2, 1), (2, 2)))
    with pytest.raises(NotCompiled, match=r"2\.1 to 2\.2 are known"):
        compiled(model, engine)
