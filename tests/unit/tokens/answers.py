"""Check that every answer of a row is trained behind the prompt that a served model is given."""

from __future__ import annotations

from typing import Any

from tests.rendering import MaskedTokens, Renderer


def answers_of(renderer: Renderer, row: dict[str, Any]) -> list[str]:
    """Return the text that is trained behind each served prompt, checking that there is one, in one example only."""
    examples = renderer.examples(row)
    return [
        _answer(renderer, examples, renderer.prompt_ids({**row, "messages": row["messages"][: index + 1]}))
        for index, message in enumerate(row["messages"])
        if message["role"] == "assistant" and index
    ]


def _answer(renderer: Renderer, examples: list[MaskedTokens], prompt: list[int]) -> str:
    # another example may go on from this prompt to a later one: then what follows is not trained
    matches = [
        example
        for example in examples
        if example.ids[: len(prompt)] == prompt
        and len(example.ids) > len(prompt)
        and example.mask[len(prompt)] == 1
        and (renderer.loss_on == "all" or not example.mask[len(prompt) - 1])
    ]
    assert matches and (len(matches) == 1 or renderer.loss_on == "all"), prompt
    example = matches[0]
    rest = example.mask[len(prompt) :]
    length = rest.index(0) if 0 in rest else len(rest)
    tokenizer: Any = renderer.tokenizer
    return str(tokenizer.decode(example.ids[len(prompt) : len(prompt) + length], skip_special_tokens=False))
