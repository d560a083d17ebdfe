"""Make recipes/data/icd10cm-chapters.jsonl, the quickstart's data set: condition name -> ICD-10-CM chapter.

    python scripts/data/make_icd10cm_chapters.py SOURCE_FOLDER [OUTPUT_FILE]    (from the repository root)

SOURCE_FOLDER holds terms.jsonl and titles.jsonl drawn from the ICD-10-CM April 2026 tabular list (US CDC/NCHS and
CMS, public domain). Standard library only; the same source gives the same bytes. Selection, in order:

1. Pool: unambiguous inclusion terms and titles of 3-character categories, a closing "NOS" cut off; at most 45 letters,
   spaces, hyphens and apostrophes; nothing SENSITIVE; no name twice (case ignored) and none of several categories.
2. Common stem: some word outside GENERIC has its first five letters in eight or more categories of the pool.
3. Draw: per chapter, 48 rows in seeded random order, at most three of one category.
4. Chapters: of CANDIDATES, the seven that a naive Bayes classifier over word stems and character 4-grams tells apart
   best (5-fold cross-validation, whole categories held out, mean over CHOICE_SEEDS): chosen because their words differ,
   so the task is easier than ICD-10-CM coding. The data set is drawn with DATA_SEED; no row is picked by score.
5. Declines: 48 of the phrases below, answered null and drawn alike; each theme counts as one category.
"""

import hashlib
import itertools
import json
import math
import random
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from statistics import fmean

PER_CLASS, PER_CATEGORY, CHAPTERS, FOLDS, DATA_SEED, CHOICE_SEEDS = 48, 3, 7, 5, 0, range(1, 9)
CANDIDATES = (2, 5, 7, 8, 9, 10, 11, 13, 14, 15, 17, 19)
SYSTEM = 'Give the ICD-10-CM chapter of the condition as JSON: {"chapter": NUMBER}. Not a condition: {"chapter": null}.'
SENSITIVE = re.compile(
    "abort|abuse|cutting|gender|genitalia|herma|masturb|necroph|orgasm|pedoph|psychopath|retard|sex|"
    "subnormal|suicid|terminat",
    re.I,
)
GENERIC = set(
    [
        "acute",
        "and",
        "chronic",
        "classified",
        "complication",
        "complications",
        "condition",
        "conditions",
        "disease",
        "diseases",
        "disorder",
        "disorders",
        "due",
        "elsewhere",
        "following",
        "from",
        "in",
        "left",
        "nonspecific",
        "not",
        "of",
        "or",
        "other",
        "primary",
        "related",
        "right",
        "secondary",
        "specified",
        "subacute",
        "syndrome",
        "the",
        "to",
        "type",
        "unspecified",
        "with",
        "without",
    ]
)
DECLINES = """garden: Watering tomato plants|Pruning roses|Lawn mower; football: Who won the cup final|Football scores
    today|Penalty shoot-out rules; cars: Used car prices|Winter tyres|Where to park downtown; baking: Chocolate cake
    recipe|How to bake sourdough|Banana bread without eggs; tools: Cordless drill|Set of screwdrivers|Adjustable
    wrench; animals: Golden retriever puppy|Name for a parrot|Fastest bird in the world; account: Change my
    password|Reset my login|Delete my account; weather: Will it rain tomorrow|Sunny weekend ahead|Snow forecast for
    Friday; furniture: Wooden bookshelf|Leather sofa|Folding kitchen table; money: Open a savings account|Exchange
    euros for yen|Monthly rent payment; space: Moons of Jupiter|Rocket launch date|Distance to the sun; films: Funny
    movies for kids|Cinema tickets|New science fiction series; office: Meeting at ten|Send the invoice|Printer is
    out of paper; coding: Python list comprehension|Sort an array|Fix a merge conflict; travel: Flight to
    Lisbon|Train times to Berlin|Hotel with a pool; school: Homework for Monday|Multiplication table|Essay about
    rivers; music: Play some jazz|Acoustic guitar chords|Loudest rock concert; phone: Phone charger|Turn on the
    flashlight|Set an alarm for seven; shopping: Blue cotton shirt|Running shoes on sale|Return my order; food: Best
    pizza in town|Cheap ramen near me|Table for two tonight"""


def pool(source):
    """Return {chapter: [(name, category), ...]} in the source's order (steps 1 and 2)."""

    def read(file):
        return map(json.loads, (source / file).read_text(encoding="utf-8").splitlines())

    terms = [(r["description"], r["category"], r["chapter"]) for r in read("terms.jsonl") if not r["ambiguous"]]
    terms += [(r["title"], r["category"], r["chapter"]) for r in read("titles.jsonl") if len(r["code"]) == 3]
    names, rows = defaultdict(list), defaultdict(list)
    for name, category, chapter in ((re.sub(" NOS$", "", name), *fields) for name, *fields in terms):
        if len(name) <= 45 and re.fullmatch(r"[A-Za-z' -]+", name) and not SENSITIVE.search(name):
            names[name.lower()].append((name, category, chapter))
    names = {key: terms[0] for key, terms in names.items() if len({category for _, category, _ in terms}) == 1}
    stems = {key: {w[:5] for w in re.findall("[a-z]{5,}", key) if w not in GENERIC} for key in names}
    spread = Counter(stem for stem, _ in {(stem, names[key][1]) for key in names for stem in stems[key]})
    for key, (name, category, chapter) in names.items():
        if any(spread[stem] >= 8 for stem in stems[key]):
            rows[chapter].append((name, category))
    return rows


def draw(rows, seed):
    """Draw PER_CLASS rows in random order, at most PER_CATEGORY of one category (step 3)."""
    drawn, count = [], Counter()
    for name, category in random.Random(seed).sample(rows, len(rows)):
        if count[category] < PER_CATEGORY and len(drawn) < PER_CLASS:
            count[category] += 1
            drawn.append((name, category))
    return drawn


def scores(drawn, seed):
    """Return (chapter, {chapter: held-out naive Bayes score}) of every row; one vocabulary serves any set of chapters."""
    cats = sorted({cat for rows in drawn.values() for _, cat in rows})
    fold = {cat: i % FOLDS for i, cat in enumerate(random.Random(seed).sample(cats, len(cats)))}
    rows, count = [], defaultdict(Counter)  # count[chapter, fold]: features of the rows in the fold
    for chapter, name, cat in ((c, n, cat) for c in drawn for n, cat in drawn[c]):
        text = f" {' '.join(re.findall('[a-z]+', name.lower()))} "
        rows.append(
            (chapter, fold[cat], [w[:5] for w in text.split()] + [text[i : i + 4] for i in range(len(text) - 3)])
        )
        count[chapter, fold[cat]].update(rows[-1][2])
    train = {(c, f): sum((count[c, g] for g in range(FOLDS) if g != f), Counter()) for c in drawn for f in range(FOLDS)}
    size = {key: 0.1 * len(set().union(*count.values())) + train[key].total() for key in train}
    return [
        (c, {d: sum(math.log((0.1 + train[d, f][x]) / size[d, f]) for x in xs) for d in drawn}) for c, f, xs in rows
    ]


def accuracy(scored, chapters):
    return fmean(max(chapters, key=s.get) == c for c, s in scored if c in chapters)


def main(source, output):
    candidates = pool(source)
    full = [c for c in CANDIDATES if len(draw(candidates[c], DATA_SEED)) == PER_CLASS]
    trials = [scores({c: draw(candidates[c], seed) for c in full}, seed) for seed in CHOICE_SEEDS]
    ranked = sorted(
        (
            (fmean(accuracy(t, chapters) for t in trials), chapters)
            for chapters in itertools.combinations(full, CHAPTERS)
        ),
        reverse=True,
    )
    drawn = {c: draw(candidates[c], DATA_SEED) for c in ranked[0][1]}
    print("chapters with enough rows:", full, *(f"\nmean {m:.3f} {cs}" for m, cs in ranked[:3] + ranked[-1:]))
    print(f"the data set's conditions: accuracy {accuracy(scores(drawn, DATA_SEED), list(drawn)):.3f}")
    themes = [theme.split(": ") for theme in " ".join(DECLINES.split()).split("; ")]
    drawn[None] = draw([(p, f"none-{theme}") for theme, phrases in themes for p in phrases.split("|")], DATA_SEED)
    rows = [
        {
            "messages": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": name},
                {"role": "assistant", "content": json.dumps({"chapter": c})},
            ],
            "category": cat,
        }
        for c in drawn
        for name, cat in drawn[c]
    ]
    random.Random(DATA_SEED).shuffle(rows)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    output.write_bytes(data)
    print(len(rows), "rows,", len({r["category"] for r in rows}), "categories,", hashlib.sha256(data).hexdigest())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path((*sys.argv, "recipes/data/icd10cm-chapters.jsonl")[2]))
