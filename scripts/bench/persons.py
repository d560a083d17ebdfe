"""Measure recall of personal data by type and language, and false alarms, beside Presidio if it is installed.

    python -m scripts.bench.persons
    pip install 'recipe-trainer[presidio]' && python -m scripts.bench.persons      # Presidio beside it

Presidio runs its patterns without a model. A value counts as found if a match of any type covers it.
"""

from __future__ import annotations

import importlib.util
import random
import time
from collections.abc import Callable

from tests.unit.data.pii.examples import IDENTITIES
from tests.unit.data.pii.person_rows import BARE, IN_SENTENCES_WITHOUT_SPACES, LOOKALIKES, SENTENCES, number_of
from trainer.data.pii.detectors.rule import Match
from trainer.data.pii.find import families, find_all
from trainer.recipe.pii import DEFAULT_REGIONS, Presidio

Find = Callable[[str], list[Match]]
NUM_DRAWS = 100


def engines() -> dict[str, Find]:
    rules = families(DEFAULT_REGIONS)
    engines: dict[str, Find] = {"ours": lambda text: find_all(text, rules)}
    if importlib.util.find_spec("presidio_analyzer") is not None:
        from trainer.data.pii.detectors.presidio import PresidioDetector

        engines["presidio"] = PresidioDetector(Presidio(threshold=0.35)).find
    return engines


def recall(find: Find, cases: list[tuple[str, str]]) -> float:
    hits = 0
    for text, value in cases:
        start = text.index(value)
        hits += any(match.start <= start and start + len(value) <= match.end for match in find(text))
    return hits / len(cases)


def phone_cases(region: str, sentences: tuple[str, ...]) -> list[tuple[str, str]]:
    rng = random.Random(region)
    numbers = [number_of(rng, region) for _ in range(NUM_DRAWS)]
    return [(sentences[index % len(sentences)].format(number), number) for index, number in enumerate(numbers)]


def groups() -> dict[str, list[tuple[str, str]]]:
    cases = {f"phone {region}": phone_cases(region, sentences) for region, sentences in SENTENCES.items()}
    cases |= {f"phone {region}, no word": phone_cases(region, (sentence,)) for region, sentence in BARE.items()}
    cases |= {f"no spaces: {name}": [case] for name, case in IN_SENTENCES_WITHOUT_SPACES.items()}
    rules = families(DEFAULT_REGIONS)
    for name, text in IDENTITIES.items():
        spans = [match for match in find_all(text, rules) if match.type == name]
        cases[name] = [(text, text[spans[0].start : spans[0].end])] if spans else [(text, text)]
    return cases


def main() -> None:
    finders = engines()
    print("recall".ljust(34) + "".join(name.rjust(12) for name in finders))
    for group, cases in groups().items():
        print(group.ljust(34) + "".join(f"{recall(find, cases):12.1%}" for find in finders.values()))
    print("false alarms, of 1,000 rows".ljust(34))
    for kind, (write, wrong_type) in LOOKALIKES.items():
        rng = random.Random(kind)
        texts = [write(rng) for _ in range(1_000)]
        names = (
            wrong_type,
            f"presidio:{dict(phone='PHONE_NUMBER', card='CREDIT_CARD', email='EMAIL_ADDRESS')[wrong_type]}",
        )
        alarms = [sum(any(match.type in names for match in find(text)) for text in texts) for find in finders.values()]
        print(kind.ljust(34) + "".join(f"{count:12d}" for count in alarms))
    texts = [text for cases in groups().values() for text, _ in cases]
    for name, find in finders.items():
        started = time.process_time()
        for text in texts:
            find(text)
        print(f"{name}: {len(texts) / (time.process_time() - started):,.0f} texts a cpu-second")


if __name__ == "__main__":
    main()
