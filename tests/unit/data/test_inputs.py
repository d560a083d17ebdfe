"""What the result of `trainer data` depends on besides the recipe: files, and the key of the pseudonyms."""

from __future__ import annotations

import pytest

from trainer.data.inputs import row_inputs
from trainer.recipe.data import DataSection

LABEL = "data.pii.key_env (PII_KEY)"


def inputs(**pii: object) -> dict[str, object]:
    section = {"sources": [{"path": "hub:owner/name"}], "pii": {"key_env": "PII_KEY", **pii}}
    return dict(row_inputs(DataSection.model_validate(section)))


def test_another_key_is_noticed_and_no_key_is_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for key in ("a" * 32, "b" * 32, "a" * 32):
        monkeypatch.setenv("PII_KEY", key)
        results.append(str(inputs(types={"email": "pseudonymise"})[LABEL]))
        assert key not in results[-1]
    assert results[0] == results[2] != results[1]


def test_a_key_that_draws_no_pseudonym_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PII_KEY", "a" * 32)
    assert LABEL not in inputs(action="redact")
    monkeypatch.delenv("PII_KEY")
    assert LABEL not in inputs(action="pseudonymise")
