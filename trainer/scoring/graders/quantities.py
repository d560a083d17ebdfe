"""Read the numbers in a text as people and models write them."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass, replace
from functools import lru_cache

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_PLAIN = (
    r"(?:\d{1,3}(?:,\d{3})+(?![\d,]*,\d)(?:\.\d+)?"  # 1,234,567.8
    r"|\d{1,2}(?:,\d{2})+,\d{3}(?![\d,]*,\d|\d)(?:\.\d+)?"  # 12,34,567.8
    r"|\d{1,3}(?:\.\d{3})+,\d{1,2}(?!\d)|\d{1,3}(?:\.\d{3}){2,}(?![\d.]*\d)"  # 1.234,56 and 1.234.567
    r"|\d{1,3}(?:[ \u00a0\u202f\u2009'’]\d{3})+(?!\d)(?:[.,]\d+)?"  # 1 234 567
    r"|(?:\d+,\d{1,2}|\d+,\d{4,}|0,\d+)(?![\d,]*\d)"  # 1,5
    r"|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
)
_SIGNED = rf"[-+−]?\s*{_PLAIN}"
_NUMBER = re.compile(
    rf"(?P<fraction>(?:(?P<whole>\d+)\s*)?\\[dtc]?frac\s*(?:\{{\s*(?P<over>{_SIGNED})\s*\}}|(?P<over1>\d))"
    rf"\s*(?:\{{\s*(?P<under>{_SIGNED})\s*\}}|(?P<under1>\d)))"
    rf"|(?P<mixed>(?<!\w)(?<!\d\.)(?P<integer>\d+)[ \u00a0](?P<part>\d+)\s?/\s?(?P<parts>\d+)(?![\d/]))"
    rf"|(?P<root>\\sqrt\s*(?:\{{\s*(?P<inside>{_PLAIN})\s*\}}|(?P<inside1>\d)))"
    rf"|(?P<number>(?<!\w)(?<!\d[.,])(?P<base>{_PLAIN})"
    rf"(?:(?:\s?\^|\*\*)\s?(?:\{{\s*(?P<raised>{_SIGNED})\s*\}}|\(\s*(?P<raised2>{_SIGNED})\s*\)|(?P<raised3>[-−]?\d+))"
    rf"|(?P<raised4>[⁻]?[⁰¹²³⁴-⁹]+))?"
    rf"(?:\s*(?:×|x|\*|·|\\times|\\cdot)\s*10\s?(?:(?:\^|\*\*)\s?\{{?\s?(?P<exponent>[-−+]?\d+)\s?\}}?"
    rf"|(?P<exponent2>⁻?[⁰¹²³⁴-⁹]+)))?"
    rf"(?:\s?/\s?(?P<divisor>{_PLAIN})(?!\s?/\s?\d))?)"
)
_CURRENCY = re.compile(r"\b(USD|EUR|GBP|CHF|JPY|INR|CAD|AUD|Rs)\.?(?=\d)")
_SCALES = {
    "hundred": 1e2, "thousand": 1e3, "tausend": 1e3, "tsd": 1e3, "mille": 1e3, "mil": 1e3, "lakh": 1e5,
    "million": 1e6, "millionen": 1e6, "millones": 1e6, "millón": 1e6, "mio": 1e6, "mn": 1e6, "mln": 1e6,
    "crore": 1e7, "cr": 1e7,
    "billion": 1e9, "milliarde": 1e9, "milliarden": 1e9, "milliard": 1e9, "mrd": 1e9, "bn": 1e9, "bln": 1e9,
    "trillion": 1e12, "tn": 1e12, "trn": 1e12, "billionen": 1e12, "billón": 1e12, "billones": 1e12,
    "quadrillion": 1e15, "quintillion": 1e18,
}  # fmt: skip
_SCALE = re.compile(
    rf"(?:\\?\s|-|~|\\text\{{)*({'|'.join(sorted(_SCALES, key=len, reverse=True))})s?\b\.?", re.IGNORECASE
)
_COUNTED = {"dozen": 12, "dutzend": 12, "douzaine": 12, "docena": 12, "lac": 10**5}
"""Words that scale a number, or are what it counts: 2 dozen eggs, 4 dozens; 3 lacs are 300000, or three lakes."""
_COUNT = re.compile(rf"\s*({'|'.join(_COUNTED)})s?\b", re.IGNORECASE)
_SIGNS = {
    "百": 1e2,
    "千": 1e3,
    "万": 1e4,
    "萬": 1e4,
    "만": 1e4,
    "亿": 1e8,
    "億": 1e8,
    "억": 1e8,
    "兆": 1e12,
    "조": 1e12,
}
_LETTER = re.compile(r"([kKMB])\b")
_LETTERS = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9}
_ADDS = re.compile(r",?\s*(?:and|und|et|y)?\s*", re.IGNORECASE)
_HALF = re.compile(rf"\bhalf an? (?={'|'.join(_SCALES)})", re.IGNORECASE)
_PERCENT = re.compile(r"(?:\\?\s)*(?:\\?%|per ?cent\b|pct\b|prozent\b|pour ?cent\b|por ciento\b)", re.IGNORECASE)
_RANGE = re.compile(r"\s*(?:%|°)?\s*(?:(?P<dash>-|–|—|to|bis|à)|or|oder|ou|o)\s*(?:about\s+)?[$€£]?\s*", re.IGNORECASE)
_OUT_OF = re.compile(r"\bout of\s+$", re.IGNORECASE)
_DENIED = re.compile(r"(?:\b(?:not|nicht|never)|n['’]t|≠|!=|\\neq?)\s*[$€£]?$", re.IGNORECASE)
_CLOCK = re.compile(r":\d")
_BETWEEN = re.compile(r"\b(?:between|zwischen|entre)\s+\W?$", re.IGNORECASE)
_AND = re.compile(r"\s*(?:and|und|et|y)\s*[$€£]?\s*", re.IGNORECASE)
_FROM = re.compile(r"\bfrom\s+\W?$", re.IGNORECASE)
_EXPONENT = re.compile(r"(?:[\^_]|[\d)}]\*\*)\s?[({]?\s?[-−]?$")
_RAISED = re.compile(r"\s?\^|\*\*(?=[\d({])")
_SIGN = re.compile(r"([-−–])(\s*)[$€£]?\s?$|\b(?:minus|negative)\s+$", re.IGNORECASE)


@dataclass(frozen=True)
class Quantity:
    """A number in a text."""

    value: float
    start: int
    end: int
    is_percent: bool = False
    is_open: bool = False
    """One of several that stand for choice, as in "5 to 7" or "5 or 6"."""
    also: float | None = None
    """Its other reading, where a word after it scales it or is what it counts: 2 dozen."""


@lru_cache(maxsize=64)
def quantities(text: str) -> tuple[Quantity, ...]:
    r"""Return the numbers of a text in their order.

    Read are 1,234.5, 1 234 and 1.234.567,8; 1,5; -3 and a minus sign of typography; 3/2, 1 1/2, ½ and \frac{3}{2};
    2^{10}, 2**10, 2¹⁰ and 3 × 10^8; 1.5 million, 5k, 3 lakh, 12,34,567; 2 million 500 thousand; 50 %. Exponents of
    units are none.
    """
    text = _prepared(text)
    results: list[Quantity] = []
    scale = 1.0  # of the one before
    for match in _NUMBER.finditer(text):
        before = text[max(0, match.start() - 10) : match.start()]
        if _EXPONENT.search(before) or _OUT_OF.search(before) or _DENIED.search(before):
            continue  # m^2, x_1, a tower of powers, 3 out of 5, not 5
        last_scale, quantity = scale, _quantity(match, text)
        scale = _scaled(1.0, text, match.end())[0]
        if results and 1 < scale < last_scale and _ADDS.fullmatch(text[results[-1].end : quantity.start]):
            total = results[-1].value + math.copysign(quantity.value, results[-1].value)
            results[-1] = replace(results[-1], value=total, end=quantity.end)
            continue
        if results and _is_range(text, results[-1], quantity):
            results[-1] = replace(results[-1], is_open=True)
            quantity = replace(quantity, is_open=True)
        results.append(quantity)
    return tuple(results)


def _quantity(match: re.Match[str], text: str) -> Quantity:
    """Read a number with its sign and with what scales it."""
    value, end = _scaled(_value(match), text, match.end())
    clock = _CLOCK.match(text, end) or re.search(r"\d:$", text[max(0, match.start() - 10) : match.start()])
    if _RAISED.match(text, end) or clock:
        value = math.nan  # raised to something that is no number, a time of day, a ratio
    if _is_negative(text, match.start()):
        value = -value
    counted = _COUNT.match(text, end)
    if counted:
        scaled = value * _COUNTED[counted[1].lower()]
        return Quantity(scaled, match.start(), counted.end(), also=value)
    percent = _PERCENT.match(text, end)
    return Quantity(value, match.start(), percent.end() if percent else end, is_percent=percent is not None)


def _prepared(text: str) -> str:
    """Return a text with vulgar fractions and the thin spaces of LaTeX in plain form."""
    text = "".join(_as_fraction(letter) if "¼" <= letter <= "↉" else letter for letter in text)
    text = re.sub(r"(?<=\d)(?:\{,\}|,\\!)(?=\d)", ",", text)
    text = re.sub(r"(?<=\d)\\[,!;: ](?=\d)", "\u202f", text)
    text = re.sub(r"(?<=\d) and a half\b", ".5", text)
    text = _HALF.sub("0.5 ", text)
    return _CURRENCY.sub(r"\1 ", text)


def _as_fraction(letter: str) -> str:
    if not unicodedata.name(letter, "").startswith("VULGAR FRACTION"):
        return letter
    return " " + unicodedata.normalize("NFKC", letter).replace("\u2044", "/")


def _value(match: re.Match[str]) -> float:
    try:
        return _computed(match)
    except (OverflowError, ZeroDivisionError):
        return math.nan


def _computed(match: re.Match[str]) -> float:
    if match["fraction"]:
        over, under = plain(match["over"] or match["over1"]), plain(match["under"] or match["under1"])
        return plain(match["whole"] or "0") + over / under
    if match["mixed"]:
        return plain(match["integer"]) + plain(match["part"]) / plain(match["parts"])
    if match["root"]:
        return math.sqrt(plain(match["inside"] or match["inside1"]))
    value = plain(match["base"])
    raised = next((match[name] for name in ("raised", "raised2", "raised3", "raised4") if match[name]), None)
    if raised is not None:
        value = math.pow(value, plain(raised.translate(_SUPERSCRIPTS)))
    exponent = match["exponent"] or match["exponent2"]
    if exponent:
        value *= math.pow(10.0, plain(exponent.translate(_SUPERSCRIPTS)))
    return value / plain(match["divisor"]) if match["divisor"] else value


def plain(text: str) -> float:
    """Read one number with its separators."""
    text = re.sub(r"[\s'’]", "", text).replace("−", "-")
    if re.fullmatch(r"[-+]?\d{1,3}(?:\.\d{3})+,\d{1,2}|[-+]?\d{1,3}(?:\.\d{3}){2,}", text):
        text = text.replace(".", "").replace(",", ".")
    elif re.match(r"[-+]?(?:0,\d+$|\d+,(?:\d{1,2}|\d{4,})(?:[eE]|$))", text):
        text = text.replace(",", ".")
    return float(text.replace(",", ""))


def _scaled(value: float, text: str, end: int) -> tuple[float, int]:
    """Apply words and letters after a number: 1.5 million, 2 hundred thousand, 5k, 3万."""
    while end < len(text) and text[end] in _SIGNS:
        value, end = value * _SIGNS[text[end]], end + 1
    letter = _LETTER.match(text, end)
    if letter:
        return value * _LETTERS[letter[1]], letter.end()
    while word := _SCALE.match(text, end):
        value, end = value * _SCALES[word[1].lower()], word.end()
    return value, end


def _is_negative(text: str, start: int) -> bool:
    """Tell whether the sign before a number is one, and not a subtraction, a range, a dash or a bullet."""
    sign = _SIGN.search(text[max(0, start - 14) : start])
    if sign is None:
        return False
    if sign[1] is None:
        return True
    before = text[: start - len(sign[0])]
    if not sign[2]:
        return not before or not (before[-1].isalnum() or before[-1] in ")}]%_") or _is_name(before)
    if not before.strip():
        return "\n" not in text.strip()
    return "\n" not in sign[2] and before.rstrip(" ")[-1] in "=(<>[{,:≈~$/*^"


def _is_name(before: str) -> bool:
    """Tell whether a text ends in a command of LaTeX, after which a minus is a sign."""
    return re.search(r"\\[a-z]+$", before[-12:]) is not None


def _is_range(text: str, first: Quantity, second: Quantity) -> bool:
    before, between = text[max(0, first.start - 10) : first.start], _RANGE.fullmatch(text[first.end : second.start])
    if _BETWEEN.search(before) and _AND.fullmatch(text[first.end : second.start]):
        return True
    if between is None or _FROM.search(before):
        return False
    return between["dash"] is None or first.value < abs(second.value)


_UNITS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_WORDS = {
    "hundred": 100, "thousand": 1000, "lakh": 10**5, "million": 10**6, "crore": 10**7, "billion": 10**9,
    "trillion": 10**12,
}  # fmt: skip


_PARTS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10,
}  # fmt: skip
_SIGN_WORDS = ("minus", "negative")


def number_in_words(text: str) -> float | None:
    """Return the last number that is written in English words, with its sign and part; None where there is none.

    Example: `minus two hundred and five` is -205, `three quarters` 0.75, `two and a half` 2.5.
    """
    last: float | None = None
    total, current, sign = 0, None, 1
    half = 0.0
    text = re.sub(r"\band (?:a|one) half\b", "andhalf", text.lower())
    text = re.sub(rf"\ban? (?=(?:half|{'|'.join([*_WORDS, *_COUNTED])})\b)", "one ", text)
    before, is_minus = "", False
    for word in [*re.findall(r"[a-z]+", text), ""]:
        part = _PARTS.get(word.removesuffix("s"))
        if word in _UNITS or word in _TENS:
            sign = -1 if is_minus else 1 if current is None and not total else sign
            current = (current or 0) + _UNITS.get(word, 0) + _TENS.get(word, 0)
        elif word == "hundred" and (current is not None or total):
            current = (current or 1) * 100
        elif word in _WORDS and current is not None:
            total, current = total + current * _WORDS[word], 0
        elif word in _COUNTED and current is not None:
            current *= _COUNTED[word]
        elif part and before in _UNITS and current is not None and not total:
            last, total, current = sign * current / part, 0, None
        elif word == "andhalf" and current is not None:
            half = 0.5
        elif word != "and" or current is None:
            last = sign * float(total + current + half) if current is not None else last
            total, current, half = 0, None, 0.0
        is_minus = word in _SIGN_WORDS and before not in _UNITS and before not in _TENS  # else it is taken away
        before = word
    return last
