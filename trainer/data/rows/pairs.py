"""Separate chosen and rejected answers from the prompt they share."""

from __future__ import annotations

import re

from trainer.data.records.kinds import Message, Role
from trainer.data.records.reasons import RowError
from trainer.data.rows.conversations import turns_of
from trainer.data.rows.values import Notes

TRANSCRIPT_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")

Pair = tuple[list[Message], list[Message], list[Message]]


def split_pair(prompt: list[Message] | None, chosen: object, rejected: object, notes: Notes) -> Pair:
    """Return prompt, chosen and rejected turns.

    Args:
        prompt: the turns that the row states, or None where both answers carry them (an implicit prompt).
        chosen: text, one turn, or turns; with or without the prompt in front.
        rejected: the same.
        notes: ids of what was done to values are added.

    Raises:
        RowError: the answers do not continue the same prompt, or are no turns.
    """
    answers = _answer_turns(chosen, "chosen", notes), _answer_turns(rejected, "rejected", notes)
    if answers[0][0]["role"] == answers[1][0]["role"] == "assistant":
        if prompt is None:
            raise RowError("unknown_format", "chosen and rejected are answers without a prompt")
        return prompt, *answers
    shared, better, worse = split_shared(*answers)
    if prompt is not None and bare(prompt) != bare(shared):
        raise RowError("prompt_mismatch", "the stated prompt is not the one that chosen and rejected begin with")
    # The longer of the two: the answers' own copy may hold the system turn that the stated prompt leaves out.
    return shared if prompt is None or len(shared) > len(prompt) else prompt, better, worse


def _answer_turns(value: object, where: str, notes: Notes) -> list[Message]:
    """Read an answer: text, a transcript, turns, or another value as JSON text.

    Raises:
        RowError: there is none.
    """
    if value is None:
        raise RowError("empty_content", f"`{where}` is null")
    if isinstance(value, str) and (turns := transcript_turns(value)):
        return turns
    return turns_of(value, "assistant", where, notes)


def transcript_turns(text: str) -> list[Message]:
    """Read a transcript of Anthropic's HH data (`Human:`, `Assistant:` after empty lines); no turns if it is none."""
    if not text.startswith("\n\nHuman:"):
        return []
    parts = TRANSCRIPT_TURN.split(text)[1:]
    roles: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": roles[speaker], "content": text.strip()} for speaker, text in turns]


def split_shared(chosen: list[Message], rejected: list[Message]) -> Pair:
    """Split off the longest common opening; equal answers are cut before their last turn, to be named later."""
    length = 0
    for left, right in zip(chosen[:-1], rejected[:-1], strict=False):
        if left != right:
            break
        length += 1
    better, worse = chosen[length:], rejected[length:]
    if better[0]["role"] != "assistant" or worse[0]["role"] != "assistant":
        raise RowError(
            "prompt_mismatch", f"chosen and rejected differ at turn {length + 1}, which is not the assistant's"
        )
    return chosen[:length], better, worse


def bare(turns: list[Message]) -> list[tuple[Role, str]]:
    """Return what is compared of two prompts: roles and text, without the system turn."""
    return [(turn["role"], turn["content"].strip()) for turn in turns if turn["role"] != "system"]
