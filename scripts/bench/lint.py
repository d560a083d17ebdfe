"""Print what the linter reports about real data sets and about rows with planted faults.

    python scripts/bench/lint.py [--data DIR] [--cases DIR] [--excerpts 2]

DIR of `--data` holds data sets of many forms: `SETS` makes a prompt and an answer of each. DIR of `--cases` holds files
of rows with one planted fault each. The script prints rules, rows and excerpts of each set for a person to judge.
Personal data (P-rules) is left out: scripts/bench/data.py measures it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Take = Callable[[Row], Row]
RUN = "import sys; from trainer.cli import main; sys.exit(main(sys.argv[1:]))"
MAX_ROWS = 3000


def columns(prompt: str, answer: str) -> Take:
    """Take a prompt and an answer from two columns."""
    return lambda row: {"prompt": row[prompt], "response": str(row[answer])}


def choices(query: str = "query", gold: str = "gold") -> Take:
    """Take the right one of several choices as the answer."""
    return lambda row: {"prompt": row[query], "response": row["choices"][row[gold]]}


def slots(row: Row) -> Row:
    """Take the slots of a sentence as a JSON answer."""
    values = {slot["slot"]: slot.get("value") for slot in row["slots"]}
    return {"prompt": row["text"], "response": json.dumps(values, ensure_ascii=False)}


def instruction(row: Row) -> Row:
    """Take a task of self-instruct with its first instance."""
    case = row["instances"][0] if "instances" in row else row
    return {"instruction": row["instruction"], "input": case["input"], "output": case["output"]}


SETS: dict[str, Take | None] = {
    "advising-sql/train.jsonl": columns("question", "sql"),
    "banking77/train.jsonl": columns("text", "label"),
    "clinc150/train.jsonl": columns("text", "label"),
    "dolly-sample/train.jsonl": None,
    "eval-arc/arc_challenge.jsonl": choices(),
    "eval-bbh/bbh.jsonl": columns("input", "target"),
    "eval-boolq/boolq.jsonl": choices(),
    "eval-commonsenseqa/commonsense_qa.jsonl": choices(),
    "eval-humaneval/humaneval.jsonl": columns("prompt", "canonical_solution"),
    "eval-ifeval/ifeval.jsonl": columns("prompt", "key"),
    "eval-lambada/lambada_openai.jsonl": columns("context", "continuation"),
    "eval-mmlu/test_shared.jsonl": choices("question", "answer"),
    "eval-openbookqa/openbook_qa.jsonl": choices(),
    "eval-piqa/piqa.jsonl": choices(),
    "eval-pubmedqa/pubmed_qa_labeled.jsonl": columns("context", "continuation"),
    "eval-svamp/svamp.jsonl": columns("context", "answer"),
    "eval-truthfulqa/truthfulqa.jsonl": columns("question", "best_answer"),
    "eval-winogrande/winogrande.jsonl": lambda row: {
        "prompt": row["context_options"][row["gold"]],
        "response": row["continuation"],
    },
    "gsm8k/train.jsonl": columns("question", "answer"),
    "icd10cm/terms.jsonl": columns("description", "title"),
    "llmbar/pairs.jsonl": columns("prompt", "chosen"),
    "mojibake-ftfy/mojibake.jsonl": columns("original", "fixed"),
    "near-duplicates/corpus.jsonl": columns("text", "label"),
    "oasst1-val/train.jsonl": None,
    "pii-enterprise-classification/enterprise_pii_classification.jsonl": choices(),
    "pii-presidio/pii.jsonl": columns("text", "masked"),
    "preference-lf-demo/dpo.jsonl": None,
    "rawtext-c4-300/c4.jsonl": None,
    "restaurant8k/train.jsonl": slots,
    "self-instruct/seed_tasks.jsonl": instruction,
    "snips-slots/train.jsonl": slots,
    "toolcall-glaive-300/train.jsonl": None,
    "wikisql-3k/train.jsonl": columns("question", "sql"),
}


def rows_of(path: Path, take: Take | None) -> Iterator[Row]:
    """Yield the rows of a file in a layout that the recipe knows."""
    with path.open(encoding="utf-8") as file:
        for line, _ in zip(file, range(MAX_ROWS), strict=False):
            row = json.loads(line)
            try:
                yield take(row) if take else row
            except (KeyError, IndexError, TypeError):
                continue


def findings(rows: list[Row], folder: Path) -> list[Row]:
    """Run `trainer data` on rows and return the findings of its report.

    Raises:
        RuntimeError: The stage failed.
    """
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    kind = "dpo" if any("chosen" in row for row in rows[:3]) else "sft"
    (folder / "recipe.yaml").write_text(
        f"recipe_version: 1\nname: lint\nmodel: {{name_or_path: none}}\nmethod: {{kind: {kind}}}\n"
        "data: {sources: [{path: rows.jsonl}]}\n"
    )
    command = [sys.executable, "-c", RUN, "data", "recipe.yaml", "--run-dir", "run"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    report = folder / "run/data/report.json"
    if not report.exists():
        raise RuntimeError(ended.stderr[-600:])
    return [row for row in json.loads(report.read_text())["lint"] if row["rule"][0] != "P"]


def show(name: str, rows: list[Row], *, excerpts: int) -> None:
    """Print what is found in a set."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            listed = findings(rows, Path(folder))
        except RuntimeError as error:
            print(f"{name}: stage failed: {error}")
            return
    texts = {f"rows.jsonl:{number}": json.dumps(row, ensure_ascii=False) for number, row in enumerate(rows, start=1)}
    for finding in listed:
        head = f"{name}: {finding['rule']} {finding['severity']} {finding['count']}"
        print(f"{head}: {finding['title']}: {finding['detail']}")
        for ref in finding["rows"][:excerpts]:
            print(f"    {ref} {texts.get(ref.split(' = ')[0], '')[:300]}")
    if not listed:
        print(f"{name}: none")


def main() -> None:
    """Print the findings of every set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cases", type=Path)
    parser.add_argument("--from", dest="first", default="", help="first set, in the order of SETS")
    parser.add_argument("--excerpts", type=int, default=2)
    options = parser.parse_args()
    names = list(SETS)
    for name in names[names.index(options.first) if options.first else 0 :] if options.data else ():
        show(name, list(rows_of(options.data / name, SETS[name])), excerpts=options.excerpts)
    for path in sorted(options.cases.glob("*.jsonl")) if options.cases else ():
        show(path.name, list(rows_of(path, None)), excerpts=0)


if __name__ == "__main__":
    main()
