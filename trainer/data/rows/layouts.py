"""List the layouts of rows, and detect the layout of a row by its columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trainer.data.records.reasons import RowError, mark_text
from trainer.data.rows.columns import (
    COMPLETION_COLUMNS,
    CONTEXT_COLUMNS,
    DIALOG_COLUMNS,
    IMAGE_COLUMNS,
    OUTPUT_COLUMNS,
    PROMPT_COLUMNS,
    RARE_COMPLETIONS,
    RARE_PROMPTS,
    REJECTED_COLUMNS,
    TURN_COLUMNS,
    is_missing,
    meaning_of,
)
from trainer.data.rows.conversations import turns_column
from trainer.data.rows.judged_answers import ANSWER_LISTS, has_ranked, two_answers
from trainer.recipe.data import Format

ANSWERS = frozenset({*COMPLETION_COLUMNS, *RARE_COMPLETIONS})
PROMPTS = frozenset({*PROMPT_COLUMNS, *RARE_PROMPTS})
Row = Mapping[str, object]


@dataclass(frozen=True)
class Layout:
    """One way in which rows are written."""

    name: Format
    columns: str
    """What a row holds, for people."""
    becomes: str
    """What becomes of it, for people."""
    fits: Callable[[Row], bool]
    """Whether the columns that hold something are those of this layout."""


def _is_pair(row: Row) -> bool:
    if {"chosen", "rejected"} <= row.keys():
        return True
    return not row.keys().isdisjoint(REJECTED_COLUMNS) and _conversation(row) is not None


def two_outputs(row: Row) -> tuple[str, str, str] | None:
    """Return the column in which older LLaMA-Factory holds the better and the worse answer, and both answers."""
    for name in OUTPUT_COLUMNS if "instruction" in row else ():
        match row.get(name):
            case [str(better), str(worse)]:
                return name, better, worse
    return None


def _is_judged(row: Row) -> bool:
    return ("kto_tag" in row or isinstance(row.get("label"), bool)) and _conversation(row) is not None


def _is_request(row: Row) -> bool:
    bodies = (row.get("body"), row.get("request"))
    return any(isinstance(body, dict) and isinstance(body.get("messages"), list) for body in bodies)


def _is_alpaca(row: Row) -> bool:
    return "instruction" in row and not ANSWERS.isdisjoint(row)


def _is_rag(row: Row) -> bool:
    if "instruction" in row:  # Alpaca's own `context` is its input
        names = CONTEXT_COLUMNS if row.get("input") else CONTEXT_COLUMNS[1:]
        return _is_alpaca(row) and not row.keys().isdisjoint(names)
    return _has_answer(row) and not row.keys().isdisjoint(CONTEXT_COLUMNS)


def _has_answer(row: Row) -> bool:
    return not PROMPTS.isdisjoint(row) and not ANSWERS.isdisjoint(row)


def _is_dialog(row: Row) -> bool:
    columns = (row[name] for name in DIALOG_COLUMNS if name in row)
    return any(isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts) for texts in columns)


def _is_ranked(row: Row) -> bool:
    return not row.keys().isdisjoint(ANSWER_LISTS) and has_ranked(dict(row))


LAYOUTS: tuple[Layout, ...] = (
    Layout("tokens", "`input_ids`, `labels`", "taken as they are", lambda row: "input_ids" in row),
    Layout(
        "preference",
        "`prompt` (or a conversation), `chosen`, `rejected`; or an answered prompt and `rejected_response` "
        "or `rejected_messages`; or, where `format` says so, `instruction` and two texts in `output`, the better one "
        "first",
        "a pair; a prompt that both answers repeat is split off",
        _is_pair,
    ),
    Layout(
        "openai_preference",
        "`input` with `messages` and `tools`, `preferred_output`, `non_preferred_output`",
        "a pair",
        lambda row: {"preferred_output", "non_preferred_output"} <= row.keys(),
    ),
    Layout(
        "two_answers",
        "two answers (`response_1` and `response_2`, `response_a` and `response_b`, `human_ref_A` and `human_ref_B`, "
        "`conversation_a` and `conversation_b`) and a verdict (`preference_strength`, `overall_preference`, `winner`, "
        "`better_response_id`, `labels`, scores): HelpSteer, SHP, Arena, PKU-SafeRLHF, WebGPT",
        "a pair; a tie is left out as `no_preference`",
        lambda row: two_answers(dict(row)) is not None,
    ),
    Layout(
        "ranked",
        "a prompt and a list of answers with `rank`, `score` or `overall_score`, or `responses` with `scores` or "
        "`ranks`: Nectar, UltraFeedback",
        "a pair of the best and the worst answer",
        _is_ranked,
    ),
    Layout("ranked_pairs", "the same, by name only", "every better answer with every worse one", lambda row: False),
    Layout(
        "kto",
        "any conversation with `kto_tag` or a true/false `label`",
        "a judged answer, for methods that use it",
        _is_judged,
    ),
    Layout(
        "gemini",
        "`contents` with `parts`, `systemInstruction`, `tools` with `functionDeclarations`",
        "a conversation",
        lambda row: isinstance(row.get("contents"), list),
    ),
    Layout(
        "openai_batch",
        "`body` with `messages`, and `response` of the output file beside it",
        "a conversation with the answer of the response",
        _is_request,
    ),
    Layout("messages", "`messages` with `role` and `content`", "a conversation", lambda row: "messages" in row),
    Layout(
        "sharegpt",
        "`conversations` with `from` and `value`; or the only column that holds turns",
        "a conversation",
        lambda row: not row.keys().isdisjoint(TURN_COLUMNS),
    ),
    Layout(
        "rag",
        "a question, an answer, and `context`, `passages`, `documents` or the like: text, a list of texts, objects "
        "with `title` and `text`; SQuAD, HotpotQA, MS MARCO",
        "the passages, numbered, before the question, as `eval` and `predict` put them",
        _is_rag,
    ),
    Layout(
        "alpaca",
        "`instruction`, `input` (or `context`), `history`, `output`",
        "instruction and input as one user turn, after the history",
        _is_alpaca,
    ),
    Layout(
        "prompt_completion",
        "`prompt`, `question`, `query`, `input` or `inputs`, and `completion`, `response`, `answer`, `output`, "
        "`target(s)` or `answers` (the first)",
        "a user turn and an assistant turn",
        _has_answer,
    ),
    Layout(
        "dialog",
        "`dialog`, `dialogue`, `utterances` or `turns`: texts that user and assistant say in turn",
        "a conversation",
        _is_dialog,
    ),
    Layout(
        "text", "`text`; or a `.txt` or `.md` file", "text, all of it trained (`pack.loss_on: all`)", lambda row: False
    ),
)
"""All layouts; a row has the first one that fits. `text` comes last: only where no other column says what to learn."""

CONVERSATIONS: tuple[Format, ...] = (
    *("gemini", "openai_batch", "messages", "sharegpt", "rag", "alpaca", "prompt_completion", "dialog"),
)
"""Layouts of one conversation."""


def _conversation(row: Row) -> Format | None:
    return next((layout.name for layout in LAYOUTS if layout.name in CONVERSATIONS and layout.fits(row)), None)


def conversation_format(row: Row) -> Format | None:
    """Return the layout of the conversation that a row holds, whatever else it holds; None where there is none."""
    return _conversation(row) or ("sharegpt" if turns_column(dict(row)) else None)


def detect_format(row: Row) -> Format:
    """Tell the layout of a row from its columns.

    Raises:
        RowError: no known layout, or columns that can be read in two ways: those are never guessed.
    """
    present = {name: value for name, value in row.items() if not is_missing(value)}
    for layout in LAYOUTS:
        if layout.fits(present):
            return layout.name
    if turns_column(present):
        return "sharegpt"
    if "text" in present and not (telling := telling_columns(present)):
        return "text"
    if "text" in present:
        raise RowError("unknown_format", _target_detail(telling))
    _refuse_nulls(row, present)
    names = mark_text(", ".join(map(str, row)), 120)
    raise RowError("unknown_format", f"columns {names}: set mapping, such as {{prompt: COLUMN, completion: COLUMN}}")


def telling_columns(row: Row) -> list[str]:
    """Return the columns beside `text` whose names say that they are asked, shown or learnt."""
    question = {*PROMPTS, *ANSWERS, "instruction"}
    return [name for name, value in row.items() if value not in ("", [], {}) and (name in question or meaning_of(name))]


def _target_detail(names: list[str]) -> str:
    """Say how a row with `text` and columns that say what to learn can be read."""
    target = next((name for name in names if meaning_of(name) in ("label", "target") or name in ANSWERS), None)
    question = next((name for name in names if name in PROMPTS or name == "instruction"), None)
    listed = f"columns text, {', '.join(names)}"
    alone = "format: text for the text alone"
    if target is not None:
        return f"{listed}: set mapping: {{prompt: text, completion: {target}}}, or {alone}"
    if question is not None:
        return f"{listed}: set mapping: {{prompt: {question}, completion: text}}, or {alone}"
    if images := [name for name in names if name in IMAGE_COLUMNS]:
        return f"{listed}: {images[0]} is not trained on; set {alone}"
    return f"{listed}: set mapping, or {alone}"


def _refuse_nulls(row: Row, present: Row) -> None:
    """Say which column is null where the row would have a layout without that.

    Raises:
        RowError: there is such a column.
    """
    empty = [name for name in row if name not in present]
    filled = {**present, **dict.fromkeys(empty, "")}
    if not empty or not any(layout.fits(filled) for layout in LAYOUTS):
        if not (empty == ["text"] or ("text" in empty and not present)):
            return
        empty = ["text"]
    usual = {*PROMPTS, *ANSWERS, *OUTPUT_COLUMNS, *TURN_COLUMNS, *DIALOG_COLUMNS}
    usual |= {"text", "chosen", "rejected", "instruction"}
    if nulls := [name for name in empty if name in usual]:
        raise RowError("empty_content", f"`{nulls[0]}` is null")


def layout_table() -> str:
    """Return the table of the layouts as it stands in docs/data.md."""
    rows = (f"| `{layout.name}` | {layout.columns} | {layout.becomes} |" for layout in LAYOUTS)
    return "\n".join(("| format | what a row holds | what becomes of it |", "|---|---|---|", *rows))
