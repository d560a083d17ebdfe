from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trainer.scoring.generation.likelihood import choice_log_probs

TOKENIZER = SimpleNamespace(pad_token_id=3)
CONTEXTS = [[1, 5, 9], [7], [2, 2, 2, 2, 2, 2]]
CONTINUATIONS = [[[4], [8, 6, 5, 1]], [[3, 3], [11]], [[9, 30, 31], [1, 2]]]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


def one_by_one(model: LlamaForCausalLM, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Add a token at a time, without padding or batches."""
    total, greedy, tokens = 0.0, True, list(context)
    for token in continuation:
        with torch.no_grad():
            scores = model(torch.tensor([tokens])).logits[0, -1].double().log_softmax(-1)
        total += float(scores[token])
        greedy = greedy and int(scores.argmax()) == token
        tokens.append(token)
    return total, greedy


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_batches_give_what_one_token_at_a_time_gives(model: LlamaForCausalLM, batch_size: int) -> None:
    result = choice_log_probs(model, TOKENIZER, CONTEXTS, CONTINUATIONS, batch_size)
    for context, group, scores in zip(CONTEXTS, CONTINUATIONS, result, strict=True):
        for continuation, (score, greedy) in zip(group, scores, strict=True):
            expected = one_by_one(model, context, continuation)
            assert score == pytest.approx(expected[0], abs=1e-5) and greedy is expected[1]


def test_the_greedy_continuation_is_recognised(model: LlamaForCausalLM) -> None:
    with torch.no_grad():
        best = int(model(torch.tensor([CONTEXTS[0]])).logits[0, -1].argmax())
    assert choice_log_probs(model, TOKENIZER, CONTEXTS[:1], [[[best], [best + 1]]], 2)[0][0][1] is True


@pytest.mark.parametrize(("contexts", "continuations"), [([[]], [[[1]]]), ([[1]], [[[]]])])
def test_nothing_to_score_is_an_error(
    model: LlamaForCausalLM, contexts: list[list[int]], continuations: list[list[list[int]]]
) -> None:
    with pytest.raises(ValueError, match="no token"):
        choice_log_probs(model, TOKENIZER, contexts, continuations, 2)
