"""Check the 25 kinds of instruction of IFEval.

Source: definitions and keyword arguments of the published data set, https://huggingface.co/datasets/google/IFEval.
Where the paper's wording is open, a check accepts what the published verdicts accept: bullets count exactly, most
other counts are lower bounds, and words are looked for as parts of words unless they are forbidden.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from trainer.scoring.graders.json_text import parse
from trainer.scoring.graders.segments import split_sentences

Check = Callable[..., bool]

OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_WORD = re.compile(r"\w[\w'’.-]*")
_FENCE = re.compile(r"\A```(?:json)?\s*(.*?)\s*```\Z", re.DOTALL | re.IGNORECASE)


# Language

_OTHER_CODES = {"zh-cn": "zh", "zh-tw": "zh", "nb": "no"}


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE)


def language_of(text: str) -> str | None:
    """Return the ISO 639-1 code of a text's language; None for a text without a letter.

    Case is left out: the model has hardly seen texts in capital letters.
    """
    if not any(letter.isalpha() for letter in text):
        return None
    return str(_identifier().classify(" ".join(text.lower().split()))[0])


def is_in(text: str, code: str) -> bool:
    """Tell whether a text is in a language; a text without letters is in any, as IFEval has it."""
    language = language_of(text)
    return language is None or language == _OTHER_CODES.get(code.lower(), code.lower())


# Checks


def _compare(count: int, relation: str, limit: int) -> bool:
    if relation not in ("at least", "less than"):
        raise ValueError(f"relation {relation!r} is neither 'at least' nor 'less than'")
    return count >= limit if relation == "at least" else count < limit


def _occurrences(keyword: str, text: str) -> int:
    return len(re.findall(keyword, text, re.IGNORECASE))


def _parts(text: str, divider: str) -> list[str] | None:
    """Split at a divider; None if nothing stands between two of them."""
    parts = text.split(divider)
    inner = parts[1:-1]
    return None if any(not part.strip() for part in inner) else [part.strip() for part in parts if part.strip()]


def _existence(text: str, *, keywords: list[str]) -> bool:
    return all(_occurrences(keyword, text) for keyword in keywords)


def _frequency(text: str, *, keyword: str, frequency: int, relation: str) -> bool:
    return _compare(_occurrences(keyword.strip(), text), relation, frequency)


def _forbidden_words(text: str, *, forbidden_words: list[str]) -> bool:
    return not any(_occurrences(rf"\b{word}\b", text) for word in forbidden_words)


def _letter_frequency(text: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compare(text.lower().count(letter.lower()), let_relation, let_frequency)


def _response_language(text: str, *, language: str) -> bool:
    return is_in(text, language)


def _number_sentences(text: str, *, num_sentences: int, relation: str) -> bool:
    return _compare(len(split_sentences(text)), relation, num_sentences)


def _number_words(text: str, *, num_words: int, relation: str) -> bool:
    return _compare(len(re.findall(r"\w+", text)), relation, num_words)


def _number_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Paragraphs stand between the divider `***`."""
    paragraphs = _parts(text, "***")
    return paragraphs is not None and len(paragraphs) == num_paragraphs


def _nth_paragraph_first_word(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs stand between blank lines; an empty one keeps its place but does not count."""
    paragraphs = [part.strip() for part in text.split("\n\n")]
    if sum(map(bool, paragraphs)) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    opening = paragraphs[nth_paragraph - 1].split()
    word = re.split(r"[.,?!'\"]", opening[0].lstrip("'\""))[0] if opening else ""
    return word.lower() == first_word.lower()


def _number_placeholders(text: str, *, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def _postscript(text: str, *, postscript_marker: str) -> bool:
    """The marker P.P.S also matches with spaces between its letters, and P.S. as well."""
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(_occurrences(patterns.get(postscript_marker, re.escape(postscript_marker)), text))


def _number_bullet_lists(text: str, *, num_bullets: int) -> bool:
    return (
        len(re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)) + len(re.findall(r"^\s*-.*$", text, re.MULTILINE))
        == num_bullets
    )


def _constrained_response(text: str) -> bool:
    return any(option in text for option in OPTIONS)


def _number_highlighted_sections(text: str, *, num_highlights: int) -> bool:
    """Text between asterisks on one line; what stands between double ones is seen by both expressions."""
    single = [part for part in re.findall(r"\*([^\n*]*)\*", text) if part.strip()]
    double = [part for part in re.findall(r"\*\*([^\n*]*)\*\*", text) if part.strip()]
    return len(single) + len(double) >= num_highlights


def _multiple_sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter)}\s?\d+", text)) >= num_sections


def _json_format(text: str) -> bool:
    fenced = _FENCE.match(text.strip())
    try:
        parse(fenced[1] if fenced else text)
    except ValueError:
        return False
    return True


def _title(text: str) -> bool:
    return any(part.strip("<> \t") for part in re.findall(r"<<([^\n]+)>>", text))


def _two_responses(text: str) -> bool:
    """Two different answers stand on either side of ******."""
    answers = _parts(text, "******")
    return answers is not None and len(answers) == 2 and answers[0] != answers[1]


def _repeat_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end_checker(text: str, *, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _english_capital(text: str) -> bool:
    return text.isupper() and is_in(text, "en")


def _english_lowercase(text: str) -> bool:
    return text.islower() and is_in(text, "en")


def _capital_word_frequency(text: str, *, capital_frequency: int, capital_relation: str) -> bool:
    return _compare(sum(word.isupper() for word in _WORD.findall(text)), capital_relation, capital_frequency)


def _no_comma(text: str) -> bool:
    return "," not in text


CHECKS: dict[str, Check] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _response_language,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_words": _number_words,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph_first_word,
    "detectable_content:number_placeholders": _number_placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _number_bullet_lists,
    "detectable_format:constrained_response": _constrained_response,
    "detectable_format:number_highlighted_sections": _number_highlighted_sections,
    "detectable_format:multiple_sections": _multiple_sections,
    "detectable_format:json_format": _json_format,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeat_prompt,
    "startend:end_checker": _end_checker,
    "startend:quotation": _quotation,
    "change_case:english_capital": _english_capital,
    "change_case:english_lowercase": _english_lowercase,
    "change_case:capital_word_frequency": _capital_word_frequency,
    "punctuation:no_comma": _no_comma,
}


def follows(text: str, instruction: str, arguments: Mapping[str, object]) -> bool:
    """Tell whether a text follows one instruction; an empty text follows none.

    Args:
        text: The answer.
        instruction: A key of `CHECKS`.
        arguments: Its keyword arguments; those that are None do not count.

    Raises:
        KeyError: There is no such instruction.
        TypeError: An argument is missing or unknown.
        ValueError: An argument has no meaning.
    """
    stated = {name: value for name, value in arguments.items() if value is not None}
    return bool(text.strip()) and CHECKS[instruction](text, **stated)


def follows_loosely(text: str, instruction: str, arguments: Mapping[str, object]) -> bool:
    """Tell whether a text follows an instruction, also without its first or last line or its asterisks.

    Raises:
        KeyError: There is no such instruction.
        TypeError: An argument is missing or unknown.
        ValueError: An argument has no meaning.
    """
    lines = text.split("\n")
    variants = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    variants += [variant.replace("*", "") for variant in variants]
    return any(follows(variant, instruction, arguments) for variant in variants)
