"""Which plan is taken: the fastest that fits, by prediction and then by what trying it has shown."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from trainer.model.planning import gpus, planner
from trainer.model.planning.activations import LEVELS
from trainer.model.planning.model_shape import Outline
from trainer.model.planning.planner import MemoryPlan, best, calibrate, candidates
from trainer.model.planning.predictor import RESERVE_CUDA, MicroBatch, Predictor
from trainer.model.planning.step_time import step_seconds
from trainer.recipe import Recipe

GIB = 1 << 30
EIGHT = Outline("llama", 32, 4096, 14336, 32, 8, 128, 128256, is_tied=False, biased=())
H100 = gpus.CARDS["H100-80GB"]


def predictor(**sections: Any) -> Predictor:
    values = {"recipe_version": 1, "name": "plan", "model": {"name_or_path": "x"}, "data": {"sources": [{"path": "x"}]}}
    return Predictor(EIGHT, Recipe.model_validate(values | sections), is_cuda=True)


def plans(card: gpus.Card, *, sizes: tuple[int, ...] = (1,), length: int = 8192, **sections: Any) -> list[MemoryPlan]:
    batches = {size: MicroBatch(size * length, size * length) for size in sizes}
    return candidates(predictor(**sections), batches, max(sizes), card)


def test_mixtures_take_less_memory_each() -> None:
    item = predictor()
    memory = [item.predict(levels, MicroBatch(4096, 4096)) for levels in planner.mixtures(32)]
    assert len(memory) == 97
    assert all(more.peak > less.peak for more, less in itertools.pairwise(memory[:62]))
    # at the very end the one layer that is whole again weighs more than what the last elementwise ones keep
    layer = 4096 * item.layer.kept("none")
    assert all(more.peak + layer >= less.peak for more, less in itertools.pairwise(memory))
    assert memory[-1].peak < memory[0].peak / 2
    assert memory[-1].host == 32 * 4096 * 8192 and memory[64].host == 0


def test_more_recompute_is_slower() -> None:
    item = predictor(adapter={"kind": "qlora"})

    def seconds(levels: Any, *, is_lean: bool = False, tokens: int = 8192, number: int = 1) -> float:
        return step_seconds(item, levels, MicroBatch(tokens, tokens), H100, accumulation=number, is_lean=is_lean)

    by_level = [seconds((level,) * 32) for level in LEVELS]
    assert sorted(by_level) == by_level and len(set(by_level)) == 4
    assert 1.2 < by_level[2] / by_level[0] < 1.6  # 6 operations a weight for 4, attention and head besides
    full = LEVELS[2:3] * 32
    assert seconds(full, is_lean=True) > seconds(full)
    # few tokens a micro-batch: products below their rate, weights dequantised more often
    assert seconds(full, tokens=1024, number=8) > 1.2 * seconds(full)


@pytest.mark.parametrize("gib", range(21, 80, 6))
def test_the_fastest_plan_that_fits_is_taken(gib: int) -> None:
    card = gpus.Card("some", gib * GIB)
    candidates = plans(card, sizes=(1, 2, 4), length=2048)
    choice = best(candidates)
    assert choice.fits and choice.memory.total <= card.memory
    assert all(plan.seconds >= 0.98 * choice.seconds for plan in candidates if plan.fits)


def test_a_micro_batch_has_about_8192_tokens_unless_more_pays() -> None:
    sizes = (1, 2, 4, 8, 16, 32)
    lora = best(plans(H100, sizes=sizes, length=2048))
    assert lora.micro_batch_size * 2048 == 8192 and lora.accumulation == 8
    # 4-bit weights are dequantised in every micro-batch: here a larger one with more recompute is no slower
    qlora = best(plans(H100, sizes=sizes, length=2048, adapter={"kind": "qlora"}))
    assert qlora.fits and qlora.micro_batch_size * 2048 >= 8192
    small = best(plans(gpus.Card("small", 18 * GIB), sizes=sizes, length=2048))
    assert small.fits and small.micro_batch_size == 1


@pytest.mark.parametrize("gib", [18, 19, 20, 22, 24, 32])
def test_no_size_that_does_not_fit_is_taken_while_a_smaller_one_does(gib: int) -> None:
    card = gpus.Card("some", gib * GIB)
    together = best(plans(card, sizes=(1, 2, 4, 8), length=2048))
    assert together.fits == any(best(plans(card, sizes=(size,), length=2048)).fits for size in (1, 2, 4, 8))


def test_inputs_that_the_host_cannot_hold_are_not_sent_there() -> None:
    requested: dict[str, Any] = {"length": 1 << 17, "adapter": {"kind": "qlora"}}
    roomy = best(plans(gpus.Card("some", 38 * GIB), **requested))
    assert roomy.fits and "offload" in roomy.levels and roomy.memory.host == roomy.levels.count("offload") * GIB
    poor = best(plans(gpus.Card("some", 38 * GIB, host_memory=roomy.memory.host - 1), **requested))
    assert not poor.fits


class Simulated:
    """A card on which every pass takes more than predicted, by an unknown number of bytes and an unknown share."""

    def __init__(self, card: gpus.Card, extra: int, share: float = 0.0) -> None:
        self.card, self.extra, self.share = card, extra, share
        self.tried: list[MemoryPlan] = []

    def takes(self, plan: MemoryPlan) -> int:
        return plan.memory.passes + self.extra + int(self.share * plan.memory.activations)

    def run(self, plan: MemoryPlan) -> int | None:
        self.tried.append(plan)
        return self.takes(plan) if self.takes(plan) <= self.card.memory - RESERVE_CUDA else None

    def best(self, result: list[MemoryPlan]) -> MemoryPlan:
        return next(plan for plan in result if self.takes(plan) + plan.memory.reserve <= self.card.memory)


@pytest.mark.parametrize("gib", [24, 32, 48, 80])
@pytest.mark.parametrize("extra", [number * GIB // 4 for number in range(-8, 17)])
def test_a_card_with_an_unknown_overhead_ends_at_the_best_plan(gib: int, extra: int) -> None:
    card = gpus.Card("some", gib * GIB)
    candidates = plans(card, sizes=(1, 2, 4, 8), length=2048)
    simulated = Simulated(card, extra)
    choice = calibrate(candidates, simulated.run).final_plan()
    assert choice == simulated.best(candidates)
    assert len(simulated.tried) <= planner.PROBES
    assert len(set(simulated.tried)) == len(simulated.tried)


@pytest.mark.parametrize("share", [-0.2, -0.1, -0.03, 0.0, 0.03, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("gib", [24, 40, 80])
def test_errors_that_grow_with_the_plan_still_end_at_one_that_ran(gib: int, share: float) -> None:
    card = gpus.Card("some", gib * GIB)
    candidates = plans(card, sizes=(1, 2, 4, 8), length=2048)
    simulated = Simulated(card, GIB // 4, share)
    choice = calibrate(candidates, simulated.run).final_plan()
    assert choice in simulated.tried and simulated.takes(choice) <= card.memory - RESERVE_CUDA
    assert choice.seconds <= (1.15 if abs(share) <= 0.1 else 1.4) * simulated.best(candidates).seconds


def test_a_plan_as_predicted_is_tried_once() -> None:
    candidates = plans(H100, sizes=(1, 2, 4, 8), length=2048)
    simulated = Simulated(H100, 0)
    assert calibrate(candidates, simulated.run).final_plan() == best(candidates) and simulated.tried == [
        best(candidates)
    ]


def test_where_nothing_runs_the_most_sparing_plan_is_left() -> None:
    candidates = plans(gpus.Card("tiny", 10 * GIB), sizes=(1, 2), length=2048)
    calibration = calibrate(candidates, lambda _: None)
    assert len(set(calibration.failed)) == len(calibration.failed) <= planner.PROBES
    assert calibration.final_plan().memory.total == min(plan.memory.total for plan in candidates)
