"""Where our own code fails on a row, the row is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.cli import main
from trainer.data import prepare as preparing
from trainer.data.prepare import Chunk, Rules, prepare
from trainer.data.read.raw_row import RawRow
from trainer.data.records.kinds import Origin
from trainer.data.records.reasons import RowError
from trainer.data.row_failure import naming
from trainer.data.workers import INLINE_CHUNKS, Workers
from trainer.errors import DataError, RowBugError
from trainer.recipe.data import DataSection

SECRET = "Zelda Quirk"


def chunk(*lines: int) -> Chunk:
    data = DataSection.model_validate({"sources": [{"path": "f"}]})
    rows = [RawRow(line, {"prompt": f"{SECRET} {line}", "completion": "yes"}) for line in lines]
    return Chunk(Rules.of(data, None), Origin("f.jsonl", "auto", ()), rows)


def fail(number: int) -> int:
    with naming("f.jsonl", number):
        return 1 // (number - 9)


@pytest.mark.parametrize("step", ["parse_row", "row_facts"])
def test_a_row_on_which_any_step_fails_is_named_without_its_text(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    actual = getattr(preparing, step)

    def failing(inputs: object, *more: Any, **options: Any) -> Any:
        if f"{SECRET} 7" in str(inputs):
            raise KeyError(SECRET)
        return actual(inputs, *more, **options)

    monkeypatch.setattr(preparing, step, failing)
    assert prepare(chunk(3, 4)).num_read == 2
    with pytest.raises(RowBugError, match=r"^f\.jsonl:7: .* bug .*KeyError in failing, line \d+$") as caught:
        prepare(chunk(3, 7, 9))
    assert caught.value.exit_code == 1 and isinstance(caught.value.__cause__, KeyError)
    assert SECRET not in caught.value.message


def test_the_name_of_the_row_comes_back_from_another_process() -> None:
    with Workers(2) as workers, pytest.raises(RowBugError, match=r"^f\.jsonl:9: .*ZeroDivisionError"):
        assert INLINE_CHUNKS < 9
        list(workers.map(fail, range(12)))


@pytest.mark.parametrize(
    "error", [RowError("invalid_text", "a"), DataError("a", hint="b"), MemoryError(), OSError()], ids=repr
)
def test_errors_that_are_meant_stay_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, naming("f", 1):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("verb", ["check", "data"])
@pytest.mark.parametrize("debug", [False, True])
def test_a_verb_names_the_row_and_shows_the_traceback_on_demand(
    verb: str, debug: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: object, **__: object) -> Any:
        raise KeyError(SECRET)

    monkeypatch.setattr(preparing, "parse_row", failing)
    monkeypatch.setenv("TRAINER_RUNS", str(tmp_path / "runs"))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "recipe_version: 1\nname: x\nmodel: {name_or_path: org/model}\ndata: {sources: [{path: rows.jsonl}]}\n"
    )
    assert main([verb, str(recipe), *(["--debug"] if debug else [])]) == 1
    output = capsys.readouterr().err
    assert "error: rows.jsonl:1: this is a bug of recipe-trainer: KeyError in failing" in output
    assert ("Traceback" in output) == debug
