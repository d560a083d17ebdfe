"""Read rows with a verdict on one answer (KTO)."""

from __future__ import annotations

from trainer.data.records.kinds import Message
from trainer.data.records.reasons import RowError, mark_text
from trainer.data.rows.columns import LABEL_COLUMNS, Columns

VERDICTS: dict[object, bool] = {"true": True, "false": False, 1: True, 0: False}
"""As written -> as meant; csv files hold text, and other tools write 1 and 0 (True equals 1)."""


def parse_verdict(columns: Columns) -> bool:
    """Read the verdict on the answer.

    Raises:
        RowError: there is none, or it is neither true nor false.
    """
    written = columns.take(columns.one_of(LABEL_COLUMNS))
    key = written.strip().lower() if isinstance(written, str) else written
    if not isinstance(key, (str, int, float)) or key not in VERDICTS:
        raise RowError(
            "invalid_label", f"the verdict on the answer is {mark_text(repr(written))}; true (good) or false (bad)"
        )
    return VERDICTS[key]


def split_answer(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    """Split a conversation into the prompt and the last answer: all that follows the last user turn.

    Raises:
        RowError: nothing follows it, or there is no user turn.
    """
    ends = [index for index, turn in enumerate(messages) if turn["role"] == "user"]
    if not ends:
        raise RowError("bad_role_order", "no user turn: the verdict is on an answer without a question")
    prompt, answer = messages[: ends[-1] + 1], messages[ends[-1] + 1 :]
    if not answer:
        raise RowError("no_assistant_turn", "nothing follows the last user turn: there is no answer to judge")
    return prompt, answer
