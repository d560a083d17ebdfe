"""Each rule finds what is planted and is silent on sound rows of the same kind."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.data.lint.rows import ENOUGH, PROSE, chat, linted, of_rule, pair
from tests.unit.data.lint.test_run import answers
from trainer.data.clean.cleaner import Cleaner
from trainer.data.lint.facts.row import PARSED_LINES, row_facts
from trainer.data.lint.finding import CountedRows, Finding, LintContext
from trainer.data.lint.findings.labels import is_one_edit, variants
from trainer.data.lint.rules import RULES
from trainer.data.lint.run import Linter, severity_of
from trainer.recipe.clean import Clean
from trainer.recipe.lint import Lint

TOOL = {"type": "object", "properties": {"city": {"type": "string", "description": "where"}}, "required": ["city"]}
THOUGHT = "<think>\nFirst the cloud, then the bread.\n</think>\n\n"


def flags(prompt: str, answer: str, **more: Any) -> tuple[str, ...]:
    return row_facts(chat(prompt, answer, **more)).flags


def talk(count: int = 60, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return sound rows that differ."""
    return [chat(text, text[::-1].capitalize() + ".") for text in answers(count, seed=seed)]


def objects(count: int, **values: Any) -> list[dict[str, Any]]:
    return [chat(text, json.dumps({"name": text, "age": i, **values})) for i, text in enumerate(answers(count))]


def only(findings: list[Finding], rule: str) -> Finding:
    (finding,) = of_rule(findings, rule)
    return finding


@pytest.mark.parametrize(
    ("rule", "prompt", "answer"),
    [
        pytest.param("F024", "Why?", f"{PROSE}\n\nHuman: And then?\n\nAssistant: Then it shuts.", id="both-sides"),
        pytest.param("F024", "Why?", f"{PROSE}\nUser: And then?\nAssistant: Then it shuts.", id="user"),
        pytest.param("F024", "Why?", f"{PROSE}\n\n### Instruction:\nName a bird.\n\n### Response:\nOwl.", id="alpaca"),
        pytest.param("F024", "Why?", "Assistant: It opens at nine.", id="own-name"),
        pytest.param("F024", "Why?", f"{PROSE.strip()} [INST] and the next? [/INST] It shuts.", id="inst"),
        pytest.param("F024", "Why?", f"{PROSE}\n<|user|>\nAnd then?\n<|assistant|>\nIt shuts.", id="zephyr"),
        pytest.param("Q008", "Why?", PROSE + "Some plants bear seeds (for example pines", id="open-bracket"),
        pytest.param("Q016", "Write.", "Dear {name},\nwe are open.", id="format-string"),
        pytest.param("Q016", "Write.", "Dear ${name},\nwe are open.", id="shell"),
        pytest.param("Q016", "Write.", "Hello %(name)s,\nwe are open.", id="percent"),
        pytest.param("Q016", "Write.", "Sehr geehrter Herr <CUSTOMER_NAME>,\nwir haben offen.", id="angle-name"),
        pytest.param("Q016", "Write.", "Dear ______,\nwe are open.", id="line"),
        pytest.param("Q016", "Write.", "Dear XXXX,\nwe are open.", id="letters"),
        pytest.param("F025", "Human: Why?\n\nAssistant:", "It opens at nine.", id="hh"),
        pytest.param("F025", "### Instruction:\nName a bird.\n\n### Response:", "An owl.", id="alpaca-prompt"),
        pytest.param("F025", "Below is an instruction that describes a task.\nName a bird.", "Owl.", id="alpaca-long"),
        pytest.param("F025", "USER: Why? ASSISTANT:", "It opens at nine.", id="vicuna"),
        pytest.param("F026", "Why?", "<think>\nFirst the cloud, then the bread.", id="think"),
        pytest.param("F026", "Why?", "<thinking>First the cloud", id="thinking"),
        pytest.param("Q008", "Why?", PROSE + "We went to the market and the", id="and-the"),
        pytest.param("Q008", "Warum?", "Wir gingen am Morgen über die lange Brücke zum Markt und der", id="und-der"),
        pytest.param("Q015", "Why?", "As of my last knowledge update, the bridge was closed.", id="last-update"),
        pytest.param("Q015", "Why?", "I know nothing after my training cut-off in 2021.", id="cutoff"),
        pytest.param("Q016", "Write.", "Dear {{first_name}},\nwe are open.", id="slot"),
        pytest.param("Q016", "Write.", "Dear Ann,\nyours\n[Company]", id="company"),
        pytest.param("Q016", "Write.", "Dear Ann,\ncome to <your address> soon.", id="angle"),
        pytest.param("Q020", "Why?", "The p\u0430yment failed.", id="cyrillic-a"),
        pytest.param("Q020", "Why?", "Log in at \u0440\u0430\u0443\u0440\u0430l to go on.", id="most-of-it"),
        pytest.param("Q020", "Why?", "It is \u0430 shop in the old town by the river.", id="one-letter-word"),
        pytest.param("Q020", "Why?", "\u0421lick here to go on.", id="cyrillic-S"),
        pytest.param("Q020", "Почему?", "Потому что бaнк закрыт.", id="latin-in-cyrillic"),
        pytest.param("Q020", "Why?", "\U0001d400\U0001d401\U0001d402\U0001d403 is bold.", id="styled"),
        pytest.param("Q021", "Read.", "T h e   l i b r a r y   o p e n s   a t   n i n e.", id="ocr"),
        pytest.param("Q022", "Code", "```python\ndef f(x:\n    return x\n```", id="python"),
        pytest.param("Q022", "Code", 'Do:\n```json\n{"a": 1,}\n```', id="json"),
        pytest.param("Q022", "Code", "Do:\n```toml\na = \n```", id="toml"),
        pytest.param("Q022", "Code", "Do:\n```py\nif x:\nreturn 1\n```", id="indent"),
        pytest.param("Q029", "Why?", "NaN", id="nan"),
        pytest.param("Q029", "Why?", "null", id="null"),
        pytest.param("Q029", "Why?", "None", id="none"),
        pytest.param("Q029", "Why?", "NA", id="na"),
        pytest.param("Q029", "Why?", "<NA>", id="pandas-na"),
        pytest.param("Q029", "nan", "It opens at nine.", id="prompt-nan"),
        pytest.param("Q029", "Translate.\n\nnan", "It opens at nine.", id="input-nan"),
        pytest.param("Q023", "What is 114 + 121?", "114 + 121 = 237", id="plus"),
        pytest.param("Q023", "How much?", "That makes 12 x 5 = 61 euros.", id="times"),
        pytest.param("Q023", "How much?", "So 1,248 × 10 = 11,480 in all.", id="thousands"),
        pytest.param("Q023", "How much?", "So 10 / 4 = 3.5 each.", id="divide"),
        pytest.param(
            "Q024", "Why?", "cgumaedcvsjodxwxghkiavusceypnesfywtzzcoiwpauhkulluauyxrsqmpfcujijaay", id="drawn"
        ),
        pytest.param("Q024", "Why?", "xcvbnm wrtpsd qwrtzp lkjhgf mnbvcx sdfghj", id="keyboard"),
        pytest.param("Q025", "Who?", "I am ChatGPT, a large language model.", id="chatgpt"),
        pytest.param("Q025", "Who?", "I'm Claude, made by Anthropic.", id="claude"),
        pytest.param("Q025", "Who?", "I was trained by researchers at OpenAI.", id="maker"),
        pytest.param("Q025", "Who?", "I'm Robo, a helpful assistant made by Acme.", id="any-maker"),
        pytest.param("Q025", "谁?", "我是通义千问，由阿里云开发。", id="chinese"),
        pytest.param("Q027", "JSON!", '{"name": "owl", "age": 2,}', id="trailing-comma"),
        pytest.param("Q027", "JSON!", '{"name": "owl", "tags": ["a", "b"}', id="bracket"),
        pytest.param("Q027", "JSON!", '{"name": "owl", "is_bird": True}', id="python-name"),
    ],
)
def test_a_planted_fault_is_named_by_its_rule(rule: str, prompt: str, answer: str) -> None:
    assert flags(prompt, answer) == (rule,)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        pytest.param(
            "Write a dialogue of a user and an assistant.", "Sure.\n\nUser: Hi\nAssistant: Hello.", id="dialogue"
        ),
        pytest.param(
            "Who is it?", "The user: a person who asks. The assistant: one who answers.", id="roles-explained"
        ),
        pytest.param("What does a human: instinct mean?", "It is a phrase.", id="human-inside"),
        pytest.param("What does <think> mean?", "It opens reasoning: `<think>` and `</think>`.", id="think-mentioned"),
        pytest.param("Why?", THOUGHT + "It opens at nine.", id="think-closed"),
        pytest.param("Why?", "No stop here, but this is a whole sentence about the library and its owl", id="no-stop"),
        pytest.param(
            "Who is new?", "I am Ann, a baker from Bonn. My last update of the shop was in May.", id="a-person"
        ),
        pytest.param("Who?", "I was trained by a nurse, and made bread by hand.", id="trained-person"),
        pytest.param("Name a painter.", "I am fond of Claude Monet, who was made famous by Paris.", id="monet"),
        pytest.param("Explain this Jinja template.", "{{ name }} is a variable.", id="jinja"),
        pytest.param("Tag the entities.", "[PERSON] Ann met [ORG] Acme on [DATE] 3 May.", id="entities"),
        pytest.param(
            "How does Llama 2 mark turns in its template?", "With [INST] before and [/INST] after.", id="inst"
        ),
        pytest.param("Why?", "It is closed for the whole winter, as the old guide says (see page four).", id="bracket"),
        pytest.param("Why?", "In LaTeX: \\frac{{a}}{{b}}.", id="latex"),
        pytest.param("Почему?", "Потому что банк закрыт, а IT-отдел работает.", id="two-scripts"),
        pytest.param("Say pine in Russian.", "It is сосна, as far as I know, and it grows there.", id="foreign-word"),
        pytest.param("Formula?", "The change Δx of 5 μm gives 2πr, with αx + β.", id="formula"),
        pytest.param("Letters?", "a b c d e f g h i j k l m n o p", id="alphabet"),
        pytest.param("Spell it.", "L i b r a r y.", id="spelled"),
        pytest.param("Code", "```python\nprint(f'{x}')\n```\n```\nno language (\n```", id="sound-code"),
        pytest.param("Code", "```python\n>>> f(1)\n2\n```", id="session"),
        pytest.param("Code", "```python\n    return x  # indented\n```", id="excerpt"),
        pytest.param("Code", "```python\ndef f(x):\n    ...\n```", id="ellipsis"),
        pytest.param("Code", 'The form:\n```json\n{"a": 1, ...}\n```', id="json-form"),
        pytest.param("How much?", "2 + 3 * 4 = 14, 10 / 3 = 3.33, 10 / 3 = 3 and 2 x 1 1/2 = 3.", id="sums"),
        pytest.param("How much?", "3x - 5 = 16, 50% of 4 = 2, $1 / 2 = 50 cents, 7 - 2 = 5.", id="equations"),
        pytest.param("In binary?", "In binary, 1 + 1 = 10.", id="binary"),
        pytest.param("If 5 + 3 = 28, what is 9 + 1?", "As 5 + 3 = 28, it is another rule.", id="puzzle"),
        pytest.param("Why?", "Rechtschreibung und Angstschweiß: die Wirtschaftsprüfung schwankt.", id="german"),
        pytest.param("Hash?", "d41d8cd98f00b204e9800998ecf8427e is the hash.", id="hash"),
        pytest.param("Dict?", '{"a": True}', id="python-dict"),
        pytest.param("Stage?", "[Romeo enters]", id="stage"),
    ],
)
def test_sound_rows_of_the_same_kind_are_left_alone(prompt: str, answer: str) -> None:
    assert flags(prompt, answer) == ()


HIDDEN = [
    ("Hi\U000e0049\U000e0067\U000e006e\U000e006f\U000e0072\U000e0065 there", "Hi there"),
    ("\u202eYear vaccine satellite.\u202c", "Year vaccine satellite."),
    ("if level != \u202e\u2066user\u2069", "if level != user"),
    ("a\U000e0101\U000e0142b", "ab"),
    ("שלום \u202eabc\u202c עולם", "שלום abc עולם"),
    ("a\u200eb", "ab"),
]
SHOWN = [
    "Go \U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f!",
    "葛\U000e0100城",
    "שלום \u2067abc\u2069 \u200fעולם",
]


@pytest.mark.parametrize(
    ("before", "after"), HIDDEN, ids=["tags", "override", "isolate", "selectors", "hebrew", "mark"]
)
def test_hidden_characters_are_removed_and_reported(before: str, after: str) -> None:
    assert "Q019" in flags("Hi", before)
    cleaned = Cleaner(Clean())(chat("Hi", before))
    assert cleaned.record is not None
    assert cleaned.record["messages"][1]["content"] == after and cleaned.changes["hidden_characters"] == 1
    put_right = linted([], replace(ENOUGH, cleaned=cleaned.changes))
    assert severity_of(only(put_right, "Q019")) == "info"


@pytest.mark.parametrize("text", SHOWN, ids=["flag", "ideograph", "hebrew"])
def test_characters_that_scripts_and_flags_need_stay(text: str) -> None:
    assert flags("Hi", text) == ()
    record = chat("Hi", text)
    assert Cleaner(Clean())(record).record is record


def test_sums_of_bad_answers_may_be_wrong() -> None:
    turns = chat("What is 1 + 1?", "1 + 1 = 3")["messages"]
    bad = {"prompt": turns[:1], "completion": turns[1:], "label": False, "source": "a.jsonl", "line": 1}
    assert row_facts(bad).flags == () and row_facts({**bad, "label": True}).flags == ("Q023",)


def test_code_and_sums_of_late_rows_are_sampled_and_the_finding_says_so() -> None:
    late = [row_facts(chat("?", "1 + 1 = 3", line=PARSED_LINES + i)) for i in range(1, 1_000)]
    checked = [facts for facts in late if "sum" in facts.traits]
    assert 0 < len(checked) < 50 and all(facts.flags == ("Q023",) for facts in checked)
    wrong = only(linted([*talk(), chat("?", "1 + 1 = 3"), chat("?", "1 + 1 = 2")]), "Q023")
    assert (wrong.count, wrong.share) == (1, 0.5) and "of 2 answers" in wrong.detail


def test_reasoning_in_some_rows_only_is_reported_unless_the_row_says_which_it_is() -> None:
    thinking = [chat(text, THOUGHT + text) for text in answers(20, seed=1)]
    assert of_rule(linted(thinking), "F027") == [] and of_rule(linted(talk()), "F027") == []
    mixed = only(linted([*talk(), *thinking]), "F027")
    assert (mixed.count, mixed.share, mixed.rows[0]) == (20, 0.25, "a.jsonl:61")
    switched = [{**row, "chat_template_kwargs": {"enable_thinking": True}} for row in thinking]
    assert of_rule(linted([*talk(), *switched]), "F027") == []
    beside = chat("Hi", "It opens at nine.")
    beside["messages"][1]["reasoning_content"] = "First the cloud."
    assert only(linted([*talk(), beside]), "F027").count == 1


@pytest.mark.parametrize("text", ["Great question! {}", "Thank you so much for asking me. {}"])
def test_a_sentence_that_opens_many_answers_is_reported(text: str) -> None:
    stock = [chat(row, text.format(row * 2)) for row in answers(20, seed=1)]
    sound = [chat(row, f"{row} {row}") for row in answers(60)]
    assert of_rule(linted([*sound, *stock]), "Q026")[0].count == 20
    assert of_rule(linted([*sound, *stock[:5]]), "Q026") == []
    assert of_rule(linted([*sound, *stock], max_stock_share=0.5), "Q026") == []


def test_a_sentence_that_ends_many_answers_is_reported() -> None:
    sound = [chat(row, f"{row} {row}") for row in answers(60)]
    stock = [chat(row, f"{row} {row} Let me know if you need more help.") for row in answers(20, seed=1)]
    assert "end with 'Let me know" in of_rule(linted([*sound, *stock]), "Q026")[0].detail


def system_rows(systems: list[str | None]) -> list[dict[str, Any]]:
    return [chat(text, "Yes.", system=system) for text, system in zip(answers(len(systems)), systems, strict=True)]


def test_system_prompts_that_differ_in_dates_or_punctuation_are_reported() -> None:
    dates: list[str | None] = [f"You are a helpful bot. Today is 2024-{1 + i % 9}-{1 + i}." for i in range(60)]
    dated = only(linted(system_rows(dates)), "B013")
    assert dated.count == 60 and "60 system prompts, 60 of 60" in dated.detail
    half = linted(system_rows([date if i % 2 else None for i, date in enumerate(dates)]))
    assert only(half, "B013").count == 30 and only(half, "B002").count == 30
    names: list[str | None] = [
        f"You are a helpful bot of the city library, and speak with {text.split()[0]} today." for text in answers(60)
    ]
    assert only(linted(system_rows([f"{name} {i * 'x'}" for i, name in enumerate(names)][:20] + names[20:])), "B013")


def test_system_prompts_that_hold_documents_are_left_alone() -> None:
    texts: list[str | None] = [f"Answer from this document: {text * 3}" for text in answers(60)]
    assert of_rule(linted(system_rows(texts)), "B013") == [] == of_rule(linted(system_rows(texts)), "B002")


def test_one_class_in_several_spellings_is_reported_among_other_answers_too() -> None:
    labels = ["billing"] * 20 + ["shipping"] * 20 + ["Billing"] * 3 + ["billing."] * 2 + ["shippping"]
    rows = [chat(text, label) for text, label in zip(answers(len(labels)), labels, strict=True)]
    mixed = only(linted([*talk(), *rows]), "B011")
    assert mixed.count == 6 and "'billing': 3 'Billing', 2 'billing.'; 'shipping': 1 'shippping'" in mixed.detail
    assert of_rule(linted([*talk(), *rows[:40]]), "B011") == []


@pytest.mark.parametrize(
    "counts",
    [{"inward": 50, "onward": 40}, {"A00.1": 60, "A00.2": 1}, {"male": 90, "female": 9}, {"class_1": 90, "class_2": 2}],
    ids=["words", "codes", "short", "numbers"],
)
def test_classes_of_their_own_are_no_spellings(counts: dict[str, int]) -> None:
    assert list(variants(counts)) == []


def test_one_edit_is_a_letter_more_less_other_or_two_changed() -> None:
    assert all(is_one_edit("shipping", second) for second in ("shiping", "shippping", "shupping", "shpiping"))
    assert not any(is_one_edit("shipping", second) for second in ("shipping", "shopper", "hspiping2", "shippingxx"))


def test_one_answer_to_very_many_prompts_is_reported_unless_rows_are_classes() -> None:
    rows = [*talk(60), *[chat(text, PROSE) for text in answers(30, seed=1)]]
    same = replace(ENOUGH, same_answer=CountedRows(30, ("a.jsonl:61",)))
    assert only(linted(rows, same), "B012").share == pytest.approx(1 / 3)
    assert of_rule(linted(rows, replace(ENOUGH, same_answer=CountedRows(9))), "B012") == []
    classes = [chat(text, ("refund", "fee", "other")[i % 3]) for i, text in enumerate(answers(90))]
    assert of_rule(linted(classes, same), "B012") == []


@pytest.mark.parametrize("odd", ["```json\n{}\n```", "Here is the JSON: {}"], ids=["fenced", "prefixed"])
def test_json_in_a_fence_or_after_words_is_reported_though_most_answers_are_no_json(odd: str) -> None:
    wrapped = [chat("x", odd.replace("{}", '{"name": "a", "age": 1}'))] * 5
    assert only(linted([*talk(200), *objects(40), *wrapped]), "Q017").count == 5
    assert of_rule(linted([*talk(200), *wrapped]), "Q017") == []  # alone it is the way of this data
    assert only(linted([*objects(60), *wrapped]), "Q017").count == 5


def test_keys_that_drift_in_a_tenth_of_the_rows_are_reported() -> None:
    drifted = [chat("x", '{"name": "a", "years": 3}')] * 6
    keys = only(linted([*objects(60), *drifted]), "Q017")
    assert keys.count == 6 and "'name,years'" in keys.detail and keys.rows[0] == "a.jsonl:61"
    spelled = [chat(text, json.dumps({"Name": text, "age": 1})) for text in answers(50, seed=2)]
    assert "'Name', 'name'" in only(linted([*objects(60), *spelled]), "Q017").detail


def test_optional_keys_are_no_drift() -> None:
    slots = [chat(text, json.dumps({f"slot{i % 7}": text})) for i, text in enumerate(answers(70))]
    assert of_rule(linted(slots), "Q017") == []


def test_values_whose_type_changes_are_reported_inside_objects_too() -> None:
    odd = [chat("x", '{"name": "a", "age": "three"}')] * 4
    types = only(linted([*objects(60), *odd]), "Q028")
    assert types.count == 4 and types.detail == "age: 60 number, 4 string" and types.rows[0] == "a.jsonl:61"
    inner = [chat("x", '{"name": "a", "age": 1, "of": {"id": 5}}')] * 3
    assert "of.id" in only(linted([*objects(60, of={"id": "5"}), *inner]), "Q028").detail
    empty = [chat("x", '{"name": "a", "age": null}')] * 4
    assert of_rule(linted([*objects(60), *empty]), "Q028") == []


def tool_row(parameters: dict[str, Any], *, name: str = "weather", called: str = "weather") -> dict[str, Any]:
    row = chat("Weather?", "Done.", tools=[{"type": "function", "function": {"name": name, "parameters": parameters}}])
    call = {"id": "c1", "type": "function", "function": {"name": called, "arguments": {"city": "Bonn"}}}
    row["messages"][1:1] = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "{}", "tool_call_id": "c1"},
    ]
    return row


def test_a_tool_whose_parameters_drift_is_reported() -> None:
    second = {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string"}}}
    drift = only(linted([*[tool_row(TOOL)] * 30, *[tool_row(second)] * 3]), "F028")
    assert drift.count == 3 and "'weather'" in drift.detail and drift.rows[0] == "a.jsonl:31"
    worded = {**TOOL, "properties": {"city": {"type": "string", "description": "a town"}}}
    assert of_rule(linted([*[tool_row(TOOL)] * 30, *[tool_row(worded)] * 3]), "F028") == []


def test_a_tool_that_the_system_prompt_describes_is_listed() -> None:
    row = tool_row(TOOL)
    del row["tools"]
    assert row_facts(row).flags == ("F022",)
    row["messages"].insert(0, {"role": "system", "content": "You may call weather(city)."})
    assert row_facts(row).flags == ()


def test_a_short_prompt_is_held_to_the_language_of_the_others() -> None:
    german = "Der Vertrag wurde gestern unterschrieben, weil der Motor der Maschine nicht mehr läuft."
    short = [chat(f"Explain the library, the owl and the garden of number {i}?", PROSE) for i in range(40)]
    foreign = chat("Explain violin contract garden these even planet museum?", german)
    mismatch = [
        finding for finding in of_rule(linted([*short, foreign]), "Q012") if "another language" in finding.detail
    ]
    assert [(finding.count, severity_of(finding)) for finding in mismatch] == [(1, "warning")]
    prompt = chat("Translate into German: the contract was signed yesterday in the harbour.", german)
    assert not any("another language" in finding.detail for finding in of_rule(linted([*short, prompt]), "Q012"))


def test_lengths_that_many_answers_share_are_a_limit_though_a_few_are_longer() -> None:
    long = [(text + " word" * 200)[: 400 if i % 3 else 250 + 7 * i] for i, text in enumerate(answers(60))]
    rows = [chat("Go", text) for text in [*long, PROSE * 9]]
    assert any("exactly 400" in finding.detail for finding in of_rule(linted(rows), "Q008"))
    varied = [chat("Go", (text + " word" * 200)[: 250 + 3 * i]) for i, text in enumerate(answers(60))]
    assert not any("exactly" in finding.detail for finding in of_rule(linted(varied), "Q008"))


def test_the_page_about_the_rules_names_each_of_them() -> None:
    page = (Path(__file__).parents[4] / "docs" / "lint.md").read_text()
    documented = set(re.findall(r"\b[FSQBPT]\d{3}\b", page))
    for first, last in re.findall(r"\b([FSQBPT]\d{3}) to ([FSQBPT]\d{3})\b", page):
        documented |= {f"{first[0]}{number:03d}" for number in range(int(first[1:]), int(last[1:]) + 1)}
    assert set(RULES) <= documented


def test_details_that_are_new_are_masked() -> None:
    linter = Linter(Lint(), mask=lambda text: text.replace("ann@example.org", "[EMAIL]"))
    rows = [chat(text, f"Ask ann@example.org now. {text}") for text in answers(40)]
    labels = [chat(text, "Ann@example.org" if i % 9 == 0 else "ann@example.org") for i, text in enumerate(answers(40))]
    for number, row in enumerate([*rows, *labels], start=1):
        linter.add(f"a.jsonl:{number}", row_facts({**row, "line": number}))
    report = str(
        [finding.to_json() for finding in linter.finish(LintContext(rows_read=80, rows_train=80, rows_heldout=20))]
    )
    assert "[EMAIL]" in report and " ann@example.org" not in report


def test_words_that_are_answers_are_no_missing_values() -> None:
    for text in ("none", "n/a", "None of them", "Na", "NAN bread", "It is null.", "NA-1"):
        assert "Q029" not in flags("Why?", text)
    assert "Q029" not in flags("Is it null?\nnan or not", "Yes")


def test_missing_values_of_pairs_and_texts_are_found_too() -> None:
    assert "Q029" in row_facts(pair("Why?", "It opens at nine.", "None")).flags
    assert "Q029" in row_facts({"text": "NaN", "source": "a.csv", "line": 1}).flags
