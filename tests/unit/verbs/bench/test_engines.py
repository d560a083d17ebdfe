"""Every engine trains the same thing: rows, tokens, losses, gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trainer.errors import DataError
from trainer.verbs.bench.assets import ComparisonRequest, prepare
from trainer.verbs.bench.engines import ENGINES, load
from trainer.verbs.bench.shapes import SHAPES, BenchKind, Size
from trainer.verbs.bench.task import Accounting, Task, Training
from trainer.verbs.bench.verdict import deviation

SIZE = Size(rows=6, rows_per_step=3, check_rows=2, rounds=1)
NAMES = ("ours", "trl-best", "transformers")  # in float32; TRL's default has types of its own


@pytest.fixture(scope="module", params=["sft", "dpo"])
def kind(request: pytest.FixtureRequest) -> BenchKind:
    return request.param


@pytest.fixture(scope="module")
def folder(kind: BenchKind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(kind)
    prepare(folder, ComparisonRequest(kind, "tiny", SIZE, rows_path=None))
    return folder


def built(folder: Path, kind: BenchKind, name: str, *, check: bool, accounting: Accounting = "counted") -> Training:
    engine = ENGINES[name]
    return load(engine)(Task(folder, kind, SIZE, check, accounting, "float32"), engine.variant)


def test_every_engine_takes_the_same_steps(folder: Path, kind: BenchKind) -> None:
    trainings = {name: built(folder, kind, name, check=True) for name in NAMES}
    assert len({training.amount for training in trainings.values()}) == 1
    histories = {name: training.train() for name, training in trainings.items()}
    expected = histories["transformers"]
    assert len(expected.losses) == 3 and expected.losses[2] < expected.losses[0] and min(expected.grad_norms) > 0
    for history in histories.values():
        assert deviation(history.losses, expected.losses) < 1e-4
        assert deviation(history.grad_norms, expected.grad_norms) < 1e-3


def test_one_epoch_takes_every_row_once(folder: Path, kind: BenchKind) -> None:
    amounts = {name: built(folder, kind, name, check=False).amount for name in NAMES}
    assert amounts["trl-best"] == amounts["transformers"] and amounts["transformers"].rows == SIZE.rows
    assert amounts["ours"].rows >= SIZE.rows  # the last step is filled up where packs do not divide evenly


def test_a_reference_ahead_of_the_training_is_timed(folder: Path, kind: BenchKind) -> None:
    seconds = {name: built(folder, kind, name, check=True, accounting="left_out").reference_seconds for name in NAMES}
    assert all((value > 0) == (kind == "dpo") for value in seconds.values()), seconds


def test_linear_weights_are_those_of_the_model() -> None:
    shape = SHAPES["tiny"]
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**shape.config()))
    modules = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert shape.linear_weights() == sum(module.weight.numel() for module in modules)


def test_too_few_rows_that_fit_are_an_error(tmp_path: Path) -> None:
    row = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
    long = row.replace('"b"', '"' + "word " * 4000 + '"')
    (tmp_path / "rows.jsonl").write_text(5 * row + long)
    with pytest.raises(DataError, match="5 of 6 rows have at most 1024 tokens, 6 are needed"):
        prepare(tmp_path, ComparisonRequest("dpo", "tiny", SIZE, rows_path=str(tmp_path / "rows.jsonl")))
