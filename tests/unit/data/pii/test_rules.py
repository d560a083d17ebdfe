from __future__ import annotations

import hashlib
import random
import time
import uuid

import pytest

from tests.unit.data.pii.examples import CONTACTS, IDENTITIES, drawn, keys, private_key
from trainer.data.pii.detectors.rule import Match
from trainer.data.pii.find import families, find_all, settle
from trainer.data.pii.types import RECORDS
from trainer.recipe.pii import Pii

RULES = families(Pii().phone_regions)


def values_in(text: str) -> list[tuple[str, str]]:
    return [(match.type, text[match.start : match.end]) for match in find_all(text, RULES)]


@pytest.mark.parametrize(("type_", "text"), (IDENTITIES | CONTACTS).items())
def test_every_type_is_found_by_its_own_rule(type_: str, text: str) -> None:
    assert [name for name, _ in values_in(text)] == [type_]


@pytest.mark.parametrize(("vendor", "key"), keys().items())
def test_keys_of_every_vendor_are_found_whole(vendor: str, key: str) -> None:
    text = f"use {key} for it"
    assert [value for _, value in values_in(text)] == [key]


@pytest.mark.parametrize("value", ["12.345.678-Z", "12345678-Z", "X1234567L", "x-1234567-l"])
def test_spanish_numbers_in_all_their_forms(value: str) -> None:
    assert values_in(f"su DNI o NIE: {value}.") == [("es_dni", value)]


def test_a_private_key_is_found_as_one_block() -> None:
    block = private_key()
    assert values_in(f"here:\n{block}\nthanks") == [("private_key", block)]
    assert values_in(block.replace("\n", "\\n")) == [("private_key", block.replace("\n", "\\n"))]


WITHOUT_CHECK_DIGIT = frozenset(
    (
        *("us_ssn", "us_itin", "uk_nino", "in_pan", "driver_license", "passport", "uk_bank_account", "pk_cnic"),
        *("my_nric", "bic", "date_of_birth", "record_number", "dk_cpr"),
    )
)


@pytest.mark.parametrize(("type_", "text"), IDENTITIES.items())
def test_a_wrong_check_digit_is_no_identity_number(type_: str, text: str) -> None:
    if type_ in WITHOUT_CHECK_DIGIT:
        pytest.skip("no check digit")
    number = max(index for index, char in enumerate(text) if char.isdigit())
    wrong = [text[:number] + str((int(text[number]) + by) % 10) + text[number + 1 :] for by in range(1, 10)]
    caught = [changed for changed in wrong if type_ in dict(values_in(changed))]
    assert len(caught) <= (1 if type_ in ("nl_bsn", "uk_nhs", "be_national") else 0), caught


@pytest.mark.parametrize(
    "number",
    ["000-12-3456", "666-12-3456", "536-00-4399", "536-90-0000", "078-05-1120"],
)
def test_social_security_numbers_that_were_never_given_out(number: str) -> None:
    assert not values_in(f"SSN {number}")


@pytest.mark.parametrize(
    "text",
    [
        "Phone:\n21 284 698 2548",
        "Mobile: +44 20 7946 0958",
        "ring (0341) 8387176 tonight",
        "Fax: 259.735.7502x459",
        "(579)888-3058 fax",
        "+1 202-456-1111",
        "tel:+4930123456",
    ],
)
def test_telephone_numbers_in_the_forms_of_many_countries(text: str) -> None:
    assert [name for name, _ in values_in(text)] == ["phone"]


def test_the_next_number_is_no_part_of_a_telephone_number() -> None:
    assert values_in("call 202-456-1111 2 times") == [("phone", "202-456-1111")]


@pytest.mark.parametrize(
    "text",
    [
        "Upgrade package foo from version 1.2.3.4 today",
        "foo-1.2.3.4 runs, and so does numpy==1.26.4",
        "It runs 5.4.3.2 in production, section 2.3.1.4 says so",
        "Your order 1234567890 has shipped",
        "Order ID: 114-3941689-8772232 is late",
        "See ISBN 978-3-16-148410-0 for more",
        "The total was $12,345,678 or 23 456 789 euros",
        "at 1716239022 or 1716239022123 ms",
        "on 2024-03-12 12:30:45 and 2024-03-12T12:30:45Z, 12/03/2024",
        "log 20240312123045 from 12:30:45.123456",
        "call volume 2019-2023 grew 1600-1360=240 times",
        "at 52.520008, 13.404954",
        "0x742d35cc6634c0532925a3b844bc454e4438f44e is the hash of the commit",
        "std::vector<int>::iterator a::b; x = a[1::2]; 10:20:30:40",
        "password = os.environ['DB_PASSWORD']; token: str = get_token(); api_key=config.api_key_2",
        "the password is wrong, the secret of success is hard work, key features 2024",
        "git clone git://host/path; postgres://user:${PASSWORD}@db/name; icon@2x.png; pip install x@1.2",
        "invoice INV-20394 of account 12345678",
        "sk-your-openai-api-key-goes-here",
        "I drove 12 Main Street twice and paid 62704",
        "IBAN of length DE12 is short; GB29 NWBK 6016 1331 9268 18",
    ],
)
def test_numbers_of_nobody_are_left_alone(text: str) -> None:
    assert values_in(text) == []


def test_drawn_identifiers_are_left_alone() -> None:
    source = random.Random(3)
    for _ in range(300):
        bits = source.getrandbits(128)
        text = f"id {uuid.UUID(int=bits)} commit {hashlib.sha1(str(bits).encode()).hexdigest()} md5 {bits:032x}"
        assert values_in(text) == [], text


@pytest.mark.parametrize(
    "text",
    ["Chrome/112.0.0.0 visits", "from 300.1.2.3", "1.2.3.4.5 is an OID", "driver 31.0.15.2802"],
)
def test_dotted_numbers_that_are_no_addresses(text: str) -> None:
    assert values_in(text) == []


def test_four_small_numbers_are_an_address_where_the_text_says_so() -> None:
    assert values_in("ping 1.2.3.4") == [("ip", "1.2.3.4")] and values_in("host 10.0.0.7") == [("ip", "10.0.0.7")]


def test_overlapping_values_keep_the_stronger_type_and_all_characters() -> None:
    assert settle([Match(5, 12, "phone"), Match(0, 8, "card")]) == [Match(0, 12, "card")]
    assert values_in("postgres://ann:s3cr3tW0rd@db.corp.com/x") == [("url_credentials", "ann:s3cr3tW0rd")]


@pytest.mark.parametrize(
    "text",
    [
        *("1 " * 40_000, "12 " + "Main " * 20_000 + "12345", "a@" * 40_000, "a." * 40_000 + "@b.c", "ab:" * 40_000),
        *("::1" * 20_000, "password=" * 15_000, "-----BEGIN PRIVATE KEY-----" * 3_000, "1" * 90_000, "AB12" * 20_000),
        *("http://" + "a:" * 40_000, "eyJaaaaaaaa." * 8_000, "12 a b c street a b c d 5 " * 3_000 + "12345"),
    ],
    ids=lambda text: text[:12],
)
def test_no_text_takes_more_than_linear_time(text: str) -> None:
    start = time.process_time()
    find_all(text, RULES)
    assert time.process_time() - start < 1.5


def test_every_type_of_the_recipe_has_a_rule() -> None:
    texts = [*IDENTITIES.values(), *CONTACTS.values(), *keys().values(), private_key()]
    texts += ["https://ann:s3cr3tW0rd@corp.com", "password: " + drawn(12, seed=5) + "7x!"]
    assert {name for text in texts for name, _ in values_in(text)} == set(RECORDS)
