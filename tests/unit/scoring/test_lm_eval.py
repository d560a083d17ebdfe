"""Tasks of lm-evaluation-harness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from tests import tiny
from trainer.errors import DataError, HardwareError
from trainer.recipe.gates import Gate
from trainer.recipe.suite import LmEvalTasks, Suite
from trainer.scoring import lm_eval
from trainer.scoring.lm_eval import TaskResults, _collect, add_tasks, read_suite, run_tasks
from trainer.scoring.results import Panel
from trainer.scoring.scores import EvalMeasurements, judge_gates, scores_of

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{prompt}"
doc_to_target: "{target}"
{more}
"""


def sample(index: int, **marks: Any) -> dict[str, Any]:
    return {"doc_id": index, "filter": "none", **marks}


def test_what_is_a_mean_over_items_has_its_items_and_the_rest_is_a_figure() -> None:
    collected = _collect(
        {
            "results": {
                "a": {"acc,none": 0.5, "acc_stderr,none": "N/A", "bleu,none": 12.5, "f,none": 0.2, "sample_len": 2},
                "b": {"perplexity,none": 9.0},
            },
            "samples": {
                "a": [sample(0, acc=1.0, bleu=("x", "y"), f=0.1), sample(1, acc=0.0, bleu=("x", "y"), f=0.3)],
                "b": [sample(0, perplexity=9.0)],
            },
            "higher_is_better": {"a": {"acc": True, "bleu": True, "f": None}, "b": {"perplexity": False}},
        }
    )
    assert list(collected.measured) == ["a.acc", "a.f"] and list(collected.figures) == ["a.bleu", "b.perplexity"]
    assert [collected.measured[name].kind for name in collected.measured] == ["share", "mean"]
    assert collected.measured["a.acc"].ids == ["a/0", "a/1"] and collected.measured["a.acc"].values.tolist() == [
        1.0,
        0.0,
    ]


def test_filters_are_told_apart() -> None:
    samples = [sample(0, exact_match=1.0), {"doc_id": 0, "filter": "flexible", "exact_match": 0.0}]
    collected = _collect(
        {
            "results": {"a": {"exact_match,none": 1.0, "exact_match,flexible": 0.0}},
            "samples": {"a": samples},
            "higher_is_better": {"a": {"exact_match": True}},
        }
    )
    assert {name: rows.values.tolist() for name, rows in collected.measured.items()} == {
        "a.exact_match": [1.0],
        "a.exact_match.flexible": [0.0],
    }


def suite(**values: Any) -> Suite:
    tasks = {"lm_eval": ["a"], "include_path": "tasks"}
    return Suite.model_validate({"suite_version": 1, "name": "s", "sources": [tasks], **values})


def test_tasks_stand_apart_from_the_items_of_a_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval, "_harness", lambda: None)
    alone = read_suite(suite())
    assert not alone.questions and [task.lm_eval for task in alone.tasks] == [["a"]]
    both = read_suite(suite(items=[{"id": "x", "prompt": "?", "graders": [{"kind": "refusal", "expected": "refuse"}]}]))
    assert [question.id for question in both.questions] == ["s/x"] and len(both.tasks) == 1
    with pytest.raises(DataError, match="has no grader"):
        read_suite(suite(items=[{"id": "x", "prompt": "?"}]))


def test_a_suite_with_tasks_needs_the_extra_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(lm_eval.importlib, "import_module", missing)
    with pytest.raises(HardwareError, match="No module named 'lm_eval'") as caught:
        read_suite(suite())
    assert "recipe-trainer[lm-eval]" in str(caught.value.hint)


def test_tasks_are_scored_compared_and_gated_like_items(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    right = {"base": rng.random(200) < 0.9, "tuned": rng.random(200) < 0.5}

    def found(tasks: LmEvalTasks, model: str, tokenizer: None) -> TaskResults:
        samples = [sample(index, acc=float(mark)) for index, mark in enumerate(right[model])]
        results = {"a": {"acc,none": float(right[model].mean()), "bleu,none": 12.5}}
        return _collect({"results": results, "samples": {"a": samples}, "higher_is_better": {"a": {"acc": True}}})

    monkeypatch.setattr(lm_eval, "run_tasks", found)
    panel = Panel([], {}, seed=0)
    for arm in ("base", "tuned"):
        add_tasks(panel.results(arm), [suite().sources[0]], arm, None)  # type: ignore[list-item]
    measured = EvalMeasurements(Panel([], {}, 0), [("s", False, panel)], {}, "exact_match", 0, [])
    scores = scores_of(measured)
    suite_scores = scores["suites"]["s"]
    assert suite_scores["n"] == 200 and suite_scores["metrics"]["a.acc"] == {"unit": "share", "better": "higher"}
    score = suite_scores["arms"]["base"]["a.acc"]
    assert score["low"] < score["value"] == right["base"].mean() < score["high"]
    assert suite_scores["arms"]["base"]["a.bleu"] == {"value": 12.5, "low": None, "high": None, "n": 1}
    (compared,) = suite_scores["comparisons"]
    assert compared["metric"] == "a.acc" and compared["high"] < 0 and compared["p_value"] < 0.01
    gates = [Gate(metric="a.acc", suite="s", max_drop=0.1), Gate(metric="a.acc", suite="s", arm="base", min=0.8)]
    assert [entry["verdict"] for entry in judge_gates(gates, measured, scores, [])] == ["fail", "pass"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = [{"q": turn["messages"][0]["content"], "choices": ["yes", "no"], "right": 0} for turn in tiny.rows(4)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    choice = TASK.format(
        name="toy_choice", data=data, kind="multiple_choice", prompt="{{q}}", target="{{right}}",
        more='doc_to_choice: "{{choices}}"\nmetric_list: [{metric: acc}]',
    )  # fmt: skip
    text = TASK.format(
        name="toy_text", data=data, kind="loglikelihood_rolling", prompt="", target="{{q}}",
        more="metric_list: [{metric: word_perplexity}]",
    )  # fmt: skip
    (tmp_path / "choice.yaml").write_text(choice)
    (tmp_path / "text.yaml").write_text(text)
    return tmp_path


@pytest.fixture
def tiny_model(tiny_model_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()


def test_local_tasks_run_on_a_loaded_model(folder: Path, tiny_model: Any, tiny_tokenizer: Any) -> None:
    tasks = LmEvalTasks(lm_eval=["toy_choice", "toy_text"], include_path=str(folder), limit=3)
    result = run_tasks(tasks, tiny_model, tiny_tokenizer)
    marks = result.measured["toy_choice.acc"]
    assert len(marks.values) == 3 and set(np.unique(marks.values)) <= {0.0, 1.0}
    assert result.figures["toy_text.word_perplexity"]["value"] > 1


def test_a_task_that_is_not_there_is_named(folder: Path, tiny_model: Any, tiny_tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"no task 'arc' in .*toy_choice"):
        run_tasks(LmEvalTasks(lm_eval=["arc"], include_path=str(folder)), tiny_model, tiny_tokenizer)
    with pytest.raises(DataError, match="no folder"):
        run_tasks(LmEvalTasks(lm_eval=["arc"], include_path=str(folder / "none")), tiny_model, tiny_tokenizer)
    (folder / "rows.jsonl").unlink()
    with pytest.raises(DataError, match="toy_choice"):
        run_tasks(LmEvalTasks(lm_eval=["toy_choice"], include_path=str(folder)), tiny_model, tiny_tokenizer)
