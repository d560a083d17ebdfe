from __future__ import annotations

import copy
import json
import pickle
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from tests.unit.data.pii.examples import CONTACTS, IDENTITIES, keys, private_key
from trainer.data.pii.detectors.identity import is_routing_number
from trainer.data.pii.detectors.rule import Match
from trainer.data.pii.find import families
from trainer.data.pii.findings import PiiFinding, Scanned, refusal
from trainer.data.pii.replace.placeholders import placeholders
from trainer.data.pii.replace.pseudonyms import Pseudonyms
from trainer.data.pii.replace.spans import echo_pattern, may_come_again
from trainer.data.pii.scan import Scanner
from trainer.data.records.reasons import RowError
from trainer.errors import HardwareError
from trainer.recipe.pii import Pii

PHONE, MAIL, CARD, IBAN = "202-456-1111", "ann.lee@corp.de", "4012888888881881", "DE89370400440532013000"
TOKENS = frozenset(("<|im_end|>", "<|im_start|>", "[INST]", "[/INST]", "</s>", "<pad>"))
KEY = "a key of more than sixteen bytes"


def row(*contents: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    turns = [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]
    return {"messages": turns, **more, "source": "rows.jsonl", "line": 7}


def scanner(action: str = "redact", **more: Any) -> Scanner:
    return Scanner(Pii.model_validate({"action": action, **more}))


def contents(scanned: Scanned) -> list[str]:
    assert scanned.record is not None
    return [turn["content"] for turn in scanned.record["messages"]]


FULL = {
    "messages": [
        {"role": "system", "content": f"Support is {MAIL}."},
        {"role": "user", "content": f"My phone is {PHONE}, my card {CARD}"},
        {
            "role": "assistant",
            "content": f"I will ring (202) 456 1111 and write to {MAIL.upper()}",
            "reasoning_content": f"card {CARD}",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "send", "arguments": {"to": MAIL, "n": 2, "deep": [{"iban": IBAN}]}},
                },
                {
                    "id": "c2",
                    "type": "function",
                    "function": {"name": "call", "arguments": json.dumps({"phone": PHONE, "card": int(CARD)})},
                },
            ],
        },
        {"role": "tool", "name": "send", "tool_call_id": "c1", "content": json.dumps({"to": MAIL, "card": int(CARD)})},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "send",
                "description": f"as {MAIL}",
                "parameters": {
                    "type": "object",
                    "properties": {"to": {"type": "string", "default": MAIL}},
                    "required": ["to"],
                },
            },
        }
    ],
    "metadata": {"customer": {"email": MAIL, "type": MAIL, "phones": [PHONE, int("12024561111")]}},
    "source": "rows.jsonl",
    "line": 7,
}


@pytest.mark.parametrize("action", ["redact", "mask", "pseudonymise"])
def test_no_found_value_is_left_anywhere_in_a_row(action: str) -> None:
    before = copy.deepcopy(FULL)
    scanned = scanner(action)(FULL)
    assert scanned.record is not None and before == FULL
    text = json.dumps([scanned.record, [finding._asdict() for finding in scanned.findings]]).lower()
    for value in (PHONE, MAIL, CARD, IBAN, "202) 456", "2024561111"):
        assert value.lower() not in text


@pytest.mark.parametrize("action", ["redact", "mask", "pseudonymise"])
def test_form_keys_and_json_of_a_row_stay(action: str) -> None:
    record = scanner(action)(FULL).record
    assert record is not None

    def form(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: form(item) for key, item in value.items()}
        return [form(item) for item in value] if isinstance(value, list) else None

    assert form(record) == form(FULL)
    calls = record["messages"][2]["tool_calls"]
    assert isinstance(calls[0]["function"]["arguments"], dict) and calls[0]["function"]["arguments"]["n"] == 2
    assert set(json.loads(calls[1]["function"]["arguments"])) == {"phone", "card"}
    assert set(json.loads(record["messages"][3]["content"])) == {"to", "card"}
    assert [turn["role"] for turn in record["messages"]] == ["system", "user", "assistant", "tool"]
    assert record["tools"][0]["function"]["parameters"]["required"] == ["to"]


def test_the_same_value_has_one_pseudonym_in_the_row_and_across_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PII_KEY", KEY)
    scan = scanner("pseudonymise", key_env="PII_KEY")
    record = scan(FULL).record
    assert record is not None
    mail = record["messages"][2]["tool_calls"][0]["function"]["arguments"]["to"]
    assert mail.endswith("@example.com")
    assert record["messages"][0]["content"] == f"Support is {mail}." and record["metadata"]["customer"]["email"] == mail
    assert contents(scan(row(f"ask {MAIL.title()} too"))) == [f"ask {mail} too"]
    card = json.loads(record["messages"][2]["tool_calls"][1]["function"]["arguments"])["card"]
    assert isinstance(card, int) and f"my card {card}" in record["messages"][1]["content"]


def test_the_same_key_gives_the_same_pseudonyms_and_another_key_others(monkeypatch: pytest.MonkeyPatch) -> None:
    records = []
    for key in (KEY, KEY, KEY[::-1]):
        monkeypatch.setenv("PII_KEY", key)
        records.append(scanner("pseudonymise", key_env="PII_KEY")(FULL).record)
    assert records[0] == records[1] != records[2]
    assert scanner("pseudonymise")(FULL).record != scanner("pseudonymise")(FULL).record


@pytest.mark.parametrize("text", [*IDENTITIES.values(), *CONTACTS.values()])
@pytest.mark.parametrize("action", ["redact", "mask", "pseudonymise"])
def test_a_changed_row_is_clean_when_scanned_again(action: str, text: str) -> None:
    scan = scanner(action)
    once = scan(row(text, "I see."))
    assert once.verdict == "keep" and once.record is not None and once.record != row(text, "I see.")
    again = scan(once.record)
    assert again.record is once.record and not again.counts


@pytest.mark.parametrize("value", [*keys().values(), private_key()])
def test_secrets_are_redacted_even_where_the_rest_is_reported(value: str) -> None:
    scanned = scanner("report")(row(f"use {value} and {MAIL}"))
    assert value not in json.dumps(scanned.record) and MAIL in contents(scanned)[0]
    report = json.dumps([finding._asdict() for finding in scanned.findings])
    assert value not in report and MAIL not in report and value[-8:] not in report


def test_actions_by_type() -> None:
    scan = scanner("report", types={"email": "mask", "card": "drop", "phone": "error"})
    assert contents(scan(row(f"mail {MAIL}"))) == ["mail a***@c***.de"]
    assert scan(row(f"card {CARD}"))[:2] == (None, "drop")
    assert scan(row(f"phone {PHONE}, card {CARD}"))[:2] == (None, "error")


def test_a_refusal_names_the_row_but_never_the_value() -> None:
    scanned = scanner("error")(row("hello", f"my card is {CARD}"))
    error = refusal("rows.jsonl", 7, scanned.findings)
    assert error.exit_code == 3 and "rows.jsonl:7: messages[1].content: card found" in error.message
    assert CARD not in error.message + error.hint


def test_a_row_without_a_finding_is_the_same_object() -> None:
    clean = row("What is 2 + 2?", "4", metadata={"id": 12})
    assert scanner()(clean).record is clean


def test_json_in_an_answer_stays_json() -> None:
    text = json.dumps({"card": int(CARD), "note": f"a\n{MAIL}", "list": [int(CARD), 3]}, indent=1)
    for action in ("redact", "mask", "pseudonymise"):
        (changed,) = contents(scanner(action)(row(text)))
        value = json.loads(changed)
        assert value["note"].startswith("a\n") and value["list"][1] == 3 and str(value["card"]) != CARD


def test_a_value_without_context_is_found_where_the_row_has_it_elsewhere() -> None:
    changed = contents(scanner()(row("My BSN is 123456782", "I wrote down 123456782, is 123.456.782 right?")))
    assert changed == ["My BSN is [NL_BSN]", "I wrote down [NL_BSN], is [NL_BSN] right?"]


def test_a_pair_of_answers_and_a_text_row_are_scanned() -> None:
    turn = [{"role": "user", "content": MAIL}]
    pair = {"prompt": turn, "chosen": turn, "rejected": turn, "source": "a", "line": 1}
    assert scanner()(pair).counts == {"email": 3} and scanner()({"text": MAIL, "source": "a", "line": 1}).counts == {
        "email": 1
    }


@pytest.mark.parametrize(
    "tokens",
    [TOKENS, frozenset(("[EMAIL]",)), frozenset(("[EMAIL]", "<EMAIL>", "{CARD}"))],
    ids=["templates", "one", "three"],
)
def test_placeholders_are_no_special_tokens_and_split_none(tokens: frozenset[str]) -> None:
    scan = Scanner(Pii(action="redact"), special_tokens=tokens)
    text = f"{MAIL}<|im_end|>{CARD} [INST]{MAIL}[/INST] password=Xy7$kkP9q</s>"
    (changed,) = contents(scan(row(text)))
    for token in tokens | TOKENS if tokens is TOKENS else tokens:
        assert changed.count(token) == text.count(token)


def test_keys_with_a_value_are_left_over_and_stop_the_row() -> None:
    record = row("hi", metadata={MAIL: "x"})
    assert scanner()(record).verdict == "error" and scanner(on_residual="drop")(record).verdict == "drop"
    report = scanner(on_residual="report")(record)
    assert report.verdict == "keep" and [finding.action for finding in report.findings] == ["residual"]
    assert MAIL not in json.dumps([finding._asdict() for finding in report.findings])
    assert MAIL not in refusal("a", 1, scanner()(record).findings).message


def test_values_kept_for_examples_and_own_values_may_stay() -> None:
    free = (
        "ann@example.com, 202-555-0143 (phone), 192.0.2.7, 127.0.0.1, 2001:db8::7, 00:00:5e:00:53:01, +44 7700 900123"
    )
    assert not scanner()(row(free)).counts
    ours = scanner(allow=["@Corp.de", "+1 202 456 1111", "support@other.org"])
    assert not ours(row(f"{MAIL} SUPPORT@other.org, phone +1-202-456-1111")).counts
    assert ours(row("eve@other.org")).counts == {"email": 1}


def test_a_scanner_works_in_a_pool_and_hides_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PII_KEY", KEY)
    scan = scanner("pseudonymise")
    rows = [row(f"mail {MAIL} {number}") for number in range(8)]
    with ProcessPoolExecutor(2) as pool:
        assert list(pool.map(scan, rows)) == [scan(each) for each in rows]
    keyed = scanner(key_env="PII_KEY")
    assert KEY not in repr(keyed) + repr(vars(keyed)) and pickle.loads(pickle.dumps(scan))(rows[0]) == scan(rows[0])


@pytest.mark.parametrize("value", [None, "short"])
def test_a_missing_or_short_key_is_an_error_that_names_the_variable(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PII_KEY", raising=False)
    if value:
        monkeypatch.setenv("PII_KEY", value)
    with pytest.raises(HardwareError, match="PII_KEY") as caught:
        scanner(key_env="PII_KEY")
    assert "short" not in caught.value.message + caught.value.hint


def test_findings_tell_type_place_and_action() -> None:
    assert scanner("report")(row("hi", f"write to {MAIL} soon")).findings == [
        PiiFinding("email", "messages[1].content", "report", "write to a***@c***.de soon")
    ]


def test_context_in_a_sample_hides_other_values() -> None:
    scanned = scanner("report")(row(f"phone {PHONE}, {MAIL}, card {CARD}, SSN 536-90-4399, my zip is 94110"))
    report = " ".join(finding.sample for finding in scanned.findings)
    assert not any(part in report for part in ("456", "lee", "4012", "536", "94110"))


def test_a_row_nested_too_deep_is_rejected() -> None:
    deep: Any = "x"
    for _ in range(3000):
        deep = [deep]
    with pytest.raises(RowError, match="nested"):
        scanner()(row("hi", metadata={"deep": deep}))


def test_rows_without_values_cost_little() -> None:
    sentence = "Tom has 12 apples and buys 30 more at $2.50 each; how much does he pay in 2024 for all of them? "
    rows = [row(sentence + str(number), sentence[:80]) for number in range(3000)]
    scan = scanner()
    start = time.process_time()
    for each in rows:
        scan(each)
    assert len(rows) / (time.process_time() - start) > 5_000


@pytest.mark.parametrize(
    "spellings",
    [
        ["Call +49 30 901820 now", "Call 030 901820 now", "phone: 0049 30 90 18 20", "phone: +49 (0)30 901820"],
        ["Call (202) 456-1111", "Call +1 202-456-1111", "Call 202.456.1111"],
    ],
)
def test_one_telephone_number_has_one_stand_in_however_it_is_spelled(
    spellings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PII_KEY", "k" * 32)
    scan = scanner("pseudonymise", key_env="PII_KEY")
    endings = set()
    for text in spellings:
        record = scan({"text": text}).record
        assert record is not None and record["text"] != text
        endings.add("".join(char for char in record["text"] if char.isdigit())[-8:])
    assert len(endings) == 1, endings


@pytest.mark.parametrize(
    ("spelling", "variant"),
    [
        ("IBAN DE89 3704 0044 0532 0130 00", "IBAN DE89370400440532013000"),
        ("card 4539 5787 6362 1486", "card 4539578763621486"),
        ("write to Maria.Lopez@acme-widgets.com", "write to maria.lopez@ACME-widgets.com"),
    ],
)
def test_spaces_and_case_change_no_stand_in(spelling: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PII_KEY", "k" * 32)
    scan = scanner("pseudonymise", key_env="PII_KEY")
    first, second = (scan({"text": text}).record for text in (spelling, variant))
    assert first is not None and second is not None and first["text"] != spelling
    assert first["text"].replace(" ", "") == second["text"].replace(" ", "")


def test_a_stand_in_is_no_valid_number_of_a_type_that_needs_a_word_beside_it() -> None:
    rules, words = families(Pii().phone_regions), placeholders(())
    drawn = [Pseudonyms(bytes([key]) * 16, rules, words).stand_in("us_routing", "121000358") for key in range(40)]
    assert len(set(drawn)) > 30 and not any(map(is_routing_number, drawn))


@pytest.mark.parametrize(
    ("text", "value", "comes_again"),
    [
        ("call 202-456-1111", "202-456-1111", False),
        ("call 202-456-1111, not 202 456 1112", "202-456-1111", False),
        ("call 202-456-1111, again (202) 456 1111", "202-456-1111", True),
        ("call (202-456-1111", "202-456-1111", True),  # the bracket goes with the number
        ("mail ann@corp.de", "ann@corp.de", False),
        ("mail ann@corp.de or ANN@CORP.DE", "ann@corp.de", True),
        ("mail ann@corp.de, ÄRA", "ann@corp.de", True),  # letters beyond ASCII: the pattern decides
    ],
)
def test_a_value_is_looked_for_again_only_where_it_may_be(text: str, value: str, comes_again: bool) -> None:
    start = text.index(value)
    scanned = [(text, [Match(start, start + len(value), "phone" if value[0] == "2" else "email")])]
    assert bool(echo_pattern(may_come_again(scanned))) == comes_again
