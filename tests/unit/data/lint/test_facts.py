from __future__ import annotations

import pickle
import time
from typing import Any

import pytest

from tests.unit.data.lint.rows import PROSE, chat, pair
from trainer.data.lint.facts.language import language_of
from trainer.data.lint.facts.row import row_facts
from trainer.data.lint.facts.tools import schemas_of

GERMAN = "Die Bibliothek öffnet um neun Uhr morgens und schließt um sechs, nur am Sonntag ist niemand dort."


@pytest.mark.parametrize(
    ("prompt", "answer", "rule"),
    [
        ("Hi", "Sure.<|im_end|>", "F019"),
        ("Hi", "The answer.\n\n### End\n###eos_token###", "F019"),
        ("[INST] Hi [/INST]", "Hello.", "F019"),
        ("Hi? <|endoftext|> [INST]", "Hello.", "F019"),
        ("Hi", "Sure.<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\nYes.", "F019"),
        ("Hi", "Sure.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nAnd?", "F019"),
        ("Hi", "Sure. </s><s>[INST] And? [/INST] Yes.", "F019"),
        ("Hi", "Das ist fÃ¼r Sie.", "Q004"),
        ("Hi", "It broke \ufffd here.", "Q004"),
        ("Hi", "zero\u200bwidth", "Q005"),
        ("Hi", "cafe\u0301", "Q005"),
        ("Hi", "First<br>second&nbsp;third", "Q006"),
        ("Hi", " hello ", "Q007"),
        ("Hi", "Here:\n```python\nprint(1)", "Q008"),
        ("Hi", '{"a": 1, "b": [1, 2', "Q008"),
        ("What is the capital of France?", "What is the capital of France?", "Q013"),
        ("Hi", "I like to say this over again." + " I like to say this over again." * 11, "Q014"),
        ("Hi", "As an AI language model, I have no opinion.", "Q015"),
        ("Hi", "Dear Sir,\nyours\n[Your Name]", "Q016"),
        ("Hi", "lorem ipsum dolor sit amet", "Q016"),
    ],
)
def test_a_fault_is_named_by_its_rule(prompt: str, answer: str, rule: str) -> None:
    assert row_facts(chat(prompt, answer)).flags == (rule,)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("How do I strike text through in HTML?", "Write <s>old</s> around it."),
        ("Hi", 'Use `a &amp;&amp; b` or\n```html\n<div class="x">&nbsp;</div>\n```'),
        ("What does <|endoftext|> mean?", "The token `<|endoftext|>` ends a document, as </s> does."),
        ("What are [INST] and [/INST]?", "Llama 2 writes <s>[INST] before a prompt and [/INST] after it."),
        ("How does ChatML look?", "`<|im_start|>` and a role, the text, then `<|im_end|>`."),
        ("Make a list", "- one\n- two\n- three"),
        ("Is this JSON?", "[Romeo enters] Good morrow."),
        ("Où?", "À la bibliothèque, peut-être « demain » – ça dépend."),
        ("Привет", "Здравствуйте! Чем могу помочь?"),
        ("Team?", "The family \U0001f468\u200d\U0001f469\u200d\U0001f467 and می\u200cخواهم"),
        ("What do we have TODO today?", "We have a todo list: see the board."),
        ("Compare", "| a | b |\n|---|---|\n| 1 | 2 |"),
        ("Repeat: the passage about tea. Now!", "the passage about tea"),
        ("Hi", "Use a < b and b > c; R&D is &c."),
        ("Sell it", "It costs [5](https://example.com) euros, i.e. 3 < 5."),
    ],
)
def test_a_sound_row_has_no_flag(prompt: str, answer: str) -> None:
    assert row_facts(chat(prompt, answer)).flags == ()


@pytest.mark.parametrize(
    ("answer", "trait"),
    [
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I cannot provide medical advice.", "refusal"),
        ("I don't have access to your account.", "refusal"),
        ("Lo siento, no puedo ayudarte.", "refusal"),
        ("Could you please tell me which card you mean?", "clarification"),
        (PROSE * 3, "prose"),
        (PROSE * 2 + "and then all of them went home without a word", "unfinished"),
    ],
)
def test_kinds_of_answers_are_told(answer: str, trait: str) -> None:
    assert trait in row_facts(chat("Hi", answer)).traits


@pytest.mark.parametrize(
    "answer",
    [
        "I can help you with that right away.",
        "You cannot provide a key twice.",
        "What a day! Please tell me more about it some time.",
        "SELECT DISTINCT NAME FROM INSTRUCTOR WHERE ID IN ( SELECT ID FROM OFFERING ) AND CREDITS > 3 " * 4,
        PROSE * 3 + "\n- milk, flour, eggs, sugar, butter, salt and vanilla",
    ],
)
def test_other_answers_are_of_no_kind(answer: str) -> None:
    assert not {"refusal", "clarification", "unfinished"} & set(row_facts(chat("Hi", answer)).traits)
    assert answer.islower() or "SELECT" not in answer or "prose" not in row_facts(chat("Hi", answer)).traits


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
    "required": ["city"],
}


@pytest.mark.parametrize(
    ("name", "arguments", "is_allowed"),
    [
        ("weather", {"city": "Bonn"}, True),
        ("weather", {"city": "Bonn", "days": 3, "unit": "C"}, True),
        ("weather", {"city": "Bonn", "days": 3.0}, True),
        ("weather", {"days": 3}, False),
        ("weather", {"city": 5}, False),
        ("weather", {"city": "Bonn", "days": True}, False),
        ("weather", {"city": "Bonn", "unit": "K"}, False),
        ("weather", {"city": "Bonn", "colour": "red"}, False),
    ],
)
def test_tool_calls_are_held_against_their_schema(name: str, arguments: dict[str, Any], is_allowed: bool) -> None:
    row = chat("Weather?", "Done.", tools=[{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}])
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
    row["messages"][1:1] = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "{}", "tool_call_id": "c1"},
    ]
    assert row_facts(row).flags == (() if is_allowed else ("F012",))


@pytest.mark.parametrize(
    ("parameters", "amount", "is_allowed"),
    [
        ({"properties": {"amount": {"type": "integer", "maximum": 2**256 - 1}}}, 2**255, True),
        ({"properties": {"amount": {"type": "integer", "default": -(10**20)}}}, "5", False),
        ({"properties": {"amount": {"type": ["integer", {"x": 1}]}}}, 5, True),
        ({"properties": {"amount": {"type": ["integer", {"x": 1}]}}}, "5", False),
        ({"properties": {"amount": {"type": {"x": 1}}}}, "5", True),
        ({"properties": {"amount": {}}, "required": [{"name": "amount"}, "amount"]}, 5, True),
        ({"properties": {"amount": {}}, "required": [["to"], "to"]}, 5, False),
    ],
)
def test_a_schema_that_is_none_does_not_break_the_check(
    parameters: dict[str, Any], amount: object, is_allowed: bool
) -> None:
    row = chat("Pay?", "Done.", tools=[{"type": "function", "function": {"name": "pay", "parameters": parameters}}])
    call = {"id": "c1", "type": "function", "function": {"name": "pay", "arguments": {"amount": amount}}}
    row["messages"][1:1] = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "{}", "tool_call_id": "c1"},
    ]
    assert row_facts(row).flags == (() if is_allowed else ("F012",))


def test_schemas_that_differ_in_a_long_number_are_two() -> None:
    def schema(maximum: int) -> list[str]:
        return schemas_of([{"function": {"name": "pay", "parameters": {"type": "integer", "maximum": maximum}}}])

    assert schema(2**256) == schema(2**256) != schema(2**256 - 1)


def test_an_answer_to_a_call_that_was_not_made_is_flagged() -> None:
    row = chat("Weather?", "Done.")
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {}}}
    row["messages"][1:1] = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "{}", "tool_call_id": "c2"},
    ]
    row["tools"] = [{"type": "function", "function": {"name": "weather"}}]
    assert row_facts(row).flags == ("F010",)


@pytest.mark.parametrize("tools", [[], [{"type": "function", "function": {"name": "forecast"}}]], ids=["none", "other"])
def test_a_call_of_a_tool_that_the_row_does_not_list_is_flagged(tools: list[dict[str, Any]]) -> None:
    row = chat("Weather?", "Done.", tools=tools)
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {}}}
    row["messages"][1:1] = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    assert row_facts(row).flags == ("F022",)


def test_every_kind_of_row_has_facts_that_travel() -> None:
    turns = chat("Hi", "Hello.")["messages"]
    index = {"source": "a.jsonl", "line": 1}
    rows: list[dict[str, Any]] = [
        chat("Hi", "Hello."),
        pair("Hi", "Hello there.", "No.</s>"),
        {"prompt": turns[:1], "completion": turns[1:], "label": True, **index},
        {"text": PROSE, **index},
        {"input_ids": [1, 2], "labels": [-100, 2], **index},
    ]
    facts = [row_facts(row) for row in rows]
    assert [fact.kind for fact in facts] == ["turns", "pair", "labelled", "text", "tokens"]
    assert facts[1].flags == ("F019",) and facts[1].rejected_chars == 7 and facts[2].is_good is True
    assert facts[3].answer_chars == len(PROSE) and pickle.loads(pickle.dumps(facts)) == facts


def test_languages_are_named_only_where_they_are_clear() -> None:
    assert (language_of(PROSE), language_of(GERMAN)) == ("en", "de")
    assert language_of("Hello there") == "" and language_of("SELECT a, b FROM t WHERE x = 12 AND y > 1; " * 3) == ""
    facts = row_facts(chat(PROSE, GERMAN))
    assert (facts.language, facts.answer_language) == ("en", "de")


def test_facts_of_a_shared_system_prompt_are_pickled_once() -> None:
    rows = [row_facts(chat("Hi", "Yes.", system="You are a helper. " * 15, line=9_999)) for _ in range(100)]
    assert len(pickle.dumps(rows)) < 100 * 250


def test_facts_are_cheap() -> None:
    row = chat(PROSE * 2, PROSE * 3, line=5_001)
    row_facts(row)
    start = time.process_time()
    for _ in range(2_000):
        row_facts(row)
    # 20,000 a second on the machine it was written on; the limit leaves room for a slow one.
    assert 2_000 / (time.process_time() - start) > 4_000
