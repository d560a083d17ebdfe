"""The memory of a step, traced without weights: equal to what torch's profiler sees, whatever the kinds of layers."""

from __future__ import annotations

import pytest

from tests.zoo.memory import compare


@pytest.mark.parametrize("model_type", ["llama", "qwen3_moe", "gemma3", "lfm2"], ids=str)
def test_a_traced_step_holds_what_the_profiler_sees(model_type: str) -> None:
    """Attention alone, stacked experts, a text model beside a tower, short convolutions: no formula knows them."""
    result = compare(model_type)
    assert 0.9 < result["predicted"] / result["measured"] < 1.1
