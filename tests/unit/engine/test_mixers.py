"""Recurrent modules keep the rows of a flat batch apart, whatever their class."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from tests.unit.engine import families
from trainer.engine import current, mixers
from trainer.engine.batch import of_rows
from trainer.engine.prepare import prepare
from trainer.engine.recompute import apply
from trainer.engine.segments import Segment, Segments

LENGTHS = (40, 17, 3, 25, 1, 30)
ROWS = [np.random.default_rng(1).integers(3, families.VOCABULARY, size) for size in LENGTHS]


def batch_of(rows: Any) -> Any:
    return of_rows([[(row, np.ones(len(row), dtype=np.uint8)) for row in rows]], "flat", 0)


def scored(engine: Any, model: Any, rows: Any) -> list[torch.Tensor]:
    """Return log-probabilities, and the gradient of every weight."""
    model.zero_grad()
    log_probs, _ = engine.score(model, batch_of(rows))
    log_probs.sum().backward()
    return [log_probs.detach(), *(weight.grad.clone() for weight in model.parameters() if weight.grad is not None)]


@pytest.mark.parametrize("family", families.RECURRENT)
def test_packed_rows_are_the_rows_alone(family: str) -> None:
    model, said = families.make(family), list[str]()
    engine = prepare(model, ROWS[:3], attention="auto", say=said.append)
    assert engine.packed_layout == "flat" and any("recurrent" in line for line in said), said
    packed, *gradients = scored(engine, model, ROWS)
    alone = [scored(engine, model, [row]) for row in ROWS if len(row) > 1]
    torch.testing.assert_close(packed, torch.cat([of_row[0] for of_row in alone]), rtol=1e-5, atol=2e-4)
    for index, gradient in enumerate(gradients, start=1):
        expected = sum(of_row[index] for of_row in alone)
        assert float((gradient - expected).norm()) <= 1e-3 * float(expected.norm()) + 1e-5


@pytest.mark.parametrize("family", ["Lfm2", "Qwen3_5", "Mamba"])
def test_another_row_changes_nothing(family: str) -> None:
    model = families.make(family)
    engine = prepare(model, ROWS[:3], attention="auto", say=lambda _: None)
    with torch.no_grad():
        before, _ = engine.score(model, batch_of(ROWS[:3]))
        after, _ = engine.score(model, batch_of([ROWS[0], ROWS[1][::-1].copy(), ROWS[2]]))
    first, second, _ = (len(row) - 1 for row in ROWS[:3])
    assert torch.equal(before[:first], after[:first]) and torch.equal(before[first + second :], after[first + second :])
    assert not torch.equal(before, after)


def test_recomputed_layers_keep_rows_apart() -> None:
    model = families.make("Qwen3_5")
    engine = prepare(model, ROWS[:3], attention="auto", say=lambda _: None)
    model.train()
    expected = scored(engine, model, ROWS)
    for level in ("elementwise", "full", "offload"):
        apply(model, [level, level])  # type: ignore[list-item]
        assert all(map(torch.equal, expected, scored(engine, model, ROWS)))


class Smoothed(GradientCheckpointingLayer):
    """A layer whose inner module mixes tokens; `borders` says whether it honours the borders of rows."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.linear(hidden + self.inner(hidden_states=hidden)[0])


class Sums(torch.nn.Module):
    """Running sums, from the start of each row where the borders arrive."""

    def forward(self, hidden_states: torch.Tensor, **keywords: Any) -> tuple[torch.Tensor, torch.Tensor]:
        starts = keywords.get("cu_seq_lens_q")
        parts = [hidden_states] if starts is None else hidden_states.split(starts.diff().tolist(), 1)
        if starts is not None:
            assert keywords["seq_idx"][0].bincount().tolist() == starts.diff().tolist()
        return torch.cat([part.cumsum(1) for part in parts], 1), hidden_states.sum(1)


class Backwards(torch.nn.Module):
    """Sums over the rest of the sequence: no way of computing it keeps padding out."""

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor]:
        return (hidden_states.flip(1).cumsum(1).flip(1),)


class Deaf(Sums):
    """Takes the borders, and does not honour them."""

    def forward(self, hidden_states: torch.Tensor, **keywords: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(hidden_states)


SPANS = [Segment(0, 5), Segment(5, 7, 0, 3), Segment(7, 8), Segment(8, 12)]


def expected_sums(hidden: torch.Tensor) -> torch.Tensor:
    rows = [torch.cat([hidden[s.prefix_low : s.prefix_high], hidden[s.low : s.high]]).cumsum(0) for s in SPANS]
    return torch.cat([row[span.prefix_high - span.prefix_low :] for row, span in zip(rows, SPANS, strict=True)])


@pytest.mark.parametrize(("inner", "way"), [(Sums(), "kernels"), (Deaf(), "lines")])
def test_a_module_is_chosen_by_what_it_does(inner: torch.nn.Module, way: Any) -> None:
    layer = Smoothed(inner).double()
    hidden = torch.randn(1, 12, 4, dtype=torch.float64)
    with torch.no_grad(), current.of(Segments.of([Segment(0, 5), Segment(5, 12)])):
        recurrent = mixers.switch_on(layer_in(layer), lambda: layer(hidden))
    assert recurrent.modules == Counter({(way, type(inner).__name__): 1})
    with current.of(Segments.of(SPANS)):  # a rejected answer continues its prompt
        sums, state = inner(hidden_states=hidden)
    torch.testing.assert_close(sums[0], expected_sums(hidden[0]))
    assert state is None
    assert torch.equal(inner(hidden_states=hidden)[0], hidden.cumsum(1))  # lines of a padded batch
    mixers.switch_off(layer_in(layer))
    assert "forward" not in vars(inner)


def layer_in(layer: torch.nn.Module) -> torch.nn.Module:
    return torch.nn.ModuleList([layer])
