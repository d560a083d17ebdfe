"""Read one conversation from a row, in each layout of a conversation."""

from __future__ import annotations

from trainer.data.records.kinds import Message, Role
from trainer.data.records.reasons import RowError, mark_text
from trainer.data.rows.columns import (
    COMPLETION_COLUMNS,
    CONTEXT_COLUMNS,
    DIALOG_COLUMNS,
    INPUT_COLUMNS,
    OUTPUT_COLUMNS,
    PROMPT_COLUMNS,
    RARE_COMPLETIONS,
    RARE_PROMPTS,
    TURN_COLUMNS,
    Columns,
)
from trainer.data.rows.passages import passages_of, with_passages
from trainer.data.rows.training_marks import MARKS
from trainer.data.rows.turns import ROLES, canonical_turns, lost_keys, text_of
from trainer.data.rows.unwrap import is_turns
from trainer.data.rows.values import Notes, is_scalar, kind_of, parse_json, written


def parse_turns(columns: Columns) -> list[Message]:
    """Read a column of turns; one of another name is taken where it is the only one."""
    name = columns.first_of(TURN_COLUMNS) or turns_column(columns.present()) or columns.one_of(TURN_COLUMNS)
    value = columns.take(name)
    columns.lost_keys |= lost_keys(value, name)
    return canonical_turns(value, name, columns.notes)


def turns_column(row: dict[str, object]) -> str | None:
    """Return the name of the one column that holds turns, None where there is none or several."""
    names = [name for name, value in row.items() if is_turns(value)]
    return names[0] if len(names) == 1 else None


def turns_of(value: object, role: Role, where: str, notes: Notes) -> list[Message]:
    """Read a column that holds one turn's text, turns, or another value, which becomes JSON text."""
    if isinstance(value, str):
        return _turns_in_text(value, where, notes) or [{"role": role, "content": value}]
    if _has_roles(value):
        return canonical_turns(value, where, notes)
    if isinstance(value, (dict, list, bytes)) or is_scalar(value):
        return [{"role": role, "content": written(value, where, notes)}]
    raise RowError("unsupported_content", f"{where}: {kind_of(value)} where text is expected")


def _has_roles(value: object) -> bool:
    """Whether a value is turns, sound or not, and no other JSON."""
    turns = value if isinstance(value, list) else [value]
    return bool(turns) and all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in turns)


def _turns_in_text(text: str, where: str, notes: Notes) -> list[Message] | None:
    """Read turns that a csv file holds as text; None for any other text."""
    if text.lstrip()[:1] != "[" or ("role" not in text and "from" not in text):
        return None
    value = parse_json(text, notes)
    if not isinstance(value, list) or not is_turns(value):
        return None
    has_roles = all(str(turn.get("role", turn.get("from"))).lower() in ROLES for turn in value)
    return canonical_turns(value, where, notes) if has_roles else None


def parse_prompt_completion(columns: Columns) -> list[Message]:
    """Read a prompt and its answer."""
    prompt = columns.one_of(PROMPT_COLUMNS, RARE_PROMPTS)
    opening = turns_of(columns.take(prompt), "user", prompt, columns.notes)
    return opening + parse_answer(columns, COMPLETION_COLUMNS, RARE_COMPLETIONS)


def parse_answer(columns: Columns, names: tuple[str, ...], rare: tuple[str, ...] = ()) -> list[Message]:
    """Read the answer; of several accepted ones (`answers`) the first.

    Raises:
        RowError: there is none.
    """
    name = columns.one_of(names, rare)
    value = columns.take(name)
    if name == "answers":
        value = _first_answer(value, columns.notes)
        if value is None:
            raise RowError("empty_content", "`answers` names no answer")
    return turns_of(value, "assistant", name, columns.notes)


def _first_answer(value: object, notes: Notes) -> object:
    """Return the first of accepted answers: a list, or SQuAD's `{"text": [...], "answer_start": [...]}`."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = parse_json(value, notes) or value
    if isinstance(value, dict):
        value = next((value[name] for name in ("text", "value", "answer") if name in value), None)
    if not isinstance(value, list):
        return value
    if len({str(item) for item in value}) > 1:
        notes.add("first_answer")
    return _first_answer(value[0], notes) if value else None


def parse_alpaca(columns: Columns) -> list[Message]:
    """Read instruction, input, history and the answer."""
    return alpaca_prompt(columns) + parse_answer(columns, OUTPUT_COLUMNS, COMPLETION_COLUMNS)


def alpaca_prompt(columns: Columns, inputs: tuple[str, ...] = INPUT_COLUMNS) -> list[Message]:
    """Read instruction, input and history: earlier turns, then one user turn.

    Raises:
        RowError: a history that is not a list of pairs, or a column that is not text.
    """
    parts = [columns.take("instruction")]
    if any(columns.has(name) for name in inputs):
        parts.append(columns.take(columns.one_of(inputs)))
    texts = [text_of(part, "instruction or input", columns.notes) for part in parts]
    history = _history_turns(columns.take("history"), columns.notes)
    return [*history, {"role": "user", "content": "\n".join(text for text in texts if text)}]


def _history_turns(history: object, notes: Notes) -> list[Message]:
    history = parse_json(history, notes) if isinstance(history, str) else history
    turns: list[Message] = []
    for pair in history if isinstance(history, list) else []:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise RowError("unknown_format", "history is not a list of [question, answer]")
        turns += [*turns_of(pair[0], "user", "history", notes), *turns_of(pair[1], "assistant", "history", notes)]
    return turns


def parse_rag(columns: Columns) -> list[Message]:
    """Read passages, a question about them and its answer.

    Raises:
        RowError: there is no passage column, question or answer.
    """
    name = columns.one_of(CONTEXT_COLUMNS[:1], CONTEXT_COLUMNS[1:])
    passages = passages_of(columns.take(name), name, columns.notes)
    if columns.first_of(TURN_COLUMNS):
        turns = parse_turns(columns)
    elif columns.has("instruction"):
        turns = alpaca_prompt(columns, INPUT_COLUMNS[:1]) + parse_answer(
            columns, OUTPUT_COLUMNS, (*COMPLETION_COLUMNS, *RARE_COMPLETIONS)
        )
    else:
        turns = parse_prompt_completion(columns)
    last = max((index for index, turn in enumerate(turns) if turn["role"] == "assistant"), default=len(turns))
    return [*with_passages(turns[:last], passages), *turns[last:]] if passages else turns


def parse_dialog(columns: Columns) -> list[Message]:
    """Read a list of texts that the user and the assistant say in turn; the user begins.

    Raises:
        RowError: it is no list of texts.
    """
    name = columns.one_of(DIALOG_COLUMNS[:1], DIALOG_COLUMNS[1:])
    value = columns.take(name)
    value = parse_json(value, columns.notes) if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise RowError("unknown_format", f"`{name}` is no list of texts")
    roles: tuple[Role, Role] = ("user", "assistant")
    return [{"role": roles[index % 2], "content": text} for index, text in enumerate(value)]


def parse_gemini(columns: Columns) -> list[Message]:
    """Read `contents` with `parts`, and `systemInstruction`.

    Raises:
        RowError: a part that is no text and no call.
    """
    contents = columns.take("contents")
    if not isinstance(contents, list):
        raise RowError("unknown_format", f"`contents` is {kind_of(contents)}, not a list")
    turns = [turn for index, item in enumerate(contents) for turn in _gemini_turns(item, f"contents[{index}]")]
    return canonical_turns(turns, "contents", columns.notes)


def _gemini_turns(item: object, where: str) -> list[dict[str, object]]:
    if not isinstance(item, dict) or not isinstance(item.get("parts"), list):
        raise RowError("unknown_role", f"{where} is {kind_of(item)}, not an object with role and parts")
    marks = {key: item[key] for key in MARKS if key in item}  # Vertex AI's `weight`
    results: list[dict[str, object]] = []
    calls: list[dict[str, object]] = []
    text, reasoning = "", None
    for part in item["parts"]:
        match part:
            case {"functionCall": dict(call)} | {"function_call": dict(call)}:
                calls.append({"name": call.get("name"), "arguments": call.get("args")})
            case {"functionResponse": dict(result)} | {"function_response": dict(result)}:
                results.append({"role": "tool", "name": result.get("name"), "content": result.get("response")})
            case {"thought": True, "text": str(thought)}:
                reasoning = (reasoning or "") + thought
            case {"text": str(more)}:
                text += more
            case _:
                names = ", ".join(map(str, part)) if isinstance(part, dict) else kind_of(part)
                raise RowError(
                    "unsupported_content", f"{where}: part {mark_text(repr(names))}; only text and calls are trained on"
                )
    if results and not text and not calls:
        return results
    message: dict[str, object] = {"role": item.get("role") or "user", "content": text, **marks}
    message |= {"tool_calls": calls} if calls else {}
    return [*results, message if reasoning is None else {**message, "reasoning_content": reasoning}]


def gemini_system(columns: Columns) -> str:
    """Return the text of `systemInstruction`, a text or an object with parts."""
    name = columns.first_of(("systemInstruction", "system_instruction"))
    value = columns.take(name) if name else None
    if isinstance(value, dict) and isinstance(value.get("parts"), list):
        return "".join(str(part.get("text", "")) for part in value["parts"] if isinstance(part, dict))
    return text_of(value, "systemInstruction", columns.notes)


def parse_batch(columns: Columns) -> list[Message]:
    """Read a request of OpenAI's batch files together with its answer.

    Raises:
        RowError: there is no answer, or the request is no conversation.
    """
    body = columns.take("body") if columns.has("body") else columns.take("request")
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        raise RowError("unknown_format", "the request (`body`) holds no `messages`")
    columns.lost_keys |= {f"body.{name}" for name in body if name not in ("messages", "tools", "functions")}
    columns.values |= {
        name: body[name] for name in ("tools", "functions") if name in body and name not in columns.values
    }
    turns = canonical_turns(body["messages"], "body.messages", columns.notes)
    if not columns.has("response"):
        if turns[-1]["role"] == "assistant":
            return turns
        raise RowError(
            "no_assistant_turn",
            "a request without its answer: put `response` of the same custom_id in the output file beside `body`",
        )
    return [*turns, *canonical_turns(_batch_answer(columns.take("response")), "response", columns.notes)]


def _batch_answer(response: object) -> dict[str, object]:
    """Return the message of a response.

    Raises:
        RowError: it failed, or holds no message.
    """
    body = response.get("body", response) if isinstance(response, dict) else None
    match body:
        case {"choices": [{"message": dict(message)}, *_]}:
            return message
        case {"error": error} if error:
            raise RowError("no_assistant_turn", f"the request failed: {mark_text(repr(error))}")
    raise RowError("no_assistant_turn", "`response` holds no message: body.choices[0].message")
