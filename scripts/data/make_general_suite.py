"""Make recipes/suites/general/*.jsonl, the small general-ability suite, from public benchmarks.

    python scripts/data/make_general_suite.py SOURCE_FOLDER [OUTPUT_FOLDER]    (from the repository root)

SOURCE_FOLDER holds eval-mmlu/test_shared.jsonl (MIT), eval-openbookqa/openbook_qa.jsonl (Apache-2.0),
eval-truthfulqa/truthfulqa.jsonl (Apache-2.0), eval-svamp/svamp.jsonl (MIT) and eval-ifeval/ifeval.jsonl (Apache-2.0).
refusal.jsonl and format.jsonl are written by hand and not touched. The same source gives the same bytes.
"""

import json
import random
import sys
from collections import defaultdict
from pathlib import Path

SEED = 0
LONG_ANSWERS = ("combination:two_responses", "length_constraints:number_paragraphs", "combination:repeat_prompt")
"""Instructions that need more tokens than a short suite gives."""


def rows(path):
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(path, items):
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    print(f"{path}: {len(items)} items")


def knowledge(source):
    """One question of each of 40 subjects of MMLU, and 20 of OpenBookQA."""
    by_subject = defaultdict(list)
    for row in rows(source / "eval-mmlu" / "test_shared.jsonl"):
        if len(row["question"]) < 300 and len(row["choices"]) == 4:
            by_subject[row["subject"]].append(row)
    draw = random.Random(SEED)
    for subject in sorted(by_subject)[:40]:
        row = draw.choice(by_subject[subject])
        yield item(f"mmlu-{subject}", row["question"], row["choices"], row["answer"])
    openbook = rows(source / "eval-openbookqa" / "openbook_qa.jsonl")
    for number, row in enumerate(draw.sample(openbook, 20)):
        yield item(f"openbook-{number}", row["query"], row["choices"], row["gold"])


def truthfulness(source):
    """20 questions of TruthfulQA: the best answer among three wrong ones."""
    draw = random.Random(SEED)
    fitting = [
        row
        for row in rows(source / "eval-truthfulqa" / "truthfulqa.jsonl")
        if len(row["incorrect_answers"]) >= 3 and len(row["question"]) < 200
    ]
    for number, row in enumerate(draw.sample(fitting, 20)):
        choices = [row["best_answer"], *draw.sample(row["incorrect_answers"], 3)]
        draw.shuffle(choices)
        yield item(f"truthfulqa-{number}", row["question"], choices, choices.index(row["best_answer"]))


def item(name, question, choices, gold):
    return {"id": name, "prompt": question.strip(), "choices": choices, "reference": choices[gold]}


def arithmetic(source):
    draw = random.Random(SEED)
    for number, row in enumerate(draw.sample(rows(source / "eval-svamp" / "svamp.jsonl"), 20)):
        prompt = f"{row['context']}\nGive the final number at the end."
        yield {"id": f"svamp-{number}", "prompt": prompt, "reference": row["answer"]}


def instructions(source):
    """20 prompts of IFEval with one instruction each, as many kinds as there are."""
    by_kind = defaultdict(list)
    for row in rows(source / "eval-ifeval" / "ifeval.jsonl"):
        kinds = row["instruction_id_list"]
        if len(kinds) == 1 and kinds[0] not in LONG_ANSWERS and len(row["prompt"]) < 500:
            by_kind[kinds[0]].append(row)
    draw = random.Random(SEED)
    chosen = [draw.choice(found) for _, found in sorted(by_kind.items())]
    spare = [row for found in by_kind.values() for row in found if row not in chosen]
    for row in (chosen + draw.sample(spare, len(spare)))[:20]:
        kwargs = [{key: value for key, value in one.items() if value is not None} for one in row["kwargs"]]
        yield {
            "id": f"ifeval-{row['key']}",
            "prompt": row["prompt"],
            "instruction_id_list": row["instruction_id_list"],
            "kwargs": kwargs,
        }


def main():
    source = Path(sys.argv[1])
    target = Path(sys.argv[2] if len(sys.argv) > 2 else "recipes/suites/general")
    for make in (knowledge, truthfulness, arithmetic, instructions):
        write(target / f"{make.__name__}.jsonl", list(make(source)))


if __name__ == "__main__":
    main()
