"""Cleaning repairs what is broken, leaves code alone, counts what it did, and finds nothing to do the second time."""

from __future__ import annotations

import pickle
import random
import time
import unicodedata
from typing import Any

import pytest
from ftfy.badness import is_bad

from trainer.data.clean.cleaner import Cleaned, Cleaner
from trainer.data.clean.strings import CONTEXT_CHARS
from trainer.data.clean.text import MAY_BE_BAD
from trainer.recipe.clean import Clean

OFF = Clean(
    encoding=False,
    unicode="keep",
    control_characters=False,
    invisible_characters=False,
    whitespace=False,
    html=False,
    special_tokens=False,
    turns="reject",
)
CLEANER = Cleaner(Clean())


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def chat(*contents: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [turn(roles[i % 2], content) for i, content in enumerate(contents)], "source": "f", "line": 1}


def answer(text: str, question: str = "hi", **section: Any) -> tuple[str, dict[str, int]]:
    cleaned = Cleaner(Clean(**section))(chat(question, text))
    assert cleaned.record is not None, cleaned.error
    return cleaned.record["messages"][1]["content"], cleaned.changes


REPAIRS = [
    ("âœ” No problems", "✔ No problems", "encoding"),
    ("doesnÃ¢â‚¬â„¢t", "doesn’t", "encoding"),
    ("cafe\u0301", "café", "unicode_form"),
    ("a\x07b\x00c\x1b[31mred\x1b[0m", "abcred", "control_characters"),
    ("\ufeffzero\u200bwidth soft\u00adhyphen a\u200db", "zerowidth softhyphen ab", "invisible_characters"),
    ("one\r\ntwo\rthree\u2028four", "one\ntwo\nthree\nfour", "line_ends"),
    ("one  \ntwo\t\nthree", "one\ntwo\nthree", "trailing_space"),
    ("\n \n  indented\n\n", "  indented", "outer_space"),
    ("Tom &amp; Jerry &amp;amp; 3 &lt; 5", "Tom & Jerry & 3 < 5", "html"),
    ("<p>One</p><p>Two<br/>Three</p>", "One\n\nTwo\nThree", "html"),
    ("It is.###eos_token###", "It is.", "special_tokens"),
    ("It is.</s></s>\n<|im_end|>\n", "It is.", "special_tokens"),
    ("<s> It is. </s>", "It is.", "special_tokens"),
    ("<|im_start|>assistant\nIt is.<|im_end|>", "It is.", "special_tokens"),
    ("Is it? <|endoftext|> [INST] ", "Is it?", "special_tokens"),
    ("[INST] Is it? [/INST]", "Is it?", "special_tokens"),
]


@pytest.mark.parametrize(("before", "after", "change"), REPAIRS)
def test_each_fault_is_repaired_and_counted_under_its_id(before: str, after: str, change: str) -> None:
    assert answer(before)[0] == after
    assert answer(before)[1][change] == 1


KEPT = [
    "“curly” ‘quotes’, ﬁne ligatures, ＦＵＬＬ width, x² and ½",
    "L’épisode À côté d’ÉTÉ: naïve Zürich – voilà …",
    "می‌خواهم नमस्‍ते 👩‍👩‍👧 ภาษา\u200bไทย 한국어 中文 日本語",
    'Use s.replace("&amp;", "&") to do that',
    "In HTML, write &amp; for an ampersand and <br> for a line break",
    "```html\n<p>a &amp; b</p>  \n\tâœ” caf\u0065\u0301\n```",
    "~~~\ntrailing  \n~~~",
    "Write `&amp;  ` or `Ã©` there",
    "    def f():\n        return 1",
    "I <s>hate</s> love it, and <s>more</s>",
    "two\n\n\nempty lines and  two spaces",
    "if (a &lt;b) { return &quot;x&quot;; }",
    "a &ltd; b &unknown; c",
]


@pytest.mark.parametrize("text", KEPT)
def test_what_is_meant_is_left_alone(text: str) -> None:
    assert answer(text) == (text, {})


def test_an_open_fence_protects_the_rest() -> None:
    assert answer("Look  \n```python\nx = 1  \ny = '&amp;'  \nz")[0] == "Look\n```python\nx = 1  \ny = '&amp;'  \nz"


def test_a_sign_of_markup_anywhere_in_the_row_keeps_its_entities() -> None:
    assert answer("Tom &amp; Jerry", question="Convert this XML")[0] == "Tom &amp; Jerry"


def test_every_repair_can_be_turned_off() -> None:
    off = Cleaner(OFF)
    for before, _, _ in REPAIRS:
        record = chat("hi", before.replace("\x00", ""))
        cleaned = off(record)
        assert cleaned.record is record and cleaned.changes == {} and cleaned.samples == []


def test_a_row_without_faults_comes_back_as_the_same_object() -> None:
    record = chat("What is it?", "A thing.")
    assert CLEANER(record) == Cleaned(record, {}, [], {}) and CLEANER(record).record is record


def test_the_given_row_is_never_changed() -> None:
    record = chat("hi  \nthere", "âœ”</s>")
    before = pickle.dumps(record)
    assert CLEANER(record).record != record
    assert pickle.dumps(record) == before


def test_further_tokens_of_the_recipe_are_cut_and_tokens_inside_are_only_counted() -> None:
    assert answer("Done.<END>", extra_special_tokens=["<END>"])[0] == "Done."
    assert answer("Done.<END>")[0] == "Done.<END>"
    cleaned = CLEANER(chat("hi", "The token <|im_end|> ends a turn."))
    assert cleaned.flags == {"special_token_inside": 1} and cleaned.changes == {}


@pytest.mark.parametrize(
    "text", ["What is [INST]", "What are [INST] and [/INST]?", "`<|im_end|>`", "Write <|im_start|>"]
)
def test_what_a_text_says_of_tokens_stays(text: str) -> None:
    assert answer(text)[0] == text


def test_samples_show_the_change_and_little_else() -> None:
    (sample,) = CLEANER(chat("hi", "x" * 500 + " âœ” " + "y" * 500)).samples
    assert sample.change == "encoding" and "âœ”" in sample.before and "✔" in sample.after
    assert len(sample.before) <= 6 * CONTEXT_CHARS and len(sample.after) <= 6 * CONTEXT_CHARS


def test_all_text_of_a_row_is_cleaned_but_data_of_tools_keeps_its_spaces_and_names() -> None:
    call = {
        "type": "function",
        "function": {"name": "n\u200b", "arguments": {"k\u200b": ["a\u200b  \n", {"b": "âœ”"}]}},
    }
    tools = [{"type": "function", "function": {"name": "n\u200b", "description": "x  \n"}}]
    turns = [
        turn("system", "be kind  \nor not"),
        turn("user", "hi"),
        turn("assistant", "", tool_calls=[call], reasoning_content="hm</s>"),
        turn("tool", "2  \n&amp;\u200b"),
        turn("assistant", "ok"),
    ]
    record = CLEANER({"messages": turns, "tools": tools}).record
    assert record is not None and record["tools"] is tools
    system, _, calling, result, _ = record["messages"]
    assert system["content"] == "be kind\nor not" and calling["reasoning_content"] == "hm"
    assert calling["tool_calls"][0]["function"] == {"name": "n\u200b", "arguments": {"k\u200b": ["a  \n", {"b": "✔"}]}}
    assert result["content"] == "2  \n&amp;"


def test_every_kind_of_row_is_cleaned() -> None:
    prompt, good, bad = [turn("user", "hi\u200b")], [turn("assistant", "yes</s>")], [turn("assistant", "no</s>")]
    pair = CLEANER({"prompt": prompt, "chosen": good, "rejected": bad})
    assert pair.record == {
        "prompt": [turn("user", "hi")],
        "chosen": [turn("assistant", "yes")],
        "rejected": [turn("assistant", "no")],
    }
    assert pair.changes == {"invisible_characters": 1, "special_tokens": 2}
    judged = CLEANER({"prompt": prompt, "completion": good, "label": True}).record
    assert judged == {"prompt": [turn("user", "hi")], "completion": [turn("assistant", "yes")], "label": True}
    # Raw text may be a piece of a longer one: its ends are not a turn's.
    assert CLEANER({"text": "one  \ntwo \n "}).record == {"text": "one\ntwo\n "}
    tokens = {"input_ids": [1], "labels": [1]}
    assert CLEANER(tokens).record is tokens


U, A, SYSTEM = turn("user", "q"), turn("assistant", "a"), turn("system", "s")
NO_QUESTION, NO_ANSWER = turn("user", " "), turn("assistant", "")
CALL = {"type": "function", "function": {"name": "f", "arguments": {}}}
CALLING = turn("assistant", "", tool_calls=[CALL])
ORDERS: list[tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, int]]] = [
    ([U, NO_ANSWER, U, A], [U, A], {"empty_turns": 1}),
    ([SYSTEM, U, A, NO_QUESTION, A], [SYSTEM, U, A], {"empty_turns": 1}),
    ([turn("system", " "), U, A], [U, A], {"empty_turns": 1}),
    ([U, A, U], [U, A], {"trailing_turns": 1}),
    ([U, CALLING, turn("tool", "2")], [U, CALLING], {"trailing_turns": 1}),
    ([U, turn("user", "r"), A], [turn("user", "q\n\nr"), A], {"joined_turns": 1}),
    ([SYSTEM, turn("system", "t"), U, A], [turn("system", "s\n\nt"), U, A], {"joined_turns": 1}),
    ([U, A, turn("assistant", "b")], [U, turn("assistant", "a\n\nb")], {"joined_turns": 1}),
    ([U, turn("assistant", "</s>"), U, A], [U, A], {"special_tokens": 1, "empty_turns": 1}),
]


@pytest.mark.parametrize(("turns", "repaired", "changes"), ORDERS)
def test_the_order_of_turns_is_repaired_where_there_is_one_way(
    turns: list[dict[str, Any]], repaired: list[dict[str, Any]], changes: dict[str, int]
) -> None:
    cleaned = CLEANER({"messages": turns})
    assert cleaned.record == {"messages": repaired} and cleaned.changes == changes


@pytest.mark.parametrize(
    "turns",
    [
        [U, CALLING, turn("tool", "2"), turn("tool", ""), A],
        [U, CALLING, CALLING, A],
        [U, A, turn("assistant", "b", weight=0)],
        [A, U, A],
    ],
)
def test_turns_that_may_be_meant_are_left_alone(turns: list[dict[str, Any]]) -> None:
    cleaned = CLEANER({"messages": turns})
    assert cleaned.record is not None and cleaned.record["messages"] is turns


HOPELESS = [
    ({"messages": [U, NO_ANSWER]}, "empty_content"),
    ({"messages": [NO_QUESTION, A]}, "empty_content"),
    ({"messages": [U, turn("assistant", "###eos_token###")]}, "empty_content"),
    ({"messages": [U]}, "no_assistant_turn"),
    ({"messages": [U, SYSTEM, A]}, "bad_role_order"),
    ({"messages": [U, turn("tool", "2"), A]}, "bad_role_order"),
    ({"prompt": [U], "chosen": [A], "rejected": [turn("assistant", "a</s>")]}, "chosen_equals_rejected"),
    ({"prompt": [NO_QUESTION], "completion": [A], "label": True}, "empty_content"),
    ({"messages": [U, turn("assistant", "\ud800")]}, "invalid_text"),
    ({"text": "\u200b"}, "empty_content"),
]


@pytest.mark.parametrize(("record", "reason"), HOPELESS)
def test_what_cannot_be_repaired_is_rejected_by_its_reason(record: dict[str, Any], reason: str) -> None:
    cleaned = CLEANER(record)
    assert cleaned.record is None and cleaned.error is not None and cleaned.error.reason == reason


def test_repairs_of_turns_can_be_refused() -> None:
    for turns, _, _ in ORDERS[:5]:
        assert Cleaner(Clean(turns="reject"))({"messages": turns}).record is None or turns[0]["role"] == "system"


PIECES = [before for before, _, _ in REPAIRS] + KEPT + [
    "\n", " ", "\t", "`", "```", "~~~\n", "&", "amp;", "&#96;", "&amp;lt; ", "<", ">", "br>", "</", "s>", "Ã", "©",
    "â€", "\x85", "\u200d", "e\u0301", "\xa0", "html", "<|im_start|>", "<pre>", "\r", "</pre>", "&#x1b;[0m",
    "&nbsp;", "",
]  # fmt: skip


def assembled(seed: int) -> dict[str, Any]:
    generator = random.Random(seed)

    def text() -> str:
        return "".join(generator.choice(PIECES) for _ in range(generator.randrange(7)))

    roles = ("user", "assistant", "system", "user", "assistant")
    turns = [turn(generator.choice(roles), text()) for _ in range(generator.randrange(1, 6))]
    return {"messages": [*turns, turn("assistant", text())]} if seed % 4 else {"text": text()}


def test_cleaning_twice_changes_nothing_more() -> None:
    num_clean = changed = 0
    for seed in range(3000):
        cleaned = CLEANER(assembled(seed))
        if cleaned.record is None:
            continue
        again = CLEANER(cleaned.record)
        assert again.record is cleaned.record and again.changes == {} and again.flags == cleaned.flags, seed
        num_clean, changed = num_clean + 1, changed + bool(cleaned.changes)
    assert num_clean > 1000 and changed > 900


def test_cleaned_text_is_composed_and_free_of_control_characters() -> None:
    for seed in range(0, 2000, 4):
        record = CLEANER(assembled(seed)).record
        text = record["text"] if record else ""
        assert not any(unicodedata.category(character) == "Cc" and character not in "\n\t" for character in text)
        assert "`" in text or "~" in text or "<" in text or unicodedata.is_normalized("NFC", text)


def test_the_short_cut_past_ftfy_misses_nothing() -> None:
    generator = random.Random(1)
    signs = "".join(map(chr, range(0xE0, 0x100))) + "‘’“”–—…"
    for _ in range(20_000):
        text = "".join(generator.choice(" aeXY.,'\"-()\n01") + generator.choice(signs + "    ") for _ in range(6)) + "."
        assert MAY_BE_BAD.search(text) or not is_bad(text), text


def test_a_cleaner_travels_between_processes() -> None:
    cleaner = pickle.loads(pickle.dumps(Cleaner(Clean(html=False))))
    assert cleaner.section == Clean(html=False)
    cleaned = cleaner(chat("hi", "a &amp; b</s>"))
    assert pickle.loads(pickle.dumps(cleaned)) == cleaned
    assert cleaned.record["messages"][1]["content"] == "a &amp; b"


HOSTILE = ["```\n", "`", "<p>", "</s> ", " \n", "\n", " ", "&amp;", "<pre>", "\t", "\u200b", "~~~ ` ", "; ", "Ã", "<s>"]


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_takes_no_more_than_linear_time(piece: str) -> None:
    started = time.process_time()
    for ending in ("x", "x \n<br>"):
        CLEANER(chat("hi", piece * (50_000 // len(piece)) + ending))
    assert time.process_time() - started < 1.0


def test_a_string_repaired_in_several_rounds_counts_once_for_each_change() -> None:
    twice = "für".encode().decode("latin-1").encode().decode("latin-1")
    row = {"text": f"Ein Buch {twice} alle &amp;amp;lt; 3  \nZeilen", "source": "a", "line": 1}
    cleaned = Cleaner(Clean())(row)
    assert cleaned.record is not None and cleaned.changes and set(cleaned.changes.values()) == {1}, cleaned.changes


def test_equal_strings_of_one_row_count_each() -> None:
    turns = [{"role": role, "content": "same "} for role in ("user", "assistant")]
    assert Cleaner(Clean())({"messages": turns, "source": "a", "line": 1}).changes["outer_space"] == 2
