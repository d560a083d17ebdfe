"""Estimate the time of a step, to compare plans: operations at the card's rate, and bytes that no operation hides.

    seconds = accumulation * (operations / rate + bytes / bandwidth + waits)
    rate    = flops * tokens / (tokens + HALF_RATE)

No card reaches the rates of its data sheet.

Source of the counts of operations: 2 for each weight and token forward, as many for the gradient of the input, as many
again for the gradient of a trained weight (https://arxiv.org/abs/2001.08361, section 2.1).
"""

from __future__ import annotations

from collections.abc import Sequence

from trainer.model.planning.activations import WHOLE, Level
from trainer.model.planning.gpus import Card
from trainer.model.planning.predictor import MicroBatch, Predictor

TYPICAL_FLOPS, TYPICAL_BANDWIDTH = 312e12, 2.0e12
"""Of a card that is not in the table: only the ratio matters when plans are compared. An A100's."""
HALF_RATE = 256
"""Tokens of a micro-batch at which products run at half their rate: an estimate."""
DEQUANTISED_BYTES = 2.52
"""Read and written for each 4-bit weight that is turned into 16 bits."""
NORM_BYTES, GATE_BYTES = 68, 14
"""Read and written in 16 bits for each number of the hidden state by two norms, operation by operation as transformers
has them, and for each number of the gated layer by two activations and a product."""
HOST_BANDWIDTH = 25e9
"""Bytes a second between page-locked memory and a card: 16 lanes of PCIe 4.0 less their protocol."""


def step_seconds(
    predictor: Predictor, levels: Sequence[Level], batch: MicroBatch, card: Card, *, accumulation: int, is_lean: bool
) -> float:
    """Return the seconds of an optimizer step of one process whose micro-batches are all of this size.

    Args:
        predictor: Of the recipe on the model.
        levels: Of each decoder layer.
        batch: The micro-batch.
        card: Its rates, or a typical card's where they are not known.
        accumulation: Micro-batches of a step.
        is_lean: Layers computed again in whole compute norms and activations a third time, and dequantise once more.
    """
    flops, bandwidth = card.flops or TYPICAL_FLOPS, card.bandwidth or TYPICAL_BANDWIDTH
    rate = flops * batch.tokens / (batch.tokens + HALF_RATE)
    seconds = _operations(predictor, levels, batch) / rate + _bytes(predictor, levels, batch, is_lean) / bandwidth
    return accumulation * (seconds + _waits(predictor, levels, batch, rate))


def _operations(predictor: Predictor, levels: Sequence[Level], batch: MicroBatch) -> float:
    outline, context = predictor.outline, predictor.recipe.pack.max_length
    passes = 6 if predictor.adapter is None else 4  # frozen weights need no gradient of their own
    again = 2 * _num_recomputed(levels) / len(levels)
    attention = (7 + again) * outline.layers * outline.query * context  # causal: half of all pairs, 2.5 times backward
    head = passes * outline.vocabulary * outline.hidden
    return batch.tokens * ((passes + again) * outline.linear_weights + attention) + batch.trained * head


def _bytes(predictor: Predictor, levels: Sequence[Level], batch: MicroBatch, is_lean: bool) -> float:
    """Count what is moved by recomputed norms and activations, and by dequantising weights."""
    outline = predictor.outline
    # constants are of 16-bit numbers: half of them for 8 bits, twice for 32
    elementwise = (NORM_BYTES * outline.hidden + GATE_BYTES * outline.intermediate) * predictor.kinds.product / 2
    num_recomputed = _num_recomputed(levels)
    moved = elementwise * batch.tokens * (levels.count("elementwise") + num_recomputed * (2 if is_lean else 1))
    if predictor.four_bit is not None and not predictor.is_dequantised:
        times = 2 + (num_recomputed / len(levels) if is_lean else 0)
        moved += times * DEQUANTISED_BYTES * outline.linear_weights
    return moved


def _waits(predictor: Predictor, levels: Sequence[Level], batch: MicroBatch, rate: float) -> float:
    """Return the seconds by which copies to the host and back outlast the layers that they run beside."""
    outline, num_offloaded = predictor.outline, levels.count("offload")
    if not num_offloaded:
        return 0.0
    copy = predictor.layer.kept("full") * batch.tokens / HOST_BANDWIDTH  # seconds for one input, either way
    forward = 2 * outline.linear_weights / outline.layers * batch.tokens / rate
    # a copy out runs beside a forward pass, a copy back beside a backward pass, which takes twice as long
    return num_offloaded * (max(0.0, copy - forward) + max(0.0, copy - 2 * forward) + 0.02 * copy)


def _num_recomputed(levels: Sequence[Level]) -> int:
    return sum(levels.count(level) for level in WHOLE)
