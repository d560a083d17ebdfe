"""Train a run once in tests and evaluate it several times."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests import tiny
from tests.command import Project, Result

QUICK = {"max_rows": 100, "max_new_tokens": 8, "latency_rows": 0, "retention": {"num_prompts": 0}}
"""Settings of eval for short answers and nothing beyond a test's own section."""


class Trained:
    """A finished training; `changes` stay from one evaluation to the next."""

    def __init__(self, project: Project, model: Path | dict[str, Any], **changes: Any) -> None:
        self.project = project
        self.model = model
        self.changes = {"train": {"max_steps": 2}, "data": {"split": {"heldout": 0.34}}, **changes}

    def prepare(self, rows: list[dict[str, Any]] | None = None) -> Trained:
        """Write the recipe, and a test's own rows if given, and train."""
        self.write({})
        if rows is not None:
            self.changes["data"] = {**self.changes["data"], "sources": [{"path": "own.jsonl"}]}
            tiny.write_rows(self.project.folder / "own.jsonl", rows)
            self.write({})
        return self.run("data", "pack", "train")

    def train_anew(self) -> Trained:
        """Pack and train again from the rows in data/."""
        shutil.rmtree(self.project.run / "train")
        return self.run("pack", "train")

    def run(self, *verbs: str) -> Trained:
        """Run verbs; each must end with code 0."""
        for verb in verbs:
            result = self.project.call(verb, worker=verb == "train")
            assert result.code == 0, result.text
        return self

    def write(self, section: dict[str, Any]) -> None:
        """Write the recipe with this section of eval merged over `QUICK`."""
        tiny.write_recipe(self.project.folder, model=self.model, eval={**QUICK, **section}, **self.changes)

    def call(self, *options: str, **section: Any) -> Result:
        """Run `trainer eval`."""
        self.write(section)
        return self.project.call("eval", *options)

    def evaluate(self, **section: Any) -> dict[str, Any]:
        """Run `trainer eval`, which must end with code 0, and return eval/scores.json."""
        result = self.call(**section)
        assert result.code == 0, result.text
        return self.read("scores.json")

    def read(self, name: str) -> Any:
        """Return a JSON file of eval/."""
        return json.loads((self.project.run / "eval" / name).read_text())

    def lines(self, name: str = "predictions.jsonl") -> list[dict[str, Any]]:
        """Return a JSONL file of eval/."""
        return [json.loads(line) for line in (self.project.run / "eval" / name).read_bytes().splitlines()]

    def texts(self, arm: str) -> list[str]:
        """Return all answers of an arm."""
        return [line["answers"][arm]["text"] for line in self.lines()]
