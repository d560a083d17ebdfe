"""The decide stage on hand-made answers: every file, with and without prices, before and after training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from tests import tiny
from trainer.disk import write_json
from trainer.errors import RecipeError, StageError
from trainer.recipe import load_recipe
from trainer.rundir import RunFolder, StageContext, StageRecord
from trainer.shapes.decision import Decision
from trainer.stages import decide as stage

EXACT = "exact_match"
PRICES = {
    "as_of": "2026-11-01",
    "gpu_hour": 0.8,
    "labelling": 150,
    "endpoints": {"large-model": {"input_per_million": 2.5, "output_per_million": 10}},
}
ENDPOINT = {"name": "big", "model": {"base_url": "http://127.0.0.1:1/v1", "name": "large-model"}}
ARMS: dict[str, dict[str, Any]] = {
    "base": {"right": 60, "failure": "format"},
    "few_shot": {"right": 100, "failure": "format"},
    "big": {"right": 150, "failure": "style", "model": "endpoint"},
    "tuned": {"right": 180, "failure": "knowledge", "model": "tuned"},
}
ROWS = 200


def scores_of(arms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    def score(value: float, spread: float = 0.0) -> dict[str, Any]:
        return {"value": value, "low": value - spread, "high": value + spread, "n": ROWS}

    metrics, facts = {}, {}
    for name, arm in arms.items():
        model = arm.get("model", "base")
        metrics[name] = {
            EXACT: score(arm["right"] / ROWS, 0.05),
            "prompt_tokens": score(1700.0 if model == "endpoint" else 200.0),
            "answer_tokens": score(100.0),
            "latency_p50_s": score(0.3),
            "latency_p95_s": score(0.5),
        }
        if model != "endpoint":
            metrics[name]["throughput_rps"] = score(50.0)
        facts[name] = {
            "model": model,
            "shots": 0,
            "documents": False,
            "shared_prefix_tokens": 0.0,
            "concurrency": 8,
            "repairs": 0,
            "valid": 0.9,
            "failures": {arm["failure"]: ROWS - arm["right"]},
        }
    return {
        "primary": EXACT,
        "heldout_rows": ROWS,
        "metrics": {EXACT: {"unit": "share", "better": "higher"}},
        "arms": metrics,
        "facts": facts,
        "comparisons": [],
        "slices": {},
        "suites": {},
        "retention": None,
    }


def predictions_of(arms: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"h.jsonl:{index}",
            "group": str(index),
            "messages": [],
            "reference": "yes",
            "slices": {},
            "answers": {
                name: {
                    "text": "yes",
                    "grades": {EXACT: float(index < arm["right"])},
                    "reasons": {},
                    "failure": None if index < arm["right"] else arm["failure"],
                }
                for name, arm in arms.items()
            },
        }
        for index in range(ROWS)
    ]


def decide(folder: Path, names: list[str], section: dict[str, Any], *, trained: bool = True, **changed: Any) -> Any:
    """Run the stage over made answers of the named arms; return the context and decision.json."""
    arms = {name: ARMS[name] for name in names}
    written = [ENDPOINT if name == "big" else name for name in names]
    recipe = load_recipe(
        tiny.write_recipe(folder, model={"name_or_path": "none"}, decide=section, eval={"arms": written})
    )
    run = RunFolder(folder / "run")
    write_json(run.stage_dir("eval") / "scores.json", {**scores_of(arms), **changed})
    tiny.write_rows(run.stage_dir("eval") / "predictions.jsonl", predictions_of(arms))
    rows = [{**row, "source": "a.jsonl", "line": line} for line, row in enumerate(tiny.rows(40), start=1)]
    tiny.write_rows(run.stage_dir("data") / "train.jsonl", rows)
    tiny.write_rows(run.stage_dir("data") / "validation.jsonl", rows[:4])
    if trained:
        record = StageRecord("train", 1, "", {}, {}, numbers={"train_seconds": 5400.0, "num_processes": 2})
        write_json(run.stage_dir("train") / "stage.json", record.__dict__)
    lines: list[str] = []
    out = run.stage_dir("decide")
    out.mkdir(parents=True, exist_ok=True)
    record = StageRecord("decide", 1, "", {}, {})
    context = StageContext(run=run, dir=out, numbers=record.numbers, say=lines.append, record=record)
    stage.run(recipe, context)
    return context, json.loads((out / "decision.json").read_text()), "\n".join(lines)


def test_after_training_every_number_is_there(tmp_path: Path) -> None:
    section = {"prices": PRICES, "requests_per_day": 20_000, "fallback": "big"}
    context, decision, text = decide(tmp_path, list(ARMS), section)
    assert decision["verdict"] == context.numbers["verdict"] == "tune"
    assert decision["best_prompted"] == "big" and decision["best_tuned"] == "tuned"
    assert decision["assumptions"]["training_hours"] == 3.0
    tuned = decision["arms"]["tuned"]["cost"]
    assert tuned["one_off"] == pytest.approx(150 + 3 * 0.8) and tuned["replicas"] == 1
    daily = 0.8 * 24 + tuned["one_off"] / 90
    assert decision["break_even_requests_per_day"] == pytest.approx(daily / 0.00525)
    assert decision["headline"] in text and "90.0%" in text and "2026-11-01" in text
    assert 0.9 <= decision["confidence"] <= 1.0


def test_before_training_the_question_is_whether_to_tune(tmp_path: Path) -> None:
    section = {"prices": PRICES, "requests_per_day": 20_000}
    _, decision, _ = decide(tmp_path, ["base", "few_shot", "big"], section, trained=False)
    assert decision["verdict"] == "tune" and decision["best_tuned"] is None
    assert decision["assumed_tuned"]["per_1000"] > 0 and decision["assumptions"]["training_hours"] == 0.0
    assert decision["break_even_requests_per_day"] == pytest.approx((0.8 * 24 + 150 / 90) / 0.00525)
    assert any("before training" in sentence for sentence in decision["because"])


@pytest.mark.parametrize("names", [["base", "few_shot", "big"], list(ARMS)])
@pytest.mark.parametrize("section", [{}, {"prices": PRICES, "requests_per_day": 20_000, "fallback": "big"}])
def test_a_decision_has_the_shape_that_is_declared(tmp_path: Path, names: list[str], section: dict[str, Any]) -> None:
    _, decision, _ = decide(tmp_path, names, section, trained="tuned" in names)
    assert TypeAdapter(Decision).validate_python(decision) == decision


def test_without_prices_the_verdict_stands_on_quality(tmp_path: Path) -> None:
    context, decision, text = decide(tmp_path, ["base", "few_shot", "tuned"], {})
    assert decision["verdict"] == "tune" and decision["break_even_requests_per_day"] is None
    assert "no prices in the recipe" in text
    assert "No prices in the recipe" in (context.dir / "index.html").read_text()


def test_a_recipe_without_the_section_is_decided_with_its_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(tiny.write_recipe(tmp_path, model={"name_or_path": "none"}))
    assert recipe.decide is None
    context, *_ = decide(tmp_path, ["base", "tuned"], {})
    stage.run(recipe, context)
    assert json.loads((context.dir / "decision.json").read_text())["target"] == 0.95


def test_the_same_answers_give_the_same_bytes(tmp_path: Path) -> None:
    pages = []
    for _ in range(2):
        context, *_ = decide(tmp_path, list(ARMS), {"prices": PRICES, "requests_per_day": 1000})
        pages.append([(context.dir / name).read_bytes() for name in ("decision.json", "index.html")])
    assert pages[0] == pages[1]


def test_services_are_checked_and_their_files_written(tmp_path: Path) -> None:
    context, decision, _ = decide(tmp_path, ["base", "tuned"], {"export_providers": ["openai", "gemini"]})
    assert {name: actual["verdict"] for name, actual in decision["providers"].items()} == {
        "openai": "not_ready",  # closed to new users
        "bedrock-claude": "not_ready",  # its end is past
        "gemini": "usable",
    }
    files = {path.name: len(path.read_bytes().splitlines()) for path in (context.dir / "providers").iterdir()}
    assert files == {
        "openai.train.jsonl": 40,
        "openai.validation.jsonl": 4,
        "gemini.train.jsonl": 40,
        "gemini.validation.jsonl": 4,
    }


def test_a_score_that_is_no_number_never_reaches_a_file(tmp_path: Path) -> None:
    scores = scores_of({name: ARMS[name] for name in ("base", "few_shot", "tuned")})
    scores["arms"]["few_shot"][EXACT]["value"] = None
    scores["arms"]["tuned"]["latency_p95_s"]["value"] = float("nan")
    scores["arms"]["tuned"][EXACT] |= {"low": None, "high": None}
    context, decision, output = decide(tmp_path, ["base", "few_shot", "tuned"], {"latency_limit_s": 1.0}, **scores)
    page = (context.dir / "index.html").read_text().split("</style>")[1]
    for text in (json.dumps(decision), page, output):
        assert "NaN" not in text and "nan " not in text and "Infinity" not in text
    assert decision["arms"]["few_shot"]["quality"] is None and decision["best_prompted"] == "base"


@pytest.mark.parametrize("primary", ["loss", None])
def test_without_a_quality_metric_there_is_no_verdict(tmp_path: Path, primary: str | None) -> None:
    _, decision, _ = decide(tmp_path, ["base", "tuned"], {}, primary=primary)
    assert decision["verdict"] == "insufficient_evidence" and decision["confidence"] is None


def test_a_metric_that_eval_lacks_is_named_with_those_it_has(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"rouge.*exact_match"):
        decide(tmp_path, ["base", "tuned"], {"metric": "rouge"})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"prices": {"gpu_hour": 1}}, "as_of"),
        ({"prices": {"as_of": "last week"}}, "is no day"),
        ({"prices": {"as_of": "2026-11-01", "gpu_hour": -1}}, "gpu_hour"),
        ({"hosting": {"utilisation": 1.5}}, "utilisation"),
        ({"providers": ["nobody"]}, "providers"),
        ({"target": 1.0}, "target"),
        ({"fallback": -0.5}, "fallback"),
    ],
)
def test_a_wrong_key_is_a_recipe_error(tmp_path: Path, section: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(tiny.write_recipe(tmp_path, model={"name_or_path": "none"}, decide=section))
