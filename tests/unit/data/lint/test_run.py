from __future__ import annotations

import random
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from tests.unit.data.lint.rows import ENOUGH, PROSE, chat, linted, of_rule, pair
from trainer.data.clean.cleaner import Cleaner
from trainer.data.clean.turns import EMPTY, JOINED, TRAILING
from trainer.data.lint.facts.row import row_facts
from trainer.data.lint.finding import CountedRows, LintContext, PersonalData
from trainer.data.lint.findings.upstream import CLEANED
from trainer.data.lint.frequent import Frequent
from trainer.data.lint.rules import REASONS, RULES
from trainer.data.lint.run import Linter, histogram, raise_errors, severity_of
from trainer.data.pii.hide import masked_names
from trainer.data.read.hub import commit_of
from trainer.data.records.reasons import Malformed, Undecided
from trainer.errors import DataError
from trainer.recipe.clean import Clean
from trainer.recipe.lint import Lint

HIDDEN = ("zelda.quirk77@fjordmail.de", "z***@f***.de")
WORDS = re.findall(r"\w+", "apple bread cloud dream eagle flame grape house igloo jelly knife lemon mouse night ocean")


def answers(count: int, *, seed: int = 0, words: int = 12) -> list[str]:
    """Return sentences that do not resemble each other."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=words)).capitalize() + "." for _ in range(count)]


def test_sound_rows_have_no_finding_but_what_they_lack() -> None:
    rows = [chat(text, f"I cannot help with {text}" if i < 3 else text[::-1]) for i, text in enumerate(answers(60))]
    assert linted(rows) == []


def test_few_rows_and_few_held_out_rows_are_reported() -> None:
    few = linted([], LintContext(rows_read=40, rows_train=36, rows_heldout=4))
    assert [(finding.rule, severity_of(finding)) for finding in few] == [("B001", "warning"), ("S005", "warning")]
    many = linted([], LintContext(rows_read=9000, rows_train=7500, rows_heldout=1319))
    assert [(finding.rule, severity_of(finding)) for finding in many] == [("S005", "info")]
    assert linted([], ENOUGH) == []


def test_refusals_are_too_many_or_none() -> None:
    plain = [chat(text, PROSE * 3) for text in answers(80)]
    refusals = [chat(text, "I'm sorry, but I can't help with that.") for text in answers(40, seed=1)]
    (none,) = of_rule(linted(plain), "B003")
    assert severity_of(none) == "info" and none.count == 0
    (many,) = of_rule(linted([*plain, *refusals]), "B003")
    assert severity_of(many) == "warning" and many.count == 40 and many.rows[0] == "a.jsonl:81"
    (some,) = of_rule(linted([*plain, *refusals[:8]]), "B003")
    assert severity_of(some) == "info" and some.count == 8
    assert of_rule(linted([*plain, *refusals[:1]]), "B003") == []


def test_classes_are_told_and_their_balance_is_checked() -> None:
    prompts = answers(130)
    labels = ["refund"] * 100 + ["lost_card"] * 28 + ["fee"] * 2
    ratio, few = of_rule(linted([chat(*row) for row in zip(prompts, labels, strict=True)]), "B004")[:2]
    assert ratio.count == 2 and "50 to 1" in ratio.detail and "'fee'" in few.detail
    even = [chat(text, ("refund", "lost_card", "fee")[i % 3]) for i, text in enumerate(prompts)]
    assert [finding.rule for finding in linted(even)] == ["B003"]  # no class for what belongs to none
    second = [chat(text, ("refund", "lost_card", "other")[i % 3]) for i, text in enumerate(prompts)]
    assert linted(second) == []


def test_short_answers_that_differ_are_no_classes() -> None:
    linter = Linter(Lint())
    for i, text in enumerate(answers(50, words=3)):
        linter.add(f"a.jsonl:{i}", row_facts(chat(text, text)))
    assert linter.stats()["classes"] == {}


def test_one_answer_to_everything_is_reported() -> None:
    rows = [chat(text, "ok" if i % 3 else f"no {i}") for i, text in enumerate(answers(60))]
    assert any("40 of 60 answers are 'ok'" in finding.detail for finding in of_rule(linted(rows), "B004"))


def test_system_prompts_that_differ_are_reported() -> None:
    helper = "You are a helper for customers of the bank. Answer briefly and politely."
    rows = [chat(text, "Yes.", system=helper) for text in answers(90)]
    assert of_rule(linted(rows), "B002") == []
    (missing,) = of_rule(linted([*rows, chat("Hi", "Yes.")]), "B002")
    assert missing.count == 1 and missing.rows == ("a.jsonl:91",)
    (variants,) = of_rule(linted([*rows, chat("Hi", "Yes.", system=helper + " ")]), "B002")
    assert "2 different" in variants.detail and "1 of them nearly the same" in variants.detail
    (served,) = of_rule(linted(rows, serving_system_prompt="You are a pirate."), "B002")
    assert served.count == 90 and of_rule(linted(rows, serving_system_prompt=helper), "B002") == []


def test_system_prompts_that_hold_documents_are_no_finding() -> None:
    rows = [chat("Summarise it.", "Yes.", system=f"Document: {text}") for text in answers(60)]
    assert of_rule(linted(rows), "B002") == []


def test_json_answers_with_other_keys_are_reported() -> None:
    rows = [chat(text, f'{{"name": "{i}", "price": {i}}}') for i, text in enumerate(answers(60))]
    assert of_rule(linted(rows), "Q017") == []
    odd = [*rows, chat("x", '{"nmae": "a", "price": 1}'), chat("y", "It costs five.")]
    text, keys = of_rule(linted(odd), "Q017")
    assert (text.count, text.rows) == (1, ("a.jsonl:62",))
    assert (keys.count, keys.rows) == (1, ("a.jsonl:61",)) and "nmae" in keys.detail


def test_answers_cut_at_a_limit_are_reported() -> None:
    long = [(text + " word" * 99)[: 500 if i % 2 else 300 + i] for i, text in enumerate(answers(60))]
    assert any(
        "exactly 500" in finding.detail for finding in of_rule(linted([chat("Go", text) for text in long]), "Q008")
    )
    finished = [f"{text[:499]}." if len(text) == 500 else text for text in long]
    assert not any(
        "exactly" in finding.detail for finding in of_rule(linted([chat("Go", text) for text in finished]), "Q008")
    )


def test_prose_without_an_end_is_style_when_most_of_it_is() -> None:
    finished, cut = PROSE * 3, PROSE * 2 + "and then all of them went home without a word"
    few = linted([chat(text, finished if i else cut) for i, text in enumerate(answers(50))])
    assert [finding.count for finding in of_rule(few, "Q008")] == [1]
    assert of_rule(linted([chat(text, f"{text} {i * 'x'} {cut}") for i, text in enumerate(answers(50))]), "Q008") == []


def test_an_answer_of_unusual_length_is_named() -> None:
    rows = [chat(text, text[: 40 + i % 20]) for i, text in enumerate(answers(150))] + [chat("Hi", PROSE * 80)]
    (outlier,) = of_rule(linted(rows), "Q009")
    assert outlier.count == 1 and outlier.rows == ("a.jsonl:151",)


def test_a_common_ending_is_a_stray_token() -> None:
    rows = [chat("Go", f"{text} {text} [[end of answer 7]]") for text in answers(40)]
    (ending,) = of_rule(linted(rows), "Q015")
    assert severity_of(ending) == "warning" and "end with" in ending.detail


FREE = [f"{text} {PROSE * (i % 5)}" for i, text in enumerate(answers(60))]
EDGES = {
    "a phrase before free text": [f"Dear reader of our pages, {text}" for text in FREE],
    "a phrase after free text": [f"{text} With kind regards, your team." for text in FREE],
    "both": [f"Dear reader of our pages, {text} With kind regards, your team." for text in FREE],
}


@pytest.mark.parametrize("texts", EDGES.values(), ids=EDGES)
def test_a_phrase_around_free_text_is_boilerplate(texts: list[str]) -> None:
    assert of_rule(linted([chat("Go", text) for text in texts]), "Q015")


TABLE = (
    "FROM accounting.invoices AS invoices JOIN accounting.customers AS customers ON customers.id = invoices.customer"
)
NAMES = ("Acme", "Bolt", "Crow", "Dune", "Echo", "Fern", "Gale", "Hale", "Iris", "Jade")
TEMPLATED = {
    "queries": [
        f"SELECT COUNT(*) AS invoices, SUM(amount) AS amount {TABLE} WHERE region = '{a}R' AND quarter = {b % 4} AND "
        f"year = {2000 + b} AND status = '{a}P'"
        for a in "NSEW"
        for b in range(20)
    ],
    "notes": [
        f"The patient with number {1000 + i} was admitted with the diagnosis that the code F{30 + i % 9}.{i % 8} "
        f"names and was treated for {10 + i} days, after which the symptoms had improved so that he could go home; "
        "further visits are planned with Doctor Smith"
        for i in range(80)
    ],
    "sentences": [
        f"{'Yes, you can' if i % 2 else 'No, you cannot'} take {NAMES[i % 10]} after {i} days of treatment in town."
        for i in range(80)
    ],
    "worked problems": [
        f"The first part of the trip takes {i} hours and the second {i % 7 + 2} hours, so that both take "
        f"{i + i % 7 + 2} hours. #### {i + i % 7 + 2}"
        for i in range(80)
    ],
}


@pytest.mark.parametrize("texts", TEMPLATED.values(), ids=TEMPLATED)
def test_rows_that_fill_the_slots_of_one_pattern_are_neither_boilerplate_nor_cut_off(texts: list[str]) -> None:
    rows = [chat(f"Question {i}?", text) for i, text in enumerate(texts)]
    assert [finding.detail for finding in linted(rows) if finding.rule in ("Q008", "Q015", "Q026")] == []


def test_the_longer_answer_is_always_chosen() -> None:
    pairs = [pair(text, text * 3, text) for text in answers(40)]
    assert [finding.count for finding in of_rule(linted(pairs), "B008")] == [40]
    mixed = [pair(text, text * (1 + i % 2), text * (2 - i % 2)) for i, text in enumerate(answers(40))]
    assert of_rule(linted(mixed), "B008") == []


def test_languages_that_do_not_match_are_reported() -> None:
    german = "Die Bibliothek öffnet um neun Uhr morgens und schließt um sechs, nur am Sonntag ist niemand dort."
    rows = [chat(PROSE, PROSE) for _ in range(60)] + [chat(PROSE, german)]
    mismatch, rare = of_rule(linted(rows), "Q012")
    assert mismatch.rows == rare.rows == ("a.jsonl:61",)
    translation = [chat(PROSE, german) for _ in range(60)]
    assert of_rule(linted(translation), "Q012") == []


def test_special_tokens_are_an_error_when_they_are_everywhere() -> None:
    plain = [chat(text, text[::-1]) for text in answers(200)]
    spoiled = [chat(text, text[::-1] + "</s>") for text in answers(200, seed=1)]
    few, many = linted([*plain, spoiled[0]]), linted([*plain, *spoiled])
    assert [severity_of(finding) for finding in of_rule(few, "F019")] == ["warning"]
    raise_errors([finding.to_json() for finding in few])
    assert of_rule(many, "F019")[0].count == 200
    assert of_rule(few, "F019")[0].detail and of_rule(many, "F019")[0].detail
    with pytest.raises(DataError, match="F019: special tokens inside the text"):
        raise_errors([finding.to_json() for finding in many])
    raise_errors([finding.to_json() for finding in linted(spoiled, severity={"F019": "info"})])
    assert of_rule(linted(spoiled, ignore=["F019"]), "F019") == []


def test_what_other_steps_counted_is_reported() -> None:
    context = LintContext(
        rows_read=1000,
        rows_train=700,
        rows_heldout=200,
        formats={"a.jsonl": {"messages": 990, "alpaca": 10}},
        rejected={
            "invalid_json": CountedRows(2, ("a.jsonl:4",)),
            "invalid_csv": CountedRows(1, ("b.csv:2",)),
            "in_heldout": CountedRows(9),
        },
        near_duplicates=CountedRows(5, ("a.jsonl:3 = a.jsonl:1",)),
        leaks={"exact": CountedRows(3, ("a.jsonl:7 = t.jsonl:1",))},
        pii={
            "email": PersonalData(CountedRows(4), "report"),
            "api_key": PersonalData(CountedRows(2), "redact"),
            "jwt": PersonalData(CountedRows(1, ("a.jsonl:9",)), "report"),
            "de_tax_id": PersonalData(CountedRows(1), "redact"),
        },
    )
    findings = linted([], context)
    report = [(finding.rule, severity_of(finding), finding.count) for finding in findings]
    assert report == [
        ("P100", "error", 1),
        ("S001", "error", 3),
        ("F001", "warning", 3),
        ("P001", "warning", 4),
        ("F004", "info", 10),
        ("P006", "info", 1),
        ("P100", "info", 2),
        ("Q002", "info", 5),
    ]
    (unread,) = of_rule(findings, "F001")
    assert unread.rows == ("b.csv:2", "a.jsonl:4") and unread.share == 0.003


def test_a_finding_is_written_with_title_and_fix() -> None:
    (finding,) = linted([], LintContext(rows_read=9, rows_train=9, rows_heldout=10), min_heldout_share=0.0)
    assert finding.to_json() == {
        "rule": "B001",
        "severity": "warning",
        "title": RULES["B001"].title,
        "detail": "9 training rows (at least 50)",
        "count": 9,
        "share": None,
        "rows": [],
        "fix": RULES["B001"].fix,
    }


def test_texts_that_are_shown_are_masked() -> None:
    linter = Linter(Lint(), mask=lambda text: text.replace("ann@example.org", "[EMAIL]"))
    for i, text in enumerate(answers(60)):
        linter.add(f"a.jsonl:{i}", row_facts(chat(text, "ann@example.org", system="Ask ann@example.org")))
    report = str([finding.to_json() for finding in linter.finish(ENOUGH)]) + str(linter.stats())
    assert "[EMAIL]" in report and "ann@" not in report


@pytest.mark.parametrize("section", [{"ignore": ["Q999"]}, {"severity": {"F777": "info"}}])
def test_a_rule_that_does_not_exist_is_refused(section: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="no rule"):
        Linter(Lint(**section))


def test_every_reason_of_a_malformed_row_has_a_rule() -> None:
    assert {*get_args(Malformed), *get_args(Undecided)} == set(REASONS) and set(REASONS.values()) <= set(RULES)


def test_rules_are_named_in_order_and_say_what_to_do() -> None:
    assert all(rule.id == name and rule.title for name, rule in RULES.items())
    assert all(rule.fix for rule in RULES.values() if rule.severity != "info")
    kinds = [name[0] for name in RULES]
    assert kinds == sorted(kinds, key="FSQBPT".index)


def test_rows_are_listed_up_to_the_limit() -> None:
    rows = [chat("Hi", " x ") for _ in range(30)]
    assert of_rule(linted(rows, max_rows_listed=2), "Q007")[0].rows == ("a.jsonl:1", "a.jsonl:2")
    assert of_rule(linted(rows, max_rows_listed=0), "Q007")[0].rows == ()


def test_the_worst_rows_break_the_most_rules() -> None:
    linter = Linter(Lint())
    for i, answer in enumerate(["fine", "x</s> ", " caf\u0065\u0301 <br></s>", *["ok"] * 20]):
        linter.add(f"a.jsonl:{i}", row_facts(chat("Hi", answer)))
    worst = linter.stats()["worst_rows"]
    assert [row["row"] for row in worst] == ["a.jsonl:2", "a.jsonl:1"]
    assert worst[0]["rules"] == ["F019", "Q005", "Q006"]


def test_frequent_values_survive_in_bounded_memory() -> None:
    table, rng = Frequent(limit=50), random.Random(0)
    values = ["often"] * 3_000 + [f"rare {i}" for i in range(3_000)]
    rng.shuffle(values)
    for value in values:
        table.add(value)
    (value, count), *_ = table.most_common(1)
    assert value == "often" and 3_000 - table.error <= count <= 3_000
    assert len(table.counts) <= 50 and not table.is_exact and table.total == 6_000


def test_a_histogram_counts_every_length_once() -> None:
    import numpy as np

    lengths = np.array([0, 7, 8, 15, 16, 1000])
    drawn = histogram(lengths)
    assert drawn["edges"][:4] == [0, 8, 16, 32] and drawn["counts"][:3] == [2, 2, 1]
    assert sum(drawn["counts"]) == 6 and drawn["quantiles"][0] == 0 and drawn["quantiles"][-1] == 1000
    assert histogram(np.array([], dtype=np.int64)) == {}


def test_pairs_that_contradict_each_other_are_named() -> None:
    rows = [pair(text, f"{text} Good.", f"{text} Bad.") for text in answers(30)]
    assert of_rule(linted(rows), "Q018") == []
    first = answers(30)[4]
    turned = pair(first, f"{first}  bad.", "Something else.")
    (finding,) = of_rule(linted([*rows, turned]), "Q018")
    assert (finding.count, finding.rows, severity_of(finding)) == (2, ("a.jsonl:31 = a.jsonl:5",), "warning")
    other_prompt = pair(answers(1, seed=9)[0], f"{first} Bad.", "Something else.")
    assert of_rule(linted([*rows, other_prompt]), "Q018") == []


def test_prompts_that_are_only_alike_are_no_more_than_a_note() -> None:
    context = replace(ENOUGH, conflicts=CountedRows(2, ("a:1 = a:2",)), near_conflicts=CountedRows(90, ("a:3 = a:4",)))
    same, alike = of_rule(linted([], context), "Q003")
    assert (same.count, severity_of(same)) == (2, "warning") and (alike.count, severity_of(alike)) == (90, "info")
    labelled = [chat(text, ("refund", "lost_card", "other")[i % 3]) for i, text in enumerate(answers(60))]
    assert [severity_of(finding) for finding in of_rule(linted(labelled, context), "Q003")] == ["warning", "warning"]


def test_what_was_put_right_is_reported_under_the_rule_it_broke() -> None:
    context = replace(ENOUGH, cleaned={"special_tokens": 108, "trailing_turns": 3, "special_token_inside": 2})
    listed = [(finding.rule, finding.count, severity_of(finding)) for finding in linted([], context)]
    assert listed == [("F009", 3, "info"), ("F019", 108, "info")]


def test_every_change_by_cleaning_has_a_rule() -> None:
    cleaner = Cleaner(Clean())
    steps = {change for change, _ in cleaner.spoken + cleaner.ends + cleaner.html}
    assert steps | {EMPTY, TRAILING, JOINED} == set(CLEANED)


def test_indentation_that_cleaning_keeps_is_no_fault() -> None:
    assert of_rule(linted([chat("Complete it.", "    return 1") for _ in range(60)]), "Q007") == []
    assert of_rule(linted([chat("Complete it.", "\n\nreturn 1 ")]), "Q007")[0].count == 1


def test_a_data_set_of_the_hub_without_a_revision_is_reported_with_its_commit() -> None:
    (pinned, unknown) = of_rule(linted([], replace(ENOUGH, unpinned={"hub:a/b": "f" * 40, "hub:c/d": ""})), "F020")
    assert pinned.to_json()["fix"] == f"set data.sources[].revision: {'f' * 40}" and "hub:a/b" in pinned.detail
    assert unknown.to_json()["fix"] == RULES["F020"].fix


def test_the_commit_is_read_from_the_addresses_downloaded() -> None:
    address = f"hf://datasets/owner/name@{'0123456789' * 4}/data/train.parquet"
    part = SimpleNamespace(info=SimpleNamespace(download_checksums={address: {}}))
    assert commit_of({"train": part}) == commit_of(part) == "0123456789" * 4
    assert commit_of(SimpleNamespace(info=SimpleNamespace(download_checksums=None))) == ""


def test_quoted_texts_are_cut_from_the_masked_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [chat(f"ask {text}", f"Mail zelda.quirk77@fjordmail.de for the list of {text}") for text in answers(60)]
    masked = [chat(row["messages"][0]["content"], row["messages"][1]["content"].replace(*HIDDEN)) for row in rows]
    for limit in (100, 0):  # also where the table is full
        monkeypatch.setattr("trainer.data.lint.tally.MAX_MASKED", limit)
        linter = Linter(Lint())
        for number, (row, hidden) in enumerate(zip(rows, masked, strict=True), start=1):
            linter.add(f"a.jsonl:{number}", row_facts(row, hidden))
        (finding,) = of_rule(linter.finish(ENOUGH), "Q015")
        assert finding.count > 50 and "'Mail z***@f***.de for" in finding.detail


def test_other_values_of_one_form_are_no_common_opening() -> None:
    linter = Linter(Lint())
    for number, text in enumerate(answers(60), start=1):
        row = chat(f"ask {text}", f"{100 + number}-22-8726 is the number. {text}")
        hidden = chat(f"ask {text}", f"***-**-**** is the number. {text}")
        linter.add(f"a.jsonl:{number}", row_facts(row, hidden))
    assert of_rule(linter.finish(ENOUGH), "Q015") == []


def test_classes_that_look_the_same_masked_are_counted_together() -> None:
    assert masked_names({"a@b.de": 2, "b@b.de": 3, "x": 1}, lambda name: "***" if "@" in name else name) == {
        "***": 5,
        "x": 1,
    }
