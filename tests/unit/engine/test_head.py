"""Log-probabilities of trained tokens: equal to cross-entropy, value and gradient, whatever the head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from trainer.engine import head as heads
from trainer.engine.head import Logits, Scorer, Targets, log_probs

ROWS, SIZE, VOCABULARY = 150, 16, 211


def parts(*, bias: bool = False, trained: bool = False) -> tuple[torch.nn.Linear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    head = torch.nn.Linear(SIZE, VOCABULARY, bias=bias, dtype=torch.float64).requires_grad_(trained)
    hidden = torch.randn(ROWS, SIZE, dtype=torch.float64, requires_grad=True)
    return head, hidden, torch.randint(0, VOCABULARY, (ROWS,))


def expected(head: torch.nn.Linear, hidden: torch.Tensor, ids: torch.Tensor, logits: Logits) -> torch.Tensor:
    z = head(hidden) * logits.scale
    if logits.softcap:
        z = torch.tanh(z / logits.softcap) * logits.softcap
    return -F.cross_entropy(z, ids, reduction="none")


@pytest.mark.parametrize("logits", [Logits(), Logits(scale=0.3), Logits(softcap=1.5), Logits(scale=2.0, softcap=0.7)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_value_and_gradients_are_those_of_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, logits: Logits, bias: bool, trained: bool
) -> None:
    monkeypatch.setitem(heads.CHUNK_BYTES, "cpu", 1)  # several chunks
    head, hidden, ids = parts(bias=bias, trained=trained)
    weight = torch.linspace(-1, 2, ROWS, dtype=torch.float64)
    leaves = [hidden, *(head.parameters() if trained else ())]
    result = log_probs(head, head.forward, hidden, ids, logits, VOCABULARY)
    truth = expected(head, hidden, ids, logits)
    torch.testing.assert_close(result, truth, rtol=1e-12, atol=1e-12)
    pairs = zip(
        torch.autograd.grad((result.sigmoid() * weight).sum(), leaves),
        torch.autograd.grad((truth.sigmoid() * weight).sum(), leaves),
        strict=True,
    )
    for first, second in pairs:
        torch.testing.assert_close(first, second, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("trained", [False, True])
def test_no_trained_token_gives_zero_and_zero_gradients(trained: bool) -> None:
    head, hidden, ids = parts(trained=trained)
    log_prob = log_probs(head, head.forward, hidden[:0], ids[:0], Logits(), VOCABULARY)
    assert log_prob.shape == (0,)
    loss = log_prob.sum() / torch.tensor(0).clamp(min=1)
    (gradient,) = torch.autograd.grad(loss, [hidden], allow_unused=False)
    assert float(loss) == 0.0 and torch.equal(gradient, torch.zeros_like(hidden))


@pytest.mark.parametrize("trained", [False, True])
def test_logits_are_never_kept(trained: bool) -> None:
    head, hidden, ids = parts(trained=trained)
    sizes: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        log_probs(head, head.forward, hidden, ids, Logits(), VOCABULARY)
    assert sizes and max(sizes) <= max(ROWS * SIZE, VOCABULARY * SIZE) < ROWS * VOCABULARY


def test_half_precision_gives_float32_log_probabilities() -> None:
    head, hidden, ids = parts()
    exact = expected(head, hidden, ids, Logits()).float()
    rows = hidden.detach().bfloat16().requires_grad_()
    result = log_probs(head.bfloat16(), head.forward, rows, ids, Logits(), VOCABULARY)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, exact, rtol=0.02, atol=0.05)
    result.sum().backward()
    assert rows.grad is not None and rows.grad.dtype == torch.bfloat16


def test_autocast_multiplies_in_its_own_type() -> None:
    head, hidden, ids = parts()
    head, rows = head.float(), hidden.detach().float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_prob = log_probs(head, head.forward, rows, ids, Logits(), VOCABULARY)
    halves = log_probs(head.bfloat16(), head.forward, rows.detach().bfloat16(), ids, Logits(), VOCABULARY)
    torch.testing.assert_close(log_prob, halves)
    log_prob.sum().backward()
    assert rows.grad is not None and rows.grad.dtype == torch.float32


def targets() -> Targets:
    owner = torch.tensor([0, 0, 2, 2, 2])
    return Targets(torch.tensor([0, 1, 5, 6, 7]), torch.tensor([3, 4, 5, 6, 7]), owner, torch.tensor([2, 0, 3]))


def test_sums_are_those_of_each_sequence() -> None:
    assert targets().sums(torch.tensor([1.0, 2.0, 10.0, 20.0, 30.0])).tolist() == [3.0, 0.0, 60.0]
    more = targets().with_more(targets())
    assert more.owner.tolist() == [0, 0, 2, 2, 2, 3, 3, 5, 5, 5] and more.lengths.tolist() == [2, 0, 3, 2, 0, 3]


def test_a_scored_model_still_answers_with_logits(tiny_model: Any) -> None:
    ids = torch.arange(8)[None] + 10
    before = tiny_model(input_ids=ids).logits
    scorer = Scorer(tiny_model)
    assert torch.equal(tiny_model(input_ids=ids).logits, before)
    log_prob = tiny_model(input_ids=ids, targets=targets())["log_probs"]
    logs = before[0].log_softmax(-1)
    torch.testing.assert_close(log_prob, logs[targets().positions, targets().ids], rtol=1e-5, atol=1e-5)
    assert torch.equal(tiny_model(input_ids=ids).logits, before)
    scorer.remove()
    assert "forward" not in vars(tiny_model) and torch.equal(tiny_model(input_ids=ids).logits, before)


@pytest.fixture
def tiny_model() -> Any:
    from tests.unit.engine import families

    return families.make("Llama")


def test_dropout_of_an_adapter_on_the_head_is_the_same_in_both_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(heads.CHUNK_BYTES, "cpu", 1)  # several chunks
    head, hidden, ids = parts(trained=True)
    adapted = torch.nn.Sequential(torch.nn.Dropout(0.5), head)

    def gradients() -> tuple[torch.Tensor, ...]:
        torch.manual_seed(1)
        log_prob = log_probs(adapted, adapted.forward, hidden, ids, Logits(), VOCABULARY)
        return torch.autograd.grad(log_prob.sum(), [hidden, *head.parameters()])

    recomputed = gradients()
    monkeypatch.setattr(heads, "checkpoint", lambda function, *arguments, **_: function(*arguments))
    for first, second in zip(recomputed, gradients(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-11, atol=1e-12)
