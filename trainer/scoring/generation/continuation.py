"""Continue padded rows with a model's own `generate`, or compute whole rows again where that cannot be trusted.

Some models keep no state between tokens (the first GPT), some keep one of a wrong shape, and some do not see that a row
is padded on the left (RWKV). A few tokens show it: `generate` on two padded rows must give the logits of whole rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from trainer.engine.prepare import difference
from trainer.scoring.generation.continuous_batching import without_shell

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

Choose: TypeAlias = Callable[[torch.Tensor, int], torch.Tensor]
"""((B, V) logits, number of the step) -> (B,) chosen tokens."""
Continue: TypeAlias = "Callable[[PreTrainedModel | PeftModel, Sequence[list[int]], Choose, Ends], list[list[int]]]"
PROBE_LENGTHS = (5, 3)
STATES = ("past_key_values", "cache_params", "state")
"""Names under which a forward pass takes what earlier tokens left behind."""


class Ends:
    """What ends an answer.

    Args:
        stop_ids: Tokens that end it.
        max_new_tokens: Longest answer.
        pad_id: Fills rows up; any token.
    """

    def __init__(self, stop_ids: Sequence[int], max_new_tokens: int, pad_id: int) -> None:
        self.stop_ids = sorted(stop_ids)
        self.max_new_tokens = max_new_tokens
        self.pad_id = pad_id


def argmax(logits: torch.Tensor, step: int) -> torch.Tensor:
    """Choose the most likely tokens."""
    return logits.argmax(-1)


def way_of(model: PreTrainedModel | PeftModel) -> tuple[Continue, str | None]:
    """Return how rows are continued with a model, and why not by its own `generate`."""
    reason = _problem(model)
    return (generated, None) if reason is None else (whole_rows, reason)


def generated(
    model: PreTrainedModel | PeftModel, prompts: Sequence[list[int]], choose: Choose, ends: Ends
) -> list[list[int]]:
    """Answer with the model's own `generate`, whatever its cache is like; return the tokens after each prompt.

    A token of `ends.stop_ids` may stand in an answer; what follows it means nothing.
    """
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), ends.pad_id)  # (B, S), padded on the left
    mask = torch.zeros_like(ids)
    for index, prompt in enumerate(prompts):
        ids[index, width - len(prompt) :] = torch.tensor(prompt)
        mask[index, width - len(prompt) :] = 1
    device = next(model.parameters()).device
    with torch.no_grad():
        output = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=ends.max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=1.0,
            use_cache=True,
            eos_token_id=ends.stop_ids,
            pad_token_id=ends.pad_id,
            logits_processor=LogitsProcessorList([_Chosen(width, choose)]),
        )
    answers: list[list[int]] = output[:, width:].tolist()
    return answers


def whole_rows(
    model: PreTrainedModel | PeftModel, prompts: Sequence[list[int]], choose: Choose, ends: Ends
) -> list[list[int]]:
    """Answer as `generated` does, but compute all tokens of all rows for each new one.

    Rows are filled up on the right: in a causal model nothing before sees that, so no mask is needed.
    """
    rows = [list(prompt) for prompt in prompts]
    alive = [True] * len(rows)
    base = without_shell(model)
    device = next(model.parameters()).device
    keeps = "logits_to_keep" in inspect.signature(base.forward).parameters
    for step in range(ends.max_new_tokens):
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.full((len(rows), int(lengths.max())), ends.pad_id)  # (B, S)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        last = lengths - 1  # (B,)
        positions, columns = last.unique(return_inverse=True) if keeps else (None, last)
        keywords: dict[str, torch.Tensor] = (
            {} if positions is None else {"logits_to_keep": positions.to(device)}
        )  # (B, S, V) may not fit into memory
        with torch.no_grad():
            logits = base(input_ids=ids.to(device), use_cache=False, **keywords).logits
        tokens = choose(logits[torch.arange(len(rows)), columns.to(logits.device)], step).tolist()
        for index, token in enumerate(tokens):
            if alive[index]:
                rows[index].append(token)
                alive[index] = token not in ends.stop_ids
        if not any(alive):
            break
    return [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]


class _Chosen(LogitsProcessor):
    """Makes `generate` take the same token as a loop would."""

    def __init__(self, width: int, choose: Choose) -> None:
        self.width = width
        self.choose = choose

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Rule out all tokens but the chosen one."""
        tokens = self.choose(scores, input_ids.shape[1] - self.width)
        # (B, V): 0 for the chosen token, minus infinity for all others, so that greedy decoding takes it
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


def _problem(model: PreTrainedModel | PeftModel) -> str | None:
    """Return why `generate` cannot be trusted; None where two padded rows get the logits of whole rows."""
    base = without_shell(model)
    if not set(STATES) & set(inspect.signature(base.forward).parameters):
        return f"{type(base).__name__} keeps nothing between tokens"
    prompts = [list(range(1, length + 1)) for length in PROBE_LENGTHS]
    ends = Ends([0], 2, 0)
    expected = torch.cat(list(_logits(model, prompts, whole_rows, ends)))
    try:
        logits = torch.cat(list(_logits(model, prompts, generated, ends)))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of the model's own code: any type
        return f"{type(base).__name__}: {error}".splitlines()[0]
    gap = difference(logits.float().log_softmax(-1), expected.float().log_softmax(-1), base.dtype)
    return None if gap is None else f"a row that is padded on the left is answered otherwise than alone ({gap})"


def _logits(
    model: PreTrainedModel | PeftModel, prompts: Sequence[list[int]], way: Continue, ends: Ends
) -> Iterator[torch.Tensor]:
    """Yield the (B, V) logits of each step, for the tokens 1, 2, ..."""
    steps: list[torch.Tensor] = []

    def choose(logits: torch.Tensor, step: int) -> torch.Tensor:
        steps.append(logits.clone())
        return torch.full(logits.shape[:1], step + 1, device=logits.device)

    way(model, prompts, choose, ends)
    yield from steps
