"""Every layout becomes the same canonical row; every fault has its own id."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.data.records.reasons import RowError
from trainer.data.rows.columns import meaning_of
from trainer.data.rows.parse import detect_format, parse_row

USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "hello"}
OTHER = {"role": "assistant", "content": "go away"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
TOOL = {"role": "tool", "content": "2"}
SYSTEM = {"role": "system", "content": "be kind"}
TOOLS = [{"type": "function", "function": {"name": "add"}}]


def parse(row: object, **options: Any) -> dict[str, Any]:
    record = parse_row(row, source="f", line=3, **options).record
    assert list(record)[-2:] == ["source", "line"] and (record["source"], record["line"]) == ("f", 3)
    return {key: value for key, value in record.items() if key not in ("source", "line")}


def share(value: str, who: str = "human") -> dict[str, str]:
    return {"from": who, "value": value}


CONVERSATIONS: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    ("messages", {"messages": [SYSTEM, USER, ASSISTANT]}, [SYSTEM, USER, ASSISTANT]),
    (
        "messages",
        {"messages": '[{"role":"user","content":"hi"},{"role":"assistant","content":"hello"}]'},
        [USER, ASSISTANT],
    ),
    (
        "messages",
        {"messages": [{"role": "developer", "content": "be kind"}, USER, ASSISTANT]},
        [SYSTEM, USER, ASSISTANT],
    ),
    ("messages", {"messages": [{"role": "human", "content": "hi"}, ASSISTANT]}, [USER, ASSISTANT]),
    (
        "messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
                ASSISTANT,
            ]
        },
        [USER, ASSISTANT],
    ),
    (
        "messages",
        {"messages": [USER, {**ASSISTANT, "weight": 0}, USER, {**ASSISTANT, "weight": 1.0}]},
        [USER, {**ASSISTANT, "weight": 0}, USER, {**ASSISTANT, "weight": 1}],
    ),
    (
        "messages",
        {"messages": [USER, {**ASSISTANT, "reasoning_content": "hm", "audio": None}]},
        [USER, {**ASSISTANT, "reasoning_content": "hm"}],
    ),
    (
        "messages",
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
                    ],
                },
                {**TOOL, "tool_call_id": "c1", "name": "add"},
                ASSISTANT,
            ]
        },
        [
            USER,
            {**CALLING, "tool_calls": [{"id": "c1", **CALL}]},
            {**TOOL, "tool_call_id": "c1", "name": "add"},
            ASSISTANT,
        ],
    ),
    (
        "messages",
        {
            "messages": [
                USER,
                {"role": "assistant", "function_call": {"name": "add", "arguments": '{"a":1}'}},
                {"role": "function", "content": "2"},
                ASSISTANT,
            ]
        },
        [USER, CALLING, TOOL, ASSISTANT],
    ),
    ("sharegpt", {"conversations": [share("hi"), share("hello", "gpt")]}, [USER, ASSISTANT]),
    (
        "sharegpt",
        {"conversation": [share("hi", "user"), share("hello", "bot")], "system": "be kind"},
        [SYSTEM, USER, ASSISTANT],
    ),
    (
        "sharegpt",
        {"conversations": [share("be kind", "system"), share("hi"), share("hello", "model")]},
        [SYSTEM, USER, ASSISTANT],
    ),
    (
        "sharegpt",
        {
            "conversations": [
                share("hi"),
                share('{"name": "add", "arguments": {"a": 1}}', "function_call"),
                share("2", "observation"),
                share("hello", "gpt"),
            ]
        },
        [USER, CALLING, TOOL, ASSISTANT],
    ),
    (
        "sharegpt",
        {
            "conversations": [
                share("hi"),
                share('[{"name":"add","arguments":"{\\"a\\":1}"},{"name":"add"}]', "function_call"),
            ]
        },
        [USER, {**CALLING, "tool_calls": [CALL, {"type": "function", "function": {"name": "add", "arguments": {}}}]}],
    ),
    ("alpaca", {"instruction": "hi", "input": "", "output": "hello"}, [USER, ASSISTANT]),
    (
        "alpaca",
        {"instruction": "a", "input": "b", "output": "hello", "system": "be kind", "history": [["hi", "hello"]]},
        [SYSTEM, USER, ASSISTANT, {"role": "user", "content": "a\nb"}, ASSISTANT],
    ),
    (
        "alpaca",
        {"instruction": "a", "context": "b", "response": "hello"},
        [{"role": "user", "content": "a\nb"}, ASSISTANT],
    ),
    ("prompt_completion", {"prompt": "hi", "completion": "hello"}, [USER, ASSISTANT]),
    ("prompt_completion", {"question": "hi", "answer": "hello", "system": ""}, [USER, ASSISTANT]),
    ("prompt_completion", {"query": "hi", "response": "hello"}, [USER, ASSISTANT]),
    ("prompt_completion", {"prompt": [SYSTEM, USER], "completion": [ASSISTANT]}, [SYSTEM, USER, ASSISTANT]),
    (
        "messages",
        {
            "system": [{"type": "text", "text": "be kind"}],
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "s"},
                        {"type": "text", "text": "let me see"},
                        {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "2"}]},
                        {"type": "text", "text": "hi"},
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "hello"}]},
            ],
        },
        [
            SYSTEM,
            USER,
            {
                "role": "assistant",
                "content": "let me see",
                "reasoning_content": "hm",
                "tool_calls": [{"id": "c1", **CALL}],
            },
            {**TOOL, "tool_call_id": "c1"},
            USER,
            ASSISTANT,
        ],
    ),
    (
        "messages",
        {
            "messages": [
                USER,
                {"role": "assistant", "content": [{"type": "tool_use", "name": "add", "input": {"a": 1}}]},
                {"role": "user", "content": [{"type": "tool_result", "content": "2"}]},
                ASSISTANT,
            ]
        },
        [USER, CALLING, TOOL, ASSISTANT],
    ),
    (
        "messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "hello"}]},
            ]
        },
        [USER, ASSISTANT],
    ),
    (
        "messages",
        {
            "messages": [
                USER,
                {"role": "tool_call", "content": '{"name": "add", "arguments": {"a": 1}}'},
                {"role": "tool_response", "content": "2"},
                ASSISTANT,
            ]
        },
        [USER, CALLING, TOOL, ASSISTANT],
    ),
    (
        "sharegpt",
        {"system": "be kind", "conversation": [{"human": "hi", "assistant": "hello"}] * 2},
        [SYSTEM, USER, ASSISTANT, USER, ASSISTANT],
    ),
    ("sharegpt", {"conversations": [share("hi", "prompter"), share("hello", "ai")]}, [USER, ASSISTANT]),
]


@pytest.mark.parametrize(("layout", "row", "messages"), CONVERSATIONS)
def test_every_layout_becomes_the_same_messages(
    layout: str, row: dict[str, Any], messages: list[dict[str, Any]]
) -> None:
    assert detect_format(row) == layout
    assert parse(row)["messages"] == messages
    assert parse(row, format=layout) == parse(row)


def test_anthropic_tools_have_their_schema_under_the_usual_name() -> None:
    schema = {"type": "object", "properties": {}}
    tools = parse({"messages": [USER, ASSISTANT], "tools": [{"name": "add", "input_schema": schema}]})["tools"]
    assert tools == [{"type": "function", "function": {"name": "add", "parameters": schema}}]


@pytest.mark.parametrize("tools", [[{"name": "add"}], TOOLS, '[{"name": "add"}]'])
def test_tools_are_a_list_in_one_wrapping(tools: object) -> None:
    assert parse({"messages": [USER, ASSISTANT], "tools": tools})["tools"] == TOOLS


@pytest.mark.parametrize("tools", [None, [], "[]", "", "null"])
def test_no_tools_leave_no_key(tools: object) -> None:
    assert parse({"messages": [USER, ASSISTANT], "tools": tools}) == {"messages": [USER, ASSISTANT]}


PAIR = {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [OTHER]}
PAIRS: list[dict[str, Any]] = [
    {"prompt": "hi", "chosen": "hello", "rejected": "go away"},
    PAIR,
    {"prompt": "hi", "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]},
    {"chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]},
    {"conversations": [share("hi")], "chosen": share("hello", "gpt"), "rejected": share("go away", "gpt")},
    {"instruction": "hi", "input": "", "chosen": "hello", "rejected": "go away"},
    {"query": "hi", "response": "hello", "rejected_response": "go away"},
    {"messages": [USER, ASSISTANT], "rejected_response": "go away"},
    {"messages": [USER, ASSISTANT], "rejected_messages": [USER, OTHER]},
    {"messages": [USER, ASSISTANT], "rejected_messages": [OTHER]},
    {"conversations": [share("hi"), share("hello", "gpt")], "rejected_messages": [share("hi"), OTHER]},
    {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: go away"},
]


@pytest.mark.parametrize("row", PAIRS)
def test_every_preference_layout_becomes_the_same_pair(row: dict[str, Any]) -> None:
    assert detect_format(row) == "preference"
    assert parse(row) == PAIR


def test_a_worse_conversation_may_leave_out_the_system_turn_and_has_to_ask_the_same() -> None:
    row = {"messages": [SYSTEM, USER, ASSISTANT], "rejected_messages": [USER, OTHER]}
    assert parse(row) == {**PAIR, "prompt": [SYSTEM, USER]}
    with pytest.raises(RowError, match="prompt_mismatch"):
        parse({**row, "rejected_messages": [{**USER, "content": "bye"}, OTHER]})


@pytest.mark.parametrize("output", [["a"], ["a", "b"], ["a", "b", "c"], ["a", 1], [["a"], ["b"]]], ids=str)
def test_other_lists_as_output_are_one_answer(output: list[Any]) -> None:
    assert detect_format({"instruction": "hi", "output": output}) == "alpaca"


def test_two_texts_are_one_answer_or_a_pair_where_the_format_says_so() -> None:
    row = {"instruction": "hi", "input": "", "output": ["hello", "go away"]}
    assert parse(row)["messages"][-1]["content"] == '["hello", "go away"]'
    assert parse(row, format="preference") == PAIR


@pytest.mark.parametrize("name", ["rejected_messages", "rejected_response"])
def test_a_worse_answer_that_is_not_used_is_named(name: str) -> None:
    row = {"messages": [USER, ASSISTANT], name: [USER, OTHER]}
    parsed = parse_row(row, source="f", line=1, format="messages")
    assert parsed.unused == [name] and meaning_of(name) == "rejected answer"


JUDGED = {"prompt": [USER], "completion": [ASSISTANT], "label": True}
VERDICTS: list[dict[str, Any]] = [
    {"prompt": "hi", "completion": "hello", "label": True},
    {"messages": [USER, ASSISTANT], "label": True},
    {"messages": [USER, ASSISTANT], "kto_tag": True},
    {"instruction": "hi", "input": "", "output": "hello", "kto_tag": True},
    {"conversations": [share("hi"), share("hello", "gpt")], "kto_tag": "true"},
]


@pytest.mark.parametrize("row", VERDICTS)
def test_every_layout_of_a_judged_answer_becomes_the_same_row(row: dict[str, Any]) -> None:
    assert detect_format(row) == "kto"
    assert parse(row) == JUDGED


@pytest.mark.parametrize(("written", "verdict"), [(1, True), (0, False), ("False", False), ("TRUE ", True)])
def test_a_stated_verdict_is_read_as_other_tools_write_it(written: object, verdict: bool) -> None:
    row = {"prompt": "hi", "completion": "hello", "label": written}
    assert parse(row, format="kto")["label"] is verdict


def test_an_answer_that_calls_tools_is_judged_as_a_whole() -> None:
    record = parse({"messages": [SYSTEM, USER, ASSISTANT, USER, CALLING, TOOL, ASSISTANT], "kto_tag": False})
    assert record["prompt"] == [SYSTEM, USER, ASSISTANT, USER]
    assert record["completion"] == [CALLING, TOOL, ASSISTANT]


def test_our_own_judged_rows_read_back() -> None:
    assert parse(JUDGED) == JUDGED


def test_tokens_are_taken_as_they_are() -> None:
    row = {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "attention_mask": [1, 1, 1], "id": 1}
    assert detect_format(row) == "tokens"
    assert parse(row) == {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "metadata": {"id": 1}}
    assert parse({"input_ids": "[5]", "labels": "[5]"}) == {"input_ids": [5], "labels": [5]}


BROKEN_TOKENS: list[tuple[dict[str, Any], str]] = [
    ({"input_ids": [1]}, "`labels` is null"),
    ({"input_ids": [], "labels": []}, "`input_ids`"),
    ({"input_ids": [1, 2], "labels": [1]}, "2 input_ids, 1 labels"),
    ({"input_ids": [1, 2], "labels": [2, 1]}, "neither -100 nor input_ids"),
    ({"input_ids": [1, 2], "labels": [-100, -100]}, "nothing is trained"),
    ({"input_ids": [1, True], "labels": [1, 1]}, "True"),
    ({"input_ids": [1, 2.0], "labels": [1, 2]}, "2.0"),
    ({"input_ids": [1, -1], "labels": [1, 1]}, "-1"),
    ({"input_ids": [1, 0], "labels": [1, -100], "attention_mask": [1, 0]}, "padding"),
]


@pytest.mark.parametrize(("row", "message"), BROKEN_TOKENS)
def test_tokens_that_train_something_else_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError, match=message) as caught:
        parse(row)
    assert caught.value.reason == "invalid_tokens"


def test_a_system_turn_inside_the_answers_of_a_pair_is_kept() -> None:
    row = {"prompt": "hi", "chosen": [SYSTEM, USER, ASSISTANT], "rejected": [SYSTEM, USER, OTHER]}
    assert parse(row) == {**PAIR, "prompt": [SYSTEM, USER]}


def test_text_rows_and_other_columns_are_kept() -> None:
    assert parse({"text": "abc", "id": 7, "n": None}) == {"text": "abc", "metadata": {"id": 7, "n": None}}


def test_mapping_renames_and_hides_nothing() -> None:
    row = {"q": "hi", "sql": "hello", "prompt": "old", "id": 1}
    record = parse(row, mapping={"prompt": "q", "completion": "sql"})
    assert record == {"messages": [USER, ASSISTANT], "metadata": {"id": 1, "prompt": "old"}}


def test_a_mapping_leads_into_objects_and_lists() -> None:
    row = {"data": {"q": "hi", "lang": "en"}, "answers": [{"text": "hello", "by": "x"}, {"text": "no"}], "a.b": 1}
    record = parse(row, mapping={"prompt": "data.q", "completion": "answers.0.text"})
    remainder = {"data": {"lang": "en"}, "answers": [{"by": "x"}, {"text": "no"}], "a.b": 1}
    assert record == {"messages": [USER, ASSISTANT], "metadata": remainder}
    assert row["data"] == {"q": "hi", "lang": "en"}
    assert parse({"a.b": "hi", "c": "hello"}, mapping={"prompt": "a.b", "completion": "c"})["messages"][0] == USER


@pytest.mark.parametrize("path", ["data.x", "data.q.y", "answers.7", "answers.-1", "none"])
def test_a_mapping_that_leads_nowhere_is_named(path: str) -> None:
    with pytest.raises(RowError, match=f"no column '{path}'"):
        parse({"data": {"q": "hi"}, "answers": ["a"]}, mapping={"prompt": path, "completion": "answers"})


def test_an_unchecked_row_is_parsed_with_its_faults() -> None:
    turns = [USER, {"role": "assistant", "content": ""}, USER]
    assert parse_row({"messages": turns}, source="f", line=1, check=False).record["messages"] == turns


def nested(levels: int) -> object:
    value: object = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "completion": "hello", "note": nested(500)},
        {"messages": "[" * 900 + "]" * 900},
        {
            "messages": [
                USER,
                {"role": "assistant", "function_call": {"name": "f", "arguments": f'{{"a": {"[" * 500 + "]" * 500}}}'}},
            ]
        },
    ],
)
def test_deep_nesting_is_refused_before_a_later_step_fails(row: dict[str, Any]) -> None:
    with pytest.raises(RowError, match="levels deep"):
        parse(row)


def test_our_own_rows_read_back() -> None:
    first = parse_row({"prompt": "hi", "completion": "hello", "id": 1}, source="f", line=3).record
    again = parse(first)
    assert again["messages"] == first["messages"] and again["metadata"]["id"] == 1


def test_chat_template_kwargs_stay_beside_the_messages() -> None:
    record = parse({"messages": [USER, ASSISTANT], "chat_template_kwargs": {"enable_thinking": False}})
    assert record["chat_template_kwargs"] == {"enable_thinking": False}


def calling(arguments: object) -> dict[str, Any]:
    return {
        "messages": [USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]
    }


FAULTS: list[tuple[str, object]] = [
    ("not_an_object", [1]),
    ("not_an_object", "hi"),
    ("unknown_format", {}),
    ("unknown_format", {"question": "a", "sql": "b"}),
    ("unknown_format", {"text": "a", "label": "b"}),
    ("invalid_label", {"messages": [USER, ASSISTANT], "kto_tag": "maybe"}),
    ("no_assistant_turn", {"messages": [USER], "kto_tag": True}),
    ("bad_role_order", {"messages": [ASSISTANT], "kto_tag": True}),
    ("empty_content", {"prompt": "hi", "completion": " ", "label": True}),
    (
        "bad_role_order",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "content": "2"}, {"type": "tool_use", "name": "f"}],
                }
            ]
        },
    ),
    ("invalid_tool_arguments", {"messages": [USER, {"role": "assistant", "content": [{"type": "tool_use"}]}]}),
    ("unknown_format", {"question": "a", "query": "b", "answer": "c"}),
    ("unknown_format", {"chosen": "a", "rejected": "b"}),
    ("empty_messages", {"messages": []}),
    ("unknown_role", {"messages": [{"role": "narrator", "content": "x"}]}),
    ("unknown_role", {"messages": ["hi"]}),
    ("no_assistant_turn", {"messages": [USER]}),
    ("empty_content", {"messages": [USER, {"role": "assistant", "content": " "}]}),
    ("empty_content", {"messages": [{"role": "user", "content": ""}, ASSISTANT]}),
    ("empty_content", {"text": " \n"}),
    ("empty_content", {"prompt": "hi", "completion": ""}),
    ("unsupported_content", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ASSISTANT]}),
    ("unsupported_content", {"prompt": "hi", "completion": b"\xff"}),
    ("bad_role_order", {"messages": [USER, ASSISTANT, USER]}),
    ("bad_role_order", {"messages": [USER, SYSTEM, ASSISTANT]}),
    ("bad_role_order", {"messages": [USER, TOOL, ASSISTANT]}),
    ("bad_role_order", {"messages": [USER, ASSISTANT, TOOL, ASSISTANT]}),
    ("bad_role_order", {"prompt": [USER, ASSISTANT], "chosen": "a", "rejected": "b"}),
    ("chosen_equals_rejected", {"prompt": "hi", "chosen": "a", "rejected": "a "}),
    ("chosen_equals_rejected", {"chosen": [USER, ASSISTANT], "rejected": [USER, ASSISTANT]}),
    ("prompt_mismatch", {"chosen": [USER, ASSISTANT], "rejected": [{"role": "user", "content": "ho"}, OTHER]}),
    ("prompt_mismatch", {"prompt": "ho", "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]}),
    ("invalid_tool_arguments", calling("{broken")),
    ("invalid_tool_arguments", calling("[1]")),
    ("invalid_tool_arguments", {"conversations": [share("hi"), share("no json", "function_call")]}),
    ("invalid_tools", {"messages": [USER, ASSISTANT], "tools": "{broken"}),
    ("invalid_tools", {"messages": [USER, ASSISTANT], "tools": [{"description": "nameless"}]}),
    ("unsupported_content", {"messages": [{"role": "user", "content": [{"type": ["text"], "text": "a"}]}, ASSISTANT]}),
    ("unsupported_content", {"messages": [{"role": "user", "content": [{"type": {}, "text": "a"}]}, ASSISTANT]}),
    ("invalid_weight", {"messages": [USER, {**ASSISTANT, "weight": 0.5}]}),
    ("invalid_text", {"prompt": "hi", "completion": "a\x00b"}),
    ("invalid_text", {"prompt": "hi", "completion": "a\ud800b"}),
    ("invalid_text", {"prompt": "hi", "completion": "a", "note": "\ud800"}),
]


@pytest.mark.parametrize(("reason", "row"), FAULTS)
def test_every_fault_has_its_reason(reason: str, row: object) -> None:
    with pytest.raises(RowError) as caught:
        parse(row)
    assert caught.value.reason == reason
    assert caught.value.detail


def test_the_written_name_of_a_forbidden_character_is_allowed() -> None:
    text = "\\u0000 and \\ud800 are no characters"
    assert parse({"text": text}) == {"text": text}


def test_a_file_may_mix_layouts_and_late_columns_are_kept() -> None:
    rows = [
        {"prompt": "hi", "completion": "hello"},
        {"messages": [USER, ASSISTANT], "id": 9},
        {"text": "abc", "z": [1]},
    ]
    assert [parse_row(row, source="f", line=1).format for row in rows] == ["prompt_completion", "messages", "text"]
    assert [parse(row).get("metadata") for row in rows] == [None, {"id": 9}, {"z": [1]}]


def test_a_part_that_is_not_text_is_named() -> None:
    with pytest.raises(RowError, match="image_url"):
        parse({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ASSISTANT]})


def test_a_stated_format_is_never_replaced_by_another() -> None:
    with pytest.raises(RowError, match="none of prompt") as caught:
        parse({"messages": [USER, ASSISTANT]}, format="prompt_completion")
    assert caught.value.reason == "unknown_format"
