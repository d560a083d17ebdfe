"""Secrets of all kinds are found whole, in every text that people leave them in, and what is none stays."""

from __future__ import annotations

import random

import pytest

from tests.unit.data.pii.secret_kinds import FIXED, INNOCENT, NAMED, TEXTS
from trainer.data.pii.find import families, find_all
from trainer.data.pii.replace.residual import remains
from trainer.data.pii.scan import Scanner
from trainer.data.pii.types import SECRETS
from trainer.recipe.pii import Pii

RULES = families(("US", "GB", "DE"))
NUM_DRAWS = 24
KEPT_NAMES = {
    "azure_storage_key": "AccountKey=",
    "azure_service_bus_key": "SharedAccessKey=",
    "azure_sas": "sig=",
    "slack_webhook": "https://",
    "discord_webhook": "https://",
}
"""What stands before the secret in a value and may stay."""


def covered(text: str, start: int, end: int) -> bool:
    return any(match.type in SECRETS and match.start <= start and end <= match.end for match in find_all(text, RULES))


def secret_span(kind: str, text: str, value: str) -> tuple[int, int]:
    name = KEPT_NAMES.get(kind, "")
    start = text.index(value)
    return start + (value.rindex(name) + len(name) if name else 0), start + len(value)


@pytest.mark.parametrize("kind", FIXED)
def test_a_key_of_fixed_form_is_found_whole(kind: str) -> None:
    rng = random.Random(kind)
    for index in range(NUM_DRAWS):
        value = FIXED[kind](rng)
        text = TEXTS[index % len(TEXTS)].format(value)
        assert covered(text, *secret_span(kind, text, value)), text


@pytest.mark.parametrize("kind", NAMED)
def test_a_secret_that_its_name_gives_away_is_found_whole(kind: str) -> None:
    rng = random.Random(kind)
    for _ in range(NUM_DRAWS):
        text, value = NAMED[kind](rng)
        start = text.index(value)
        assert covered(text, start, start + len(value)), text


@pytest.mark.parametrize("text", INNOCENT)
def test_what_is_no_secret_stays(text: str) -> None:
    assert [match for match in find_all(text, RULES) if match.type in SECRETS] == []


def test_digests_object_names_and_ids_are_no_secrets() -> None:
    rng = random.Random(5)
    for length in (7, 32, 40, 64, 128):
        for _ in range(50):
            digest = "".join(rng.choices("0123456789abcdef", k=length))
            for text in (f"commit {digest}", f"sha256:{digest}", f'"etag": "{digest}"', f"object {digest} is gone"):
                assert find_all(text, RULES) == [] or all(m.type not in SECRETS for m in find_all(text, RULES)), text


@pytest.mark.parametrize("kind", [*FIXED, *NAMED])
def test_no_part_of_a_secret_is_left_in_the_row_or_in_a_finding(kind: str) -> None:
    rng = random.Random(kind)
    value = FIXED[kind](rng) if kind in FIXED else ""
    text, value = (f"Here it is: {value}", value) if value else NAMED[kind](rng)
    scanned = Scanner(Pii())({"messages": [{"role": "user", "content": text}], "source": "rows.jsonl", "line": 1})
    assert scanned.record is not None and scanned.verdict == "keep"
    secret = text[slice(*secret_span(kind, text, value))]
    left = scanned.record["messages"][0]["content"] + "".join(finding.sample for finding in scanned.findings)
    pieces = [secret[start : start + 12] for start in range(0, max(1, len(secret) - 11), 6)]
    labels = ("BEGIN", "END", "PRIVATE", "PuTTY", "Version", "Proc-Type", "DEK-Info")
    assert not [piece for piece in pieces if piece in left and not any(label in piece for label in labels)]


HALF_REPLACED = {
    "lines of a key": ("[PRIVATE_KEY]\n", "MIIEpAIBAAKCAQEA7bq2Xk9vT4mLw8sQzJ3yHn5cRfPu1d", "\n"),
    "headers first": ("[PRIVATE_KEY]\nProc-Type: 4,ENCRYPTED\n", "kQ8Zt1VbN6yXw3LmR0aHsJ5cUeGdPfTi7oKq2WnB", ""),
    "escaped line": ("[PRIVATE_KEY]\\n", "MIIEpAIBAAKCAQEA7bq2Xk9vT4mLw8sQzJ3yHn5cRfPu1d", "\\n"),
    "tail of a token": ("key [API_KEY]-", "Qm7Zt1VbN6yXw3LmR0aHsJ5c", " ok"),
    "head of a token": ("key ", "Qm7Zt1VbN6yXw3LmR0aHsJ5c", ".[API_KEY]"),
}


@pytest.mark.parametrize("case", HALF_REPLACED)
def test_a_half_replaced_secret_is_seen_by_what_is_left_of_it(case: str) -> None:
    before, run, after = HALF_REPLACED[case]
    text = before + run + after
    spans = [text[match.start : match.end] for match in remains(text, ["[PRIVATE_KEY]", "[API_KEY]"])]
    assert spans and all(run.startswith(span.strip("-")) or run in span for span in spans)


@pytest.mark.parametrize(
    "text",
    [
        "curl -H 'Authorization: Bearer [API_KEY]' https://api.shop.io/v1/customers/orders/2024",
        '{"key": "[API_KEY]", "id": "550e8400-e29b-41d4-a716-446655440000"}',
        '{"private_key": "[PRIVATE_KEY]", "digest": "9fceb02d0ae598e95dc970b74767f19372d61af8"}',
        "[API_KEY] customer_order_2024_id and then some words",
        "[API_KEY]\n9fceb02d0ae598e95dc970b74767f19372d61af8",
    ],
)
def test_what_stands_beside_a_replaced_secret_and_is_none_is_not_held_against_the_row(text: str) -> None:
    assert remains(text, ["[PRIVATE_KEY]", "[API_KEY]"]) == []
