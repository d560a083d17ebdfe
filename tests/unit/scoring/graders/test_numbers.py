from __future__ import annotations

import time

import pytest

from tests.unit.scoring.graders.make import answer, mark, metric, question
from trainer.errors import DataError
from trainer.scoring.graders import grade
from trainer.scoring.graders.dispatch import GraderServices
from trainer.scoring.graders.numeric import final_number

SAME = [
    ("1/2", "0.5"),
    ("0.5", "1/2"),
    ("3/2", "3/2"),
    (r"\frac{1}{2}", "0.5"),
    (r"$\dfrac{3}{2}$", "1.5"),
    (r"-\frac{3}{2}", "-1.5"),
    (r"1\frac{1}{2}", "1.5"),
    ("1 1/2", "1.5"),
    ("1½", "1.5"),
    ("1.5 million", "1500000"),
    ("1500000", "1.5 million"),
    ("1,5 Millionen", "1500000"),
    ("5k", "5000"),
    ("$2.5M", "2500000"),
    ("twenty-one", "21"),
    ("The answer is seven.", "7"),
    ("2^{10}", "1024"),
    ("2**10", "1024"),
    ("2¹⁰", "1024"),
    ("3 × 10^8", "3e8"),
    (r"6.02 \times 10^{23}", "6.02e23"),
    (r"\sqrt{16}", "4"),
    ("1,5", "1.5"),
    ("0,125", "0.125"),
    ("1,234", "1234"),
    ("1.234,56", "1234.56"),
    ("1 234 567", "1234567"),
    ("1{,}234", "1234"),
    ("50%", "0.5"),
    ("50", "50%"),
    ("-$5", "-5"),
    ("minus 5", "-5"),
    ("x = - 5", "-5"),
    ("- 3 apples\n- 4 pears", "4"),
    ("Rs.500", "500"),
    ("EUR18", "18"),
    ("25 cm^2", "25"),
    (r"25\text{ cm}^2", "25"),
    ("5 m s^-1", "5"),
    ("≈ 72", "72"),
    ("5 to 7", "5 to 7"),
    ("1000000001", "1000000001"),
    ("The answer is 72. I checked it in 2 ways.", "72"),
    ("72 (see page 9)", "72"),
    ("72\nNote: there were 3 people.", "72"),
    (r"\boxed{72} after 3 steps", "72"),
    ("48 + 24 = 72\n#### 72\nPage 9", "72"),
    ("18 because 3*6 is 18, not 20", "18"),
    ("42 out of 50", "42"),
    ("So it's 7! There are 3 other solutions online.", "7"),
    ("7 — from the table on page 3", "7"),
    ("42 km (26 miles)", "42"),
    ("18 dollars. It is for 4 people.", "18"),
    ("Answer:\n\n**72**", "72"),
    ("First 48 clips.\nThen 24.\nSo 48+24 = 72 clips in 2 months.", "72"),
    ("Die Antwort ist 72. Das waren 3 Schritte.", "72"),
    ("12 = 15 - 3", "12"),
    ("12 apples = 15 apples - 3 apples", "12"),
    ("So 12 = 3 + 9.", "12"),
    ("12 = 15 − 3", "12"),
    ("12 = 2 * 6", "12"),
    ("12 = 3 × 4 boxes", "12"),
    ("12 = 15 - 3 = 10 + 2", "12"),
    ("15 - 3 = 12", "12"),
    ("x = 15 - 3 = 12", "12"),
    ("x = 12", "12"),
    ("12 = x", "12"),
    ("$12 = 15 - 3$", "12"),
    ("The answer is 12 = 15 - 3.", "12"),
    (r"\boxed{12} = 15 - 3", "12"),
    ("12.", "12"),
    ("12 apples", "12"),
    ("≈ 12", "12"),
    ("~12", "12"),
    ("~ 12", "12"),
    ("+12", "12"),
    ("−12", "-12"),
    ("- 12", "-12"),
    ("–12", "-12"),
    ("1 234", "1234"),
    ("1.234.567", "1234567"),
    ("12,5", "12.5"),
    ("3 lakh", "300000"),
    ("3 lakhs", "300000"),
    ("3 lac", "300000"),
    ("3,00,000", "300000"),
    ("12,34,567", "1234567"),
    ("12,34,567.50", "1234567.5"),
    ("2 crore", "20000000"),
    ("2 crores", "20000000"),
    ("Rs. 2.5 Cr", "25000000"),
    ("₹1.5 crore", "15000000"),
    ("1 crore 20 lakh", "12000000"),
    ("2 million 500 thousand", "2500000"),
    ("2 million and 500 thousand", "2500000"),
    ("3 lakh and 50 thousand rupees", "350000"),
    ("three lakh", "300000"),
    ("two crore", "20000000"),
    ("a hundred", "100"),
    ("a dozen", "12"),
    ("two dozen", "24"),
    ("2 dozen", "24"),
    ("2 dozens of eggs", "24"),
    ("1.2 quadrillion", "1.2e15"),
    ("3 Tsd.", "3000"),
    ("3 Tausend", "3000"),
    ("2 Mrd.", "2000000000"),
    ("2 milliards", "2000000000"),
    ("3 mil", "3000"),
    ("2 mil millones", "2000000000"),
    ("3 bln", "3000000000"),
    ("2 tn", "2000000000000"),
    ("3万", "30000"),
    ("1.5亿元", "150000000"),
    ("12 percent", "12"),
    ("12 pct", "12"),
    ("12 %", "12"),
    ("12 per cent", "12"),
    ("one hundred and twenty", "120"),
    ("１２", "12"),
    ("12 or so", "12"),
    ("x ≅ 12", "12"),
    ("15 - 3 => 12", "12"),
    ("15 - 3 ⇒ 12", "12"),
    ("5 < 12", "12"),
    ("The total is 12 dollars = 3 * 4.", "12"),
    ("There are 12 (= 15 - 3) apples.", "12"),
    ("15 minus 3 is 12", "12"),
    ("5 hundred", "500"),
    ("12 million people = 10 million + 2 million", "12000000"),
    ("2.5k", "2500"),
    ("2.5 thousand", "2500"),
    ("half a million", "500000"),
    ("2 and a half", "2.5"),
    ("12 x 10^3", "12000"),
    ("1.2E+4", "12000"),
    (r"x \approx 12", "12"),
    ("4 dozen", "4"),
    ("48", "4 dozen"),
    ("3 lacs", "3"),
    ("-12 = 3 - 15", "-12"),
    ("x - 3 = 15 - 6", "15"),
]
OTHER = [
    ("3/2", "1/2"),
    ("3/2", "2"),
    (r"\frac{3}{2}", r"\frac{1}{2}"),
    (r"\frac{3}{2}", "2"),
    ("1.5", "1500000"),
    ("1.5 million", "1.5"),
    ("2^{10}", "10"),
    ("1,234", "1.234"),
    ("1,5", "15"),
    ("1 1/2", "0.5"),
    ("3 × 10^8", "3"),
    ("72%", "7.2"),
    ("5 to 7", "7"),
    ("5 or 6", "6"),
    ("between 40 and 45", "45"),
    ("12:30", "30"),
    ("1:2", "2"),
    ("1000000001", "1000000002"),
    ("-5", "5"),
    ("The answer is 72. I checked it in 2 ways.", "2"),
    ("10^{10^{10}}", "10"),
    ("10**10**10", "10"),
    ("1/0", "1"),
    ("1e999", "1"),
    ("seven", "8"),
    ("12 = 15 - 3", "15"),
    ("12 = 15 - 3", "3"),
    ("3 lakh", "3"),
    ("3,00,000", "300"),
    ("2 crore", "2"),
    ("2 million 500 thousand", "500000"),
    ("3 thousand and 5 apples", "3005"),
    ("3 miles", "3000"),
    ("4 dozen", "12"),
]


@pytest.mark.parametrize(("text", "reference"), SAME)
def test_a_number_is_the_same_however_it_is_written(text: str, reference: str) -> None:
    grade = mark(metric("numeric"), text, question(reference))
    assert grade.score == 1, grade.reason


@pytest.mark.parametrize(("text", "reference"), OTHER)
def test_another_number_is_not_the_same(text: str, reference: str) -> None:
    assert mark(metric("numeric"), text, question(reference)).score == 0


def test_whole_numbers_must_be_equal_unless_a_tolerance_is_named() -> None:
    item = question("1000000000")
    assert mark(metric("numeric"), "1000000001", item).score == 0
    assert mark(metric("numeric", rel_tolerance=1e-8), "1000000001", item).score == 1


def test_an_expected_number_that_is_none_is_an_error() -> None:
    with pytest.raises(DataError, match="expects a number"):
        mark(metric("numeric"), "1", question("1/0"))


@pytest.mark.parametrize(
    "text",
    ["9" * 10**6, "1 " * 10**5, r"\frac{" * 10**5, "1,1" * 10**5, "{" * 10**6, " " * 10**6, "the answer is " * 10**5],
    ids=["digits", "numbers", "fractions", "commas", "braces", "spaces", "marks"],
)
def test_hostile_text_is_marked_wrong_in_bounded_time(text: str) -> None:
    before = time.process_time()
    assert mark(metric("numeric"), text, question("72")).score == 0
    assert time.process_time() - before < 5


EQUAL = [
    (r"\frac{3}{2}", "3/2"),
    (r"The answer is $\frac{1}{2}$. This took 3 steps.", "0.5"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    (r"So we get \boxed{\{1,2\}}", r"\{2,1\}"),
    ("Evelyn", r"\text{Evelyn}"),
    ("1.5 million", "1500000"),
    (r"Thus \boxed{\dfrac{7}{3}}. Hope it helps with 4 more!", r"\frac{7}{3}"),
]
UNEQUAL = [
    (r"\frac{3}{2}", r"\frac{1}{2}"),
    ("(0,1)", "[0,1]"),
    ("2x", "3x"),
    ("blue", "red"),
    ("", "1"),
]


def test_mathematics_is_compared_by_its_meaning() -> None:
    cases = [*EQUAL, *UNEQUAL]
    items = [question(reference) for _, reference in cases]
    marks = grade(metric("math", timeout_s=20), [answer(text) for text, _ in cases], items, GraderServices())
    assert [result.score for result in marks if result] == [1] * len(EQUAL) + [0] * len(UNEQUAL)


def test_mathematics_that_takes_too_long_is_wrong_and_the_next_answer_is_marked() -> None:
    answers = [answer("10^{10^{10}}"), answer("{" * 10**5), answer("2+1")]
    marks = grade(metric("math", timeout_s=1), answers, [question("3")] * 3, GraderServices())
    assert [result.score for result in marks if result] == [0, 0, 1]
    assert marks[0] is not None and "takes longer than 1 s" in marks[0].reason and marks[0].failure == "other"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("minus five", -5),
        ("The result is negative two hundred and five.", -205),
        ("one half", 0.5),
        ("a half", 0.5),
        ("three quarters of it", 0.75),
        ("two thirds", 2 / 3),
        ("two and a half", 2.5),
        ("five minus three is two", 2),
        ("It is not 5 but 6.", 6),
        ("It isn't 5, it is 7.", 7),
        (r"x \neq 3, so x = 4", 4),
        ("not only 5", 5),
    ],
)
def test_signs_parts_and_denials_in_words_are_read(text: str, value: float) -> None:
    number = final_number(text)
    assert number is not None and number.value == pytest.approx(value)


@pytest.mark.parametrize("text", ["The answer is not 5.", "It isn't 5.", "x ≠ 5"])
def test_a_number_that_is_denied_is_no_answer(text: str) -> None:
    assert mark(metric("numeric"), text, question("5")).score == 0
