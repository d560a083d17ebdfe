from __future__ import annotations

from pathlib import Path

from trainer.recipe.evaluate import EvalSection
from trainer.scoring.inputs import eval_inputs


def test_a_schema_and_a_database_are_files_that_the_result_depends_on(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text("{}")
    metrics = [
        {"kind": "json_schema", "schema": str(tmp_path / "schema.json")},
        {"kind": "sql", "name": "rows", "database": str(tmp_path / "shop.sqlite")},
    ]
    section = EvalSection.model_validate({"metrics": metrics, "arms": ["base"]})
    assert dict(eval_inputs(section)) == {
        "eval.metrics.json_schema.schema": tmp_path / "schema.json",
        "eval.metrics.rows.database": tmp_path / "shop.sqlite",
    }
