"""What decides is told from what does not: one exchanged value keeps two rows apart, a slip or a stop word does not."""

from __future__ import annotations

from collections import Counter

import pytest

from trainer.data.duplicates.rewriting import repeats_prompt
from trainer.data.duplicates.spelling import are_kin, may_be_typo
from trainer.data.duplicates.weigh_difference import Typo, Weight, weigh_texts
from trainer.data.weigh_pairs import Slips

DECIDES = [
    ("Take 5 mg twice a day.", "Take 5 g twice a day."),
    ("Take 5 mg twice a day.", "Take 50 mg twice a day."),
    ("The diagnosis is F32.0 today.", "The diagnosis is F32.1 today."),
    ("The price fell by 3.5 points.", "The price fell by 35 points."),
    ("The result is -5 degrees.", "The result is 5 degrees."),
    ("It is due on 2024-03-01.", "It is due on 2024-03-10."),
    ("Upgrade to v1.2.3 first.", "Upgrade to v1.3.2 first."),
    ("Open /etc/app/a.conf now.", "Open /etc/app/b.conf now."),
    ("Write to ann@example.org please.", "Write to bob@example.org please."),
    ("See https://a.example/x?y=1 here.", "See https://a.example/x?y=2 here."),
    ("The sum is a + b there.", "The sum is a - b there."),
    ("It holds when x < y there.", "It holds when x > y there."),
    ("```\nif a:\n    b()\nc()\n```", "```\nif a:\n    b()\n    c()\n```"),
    ("```\nreturn rowCount\n```", "```\nreturn rowcount\n```"),
    ("total = price * 2\n", "total = price + 2\n"),
    ("Call getUser with it.", "Call getuser with it."),
    ('{"status": "open", "id": 1}', '{"status": "open", "id": "1"}'),
    ('{"status": "open"}', '{"status": "closed"}'),
    ("[1, 2]", "[2, 1]"),
    ("SELECT a FROM t WHERE region = 'DE-BY'", "SELECT a FROM t WHERE region = 'DE-BW'"),
    ("The answer is B here.", "The answer is C here."),
    ("The gas is CO in there.", "The gas is CO2 in there."),
    ("The metal is Co in there.", "The metal is CO in there."),
    ("It weighs 10² units.", "It weighs 102 units."),
    ("See § 433 BGB for this.", "See § 434 BGB for this."),
    ("The dog bites the man.", "The man bites the dog."),
    ("Turn left at the gate.", "Turn right at the gate."),
    ("Do it before the meal.", "Do it after the meal."),
    ("Fly from Rome to Oslo.", "Fly to Rome from Oslo."),
    ("The rates increase again.", "The rates decrease again."),
    ("He gave her the book.", "She gave him the book."),
    ("Yes, you can take it.", "No, you cannot take it."),
    ("You can take it.", "You can't take it."),
    ("You do take it.", "You dont take it."),
    ("Das ist ein Fehler gewesen.", "Das ist kein Fehler gewesen."),
    ("Das darf man öffnen.", "Das darf man nicht öffnen."),
    ("Il faut le prendre.", "Il ne faut pas le prendre."),
    ("Se puede abrir la caja.", "No se puede abrir la caja."),
    ("这个药可以和酒一起吃。", "这个药不可以和酒一起吃。"),
    ("この薬は飲めます。", "この薬は飲めません。"),
    ("Ask Nolvaxin for that.", "Ask Tremadol for that."),
    ("It costs $1 there.", "It costs €1 there."),
    ("The file is 5 MB large.", "The file is 5 Mb large."),
    ("Is it legal in the US?", "Is it legal for us?"),
    ("5! ways to go", "5 ways to go"),
    ("The word is 'to' in there.", "The word is 'for' in there."),
    ("The word is “invoice” in there.", "The word is “invioce” in there."),
    ('He writes "in the" in there.', 'He writes "at the" in there.'),
]


@pytest.mark.parametrize(("left", "right"), DECIDES, ids=range(len(DECIDES)))
def test_what_decides_is_never_without_weight(left: str, right: str) -> None:
    for first, second in ((left, right), (right, left)):
        weighed = weigh_texts(first, second)
        assert min(weighed.weight, weighed.forgiven) > Weight.NONE


SAME = [
    ("How do I open the box?", "how do i open the box"),
    ("How do I open the box?", "HOW DO I OPEN THE BOX?"),
    ("How do I open the box?", "Hello, how do I open the box please?"),
    ("I'm sure it isn't open.", "I am sure it is not open"),
    ("Pay the top-up today.", "Pay the top up today!"),
    ("He said “go on”, then left.", "He said 'go on' then left."),
    ("The first one.  The second\none.", "The first one. The second one."),
    ("Take 5 mg, twice a day", "Take 5 mg twice a day."),
    ('{"a": 1, "b": [2]}', '{"b":[2],"a":1}'),
    ("这个药可以一起吃。", "这个药可以一起吃"),
]


@pytest.mark.parametrize(("left", "right"), SAME, ids=range(len(SAME)))
def test_form_and_stop_words_have_no_weight(left: str, right: str) -> None:
    assert weigh_texts(left, right).weight == weigh_texts(right, left).weight == Weight.NONE


@pytest.mark.parametrize(
    ("left", "right", "is_slip"),
    [
        ("invoice", "invioce", True),
        ("invoice", "invoce", True),
        ("invoice", "invoicee", True),
        ("invoice", "inboice", True),
        ("sulfate", "sulfite", False),
        ("keine", "eine", False),
        ("able", "unable", False),
        ("hire", "fire", False),
        ("red", "rad", False),
        ("united", "untied", False),
        ("contract", "contact", False),
        ("debit", "debt", False),
        ("arteritis", "arthritis", False),
        ("marta", "maria", False),
    ],
)
def test_one_slip_of_the_hand(left: str, right: str, is_slip: bool) -> None:
    assert may_be_typo(left, right) is may_be_typo(right, left) is is_slip


def test_slips_are_named_for_the_rows_to_judge() -> None:
    weighed = weigh_texts("The invoice was never paid.", "The invioce was never paid.")
    assert weighed.typos == (Typo("invoice", "invioce"),) and weighed.weight > weighed.forgiven == Weight.NONE


@pytest.mark.parametrize(
    ("typos", "counts", "expected"),
    [
        ([Typo("invoice", "invioce")], {"invoice": 5, "invioce": 1}, True),
        ([Typo("exodus", "exous")], {}, True),
        ([Typo("marian", "maran", is_name=True)], {}, False),
        ([Typo("marta", "marita", is_name=True)], {"marta": 90, "marita": 1}, False),
        ([Typo("payer", "payee")], {"payer": 90, "payee": 1}, False),
        ([Typo("morale", "moral")], {"morale": 90, "moral": 1}, False),
        ([Typo("latitude", "altitude")], {"latitude": 90, "altitude": 1}, False),
        ([Typo("first", "firts")], {"first": 90, "firts": 1}, True),
        ([Typo("plant", "plat")], {"plant": 5, "plat": 1}, False),
        ([Typo("the", "teh")], {"the": 10, "teh": 1}, True),
        ([Typo("prefix", "prefex")], {"prefix": 9, "prefex": 9}, False),
        ([Typo("number", "nuber")] * 2, {"number": 40, "nuber": 2}, True),
        ([Typo("marin", "marbin")] * 2, {"marin": 3, "marbin": 1}, False),
        ([Typo("nicholas", "nicolas", is_name=True)] * 2, {"nicholas": 40, "nicolas": 1}, False),
    ],
    ids=[
        "known",
        "rare",
        "rare name",
        "name",
        "other end",
        "lost end",
        "other begin",
        "swapped end",
        "short",
        "glue",
        "both known",
        "again",
        "again but rare",
        "again but a name",
    ],
)
def test_all_rows_tell_a_slip_from_another_word(typos: list[Typo], counts: dict[str, int], expected: bool) -> None:
    assert Slips(set(typos), Counter(counts)).forgive(typos) is expected


def test_a_value_decides_only_against_a_value_of_its_kind_in_its_place() -> None:
    text = "Every day Parker bakes 12 loaves of bread for the people in his street"
    assert weigh_texts(text, text.replace("12", "15")).weight == Weight.VALUES
    assert weigh_texts(text, text.replace("Parker", "Sanchez")).weight == Weight.VALUES
    second = text.replace("Parker", "everyone").replace("street", "Oslo")
    assert weigh_texts(text, second).weight == Weight.ONE_SIDED


def test_lost_lines_and_moved_adverbs() -> None:
    assert weigh_texts("x = 5\ny = 2\n", "x = 5 y = 2").weight == Weight.NONE
    moved = weigh_texts("How long to send it to China urgently?", "How long to urgently send it to China?")
    assert moved.weight == Weight.WORDS
    assert weigh_texts("Convert metres to feet", "Convert feet to metres").weight == Weight.VALUES


def test_other_words_weigh_less_than_other_values() -> None:
    assert weigh_texts("I got cash there", "I withdrew cash there").weight == Weight.WORDS
    assert weigh_texts("If it rains, call me", "call me if it rains").weight == Weight.WORDS
    assert weigh_texts("pay it now", "pay 5 now").weight == Weight.ONE_SIDED


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("Correct: She go to the harbour every day.", "She goes to the harbour every day.", True),
        ("改正这句话：他昨天去学校了没有。", "他昨天去学校了没有？", True),
        ("Does she go to the harbour every day?", "Yes.", False),
        (
            "Tom has 3 apples and Ann has 4 apples. How many apples?",
            "Tom has 3 apples, Ann has 4: 3+4 = 7 = 7.0",
            False,
        ),
        ("Where does the ship go in the morning?", "It goes where the morning is, in a large harbour there.", False),
    ],
    ids=["correction", "correction without spaces", "label", "computed", "other order"],
)
def test_answers_that_rewrite_their_prompt(prompt: str, answer: str, expected: bool) -> None:
    assert repeats_prompt((prompt,), (answer,)) is expected


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("legal", "illegal", True),
        ("million", "billion", True),
        ("prednisone", "prednisolone", True),
        ("edebilir", "edemez", True),
        ("payment", "payments", False),
        ("verify", "verified", False),
        ("order", "ordering", False),
        ("window", "harbour", False),
        ("cat", "rat", False),
    ],
)
def test_kindred_words_may_be_opposites(left: str, right: str, expected: bool) -> None:
    assert are_kin(left, right) is are_kin(right, left) is expected
