"""`trainer inspect` on runs: rows by place, rule and flag, rejected rows, label errors of a finished training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.command import Project, call
from tests.test_architecture import watched
from trainer.recipe.load import load_suite
from trainer.scoring.questions.suite import read_items

ROWS = tiny.rows(24)
SPOILED = {
    "messages": [ROWS[5]["messages"][0], {"role": "assistant", "content": "As an AI language model, I see TODO: x"}]
}


def make_run(folder: Path, rows: list[Any], **changes: Any) -> Path:
    recipe = tiny.write_recipe(folder, **changes)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    call("data", str(recipe), "--run-dir", str(folder / "run"))
    return recipe


def inspected(folder: Path, *options: str) -> str:
    result = call("inspect", str(folder / "recipe.yaml"), "--run-dir", str(folder / "run"), *options)
    assert result.code == 0, result.text
    return result.out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspected")
    make_run(folder, [*ROWS, ROWS[0], "{broken", SPOILED], data={"dedupe": {"near": False}})
    return folder


def test_rows_are_shown_as_text_before_pack(run: Path) -> None:
    output = inspected(run, "--limit", "2")
    assert "pack has not run" in output and output.count("user:") == 2 and "⟦" not in output


@pytest.mark.parametrize("where", ["rows.jsonl:4", "4"])
def test_a_row_is_found_by_its_place(run: Path, where: str) -> None:
    output = inspected(run, "--row", where)
    assert "rows.jsonl:4  " in output and ROWS[3]["messages"][0]["content"] in output and output.count("user:") == 1


@pytest.mark.parametrize("rule", ["Q015", "Q016"])
def test_rows_are_found_by_rule(run: Path, rule: str) -> None:
    output = inspected(run, "--rule", rule)
    assert "rows.jsonl:27" in output and output.count("user:") == 1


def test_left_out_rows_stand_beside_the_kept_ones(run: Path) -> None:
    output = inspected(run, "--rejected")
    assert "left out rows.jsonl:25:" in output and "kept rows.jsonl:1:" in output
    assert output.count(ROWS[0]["messages"][1]["content"]) == 2
    assert "rows.jsonl:26  invalid_json" in output
    assert "rows.jsonl:25" not in inspected(run, "--rejected", "invalid_json")


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--row", "rows.jsonl:99"], 3, "no row rows.jsonl:99"),
        (["--row", "nonsense"], 3, "no place"),
        (["--rule", "Q999"], 3, "no rule Q999"),
        (["--rule", "B001"], 3, "few training rows"),
        (["--flag", "nonsense"], 3, "no flag"),
        (["--flag", "refusal"], 3, "no row has the flag"),
        (["--rejected", "near_duplicate"], 3, "no row was left out for near_duplicate"),
        (["--limit", "0"], 3, "at least one row"),
        (["--flag", "label-errors"], 4, "pack"),
    ],
)
def test_what_is_not_there_is_said(run: Path, options: list[str], code: int, text: str) -> None:
    result = call("inspect", str(run / "recipe.yaml"), "--run-dir", str(run / "run"), *options)
    assert result.code == code and text in result.err and "fix: " in result.err


def test_a_run_without_rows_says_how_to_make_them(tmp_path: Path) -> None:
    recipe = tiny.write_recipe(tmp_path)
    result = call("inspect", str(recipe), "--run-dir", str(tmp_path / "run"))
    assert result.code == 4 and "fix: trainer data" in result.err


def test_rows_can_be_looked_at_when_the_data_stage_ends_with_an_error(tmp_path: Path) -> None:
    rows = [
        {"messages": [row["messages"][0], {"role": "assistant", "content": f"a </s>\n<|im_start|>user\nb {at}"}]}
        for at, row in enumerate(ROWS)
    ]
    make_run(tmp_path, rows)
    assert not (tmp_path / "run" / "data").exists()
    assert "a </s>" in inspected(tmp_path, "--rule", "F019", "--limit", "1")


def test_personal_data_of_left_out_rows_is_treated_as_in_the_rows_kept(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Write to ann.lee@corp-mail.com."}]
    make_run(tmp_path, [*ROWS, {"messages": turns}, {"messages": turns}], data={"pii": {"action": "redact"}})
    output = inspected(tmp_path, "--rejected", "exact_duplicate")
    assert output.count("[EMAIL]") == 2 and "ann.lee" not in output


def test_rows_are_shown_without_torch(run: Path) -> None:
    code, heavy, _ = watched("inspect", str(run / "recipe.yaml"), "--run-dir", str(run / "run"), "--limit", "1")
    assert (code, heavy) == (0, [])


@pytest.mark.slow
def test_tokens_and_label_errors_of_a_finished_run(finished: Project) -> None:
    output = call("inspect", str(finished.run), "--limit", "1")
    assert output.code == 0 and " tokens, " in output.out and "<|im_end|>⟧" in output.out, output.text
    before = {path: path.read_bytes() for path in finished.run.glob("*/stage.json")}
    first = call("inspect", str(finished.run), "--flag", "label-errors", "--limit", "3")
    assert first.code == 0 and first.out.count("nats a token") == 3, first.text
    survivors = finished.run / "inspect" / "label_errors.json"
    ranked = json.loads(survivors.read_text())["rows"]
    assert len(ranked) == len((finished.run / "data" / "train.jsonl").read_text().splitlines())
    assert [row["score"] for row in ranked] == sorted((row["score"] for row in ranked), reverse=True)
    assert call("inspect", str(finished.run), "--flag", "label-errors", "--limit", "3").out == first.out
    assert before == {path: path.read_bytes() for path in finished.run.glob("*/stage.json")}
    assert call("check", str(finished.run)).code == 0


@pytest.mark.slow
def test_label_errors_of_pairs_are_ranked_by_their_margin(tmp_path: Path, tiny_model_dir: Path) -> None:
    recipe = tiny.write_recipe(tmp_path, model=tiny_model_dir, method={"kind": "dpo"}, train={"max_steps": 2})
    for verb in ("data", "pack", "train"):
        result = call(verb, str(recipe), "--run-dir", str(tmp_path / "run"))
        assert result.code == 0, result.text
    output = inspected(tmp_path, "--flag", "label-errors", "--limit", "2")
    assert output.count("the model prefers chosen to rejected by") == 2 and "⟦" in output
    ranked = json.loads((tmp_path / "run/inspect/label_errors.json").read_text())["rows"]
    assert [entry["margin"] for entry in ranked] == sorted(entry["margin"] for entry in ranked)
    assert any(entry["margin"] for entry in ranked)  # training has moved the model off its reference


def test_a_row_becomes_an_item_of_a_suite(run: Path, tmp_path: Path) -> None:
    options = ("--row", "rows.jsonl:4", "--add-to-suite", str(tmp_path / "failures.yaml"))
    assert "rows.jsonl:4 added to" in inspected(run, *options)
    assert "is in" in inspected(run, *options)
    (question,) = read_items(load_suite(tmp_path / "failures.yaml")).questions
    assert question.messages == ROWS[3]["messages"][:1] and question.reference == ROWS[3]["messages"][1]["content"]
    refused = call("inspect", str(run / "recipe.yaml"), "--run-dir", str(run / "run"), *options[2:])
    assert refused.code == 3 and "none is named" in refused.text
