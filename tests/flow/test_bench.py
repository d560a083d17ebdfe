"""`trainer bench` from the command line, with fewer rows and rounds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import command
from trainer.verbs.bench import compare, run
from trainer.verbs.bench.shapes import Size
from trainer.verbs.bench.table import engines_table

pytestmark = pytest.mark.slow


def test_quick_compares_ours_with_trl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compare.QUICK_SIZES, "dpo", Size(rows=2, rows_per_step=2, check_rows=2, rounds=1))
    path = tmp_path / "result.json"
    result = command.call("bench", "dpo", "--quick", "--json", str(path))
    assert result.code == 0, result.text
    actual = json.loads(path.read_text())
    assert set(actual["engines"]) == {"ours", "trl"} and actual["ratios"]["counted"]["trl"] > 0
    assert actual["protocol"]["rounds"] >= 1 and actual["gemm"]["flops"] > 0 and actual["versions"]["trl"]
    for engine in actual["engines"].values():
        assert engine["valid"] and engine["grad_norm"] > 0 and engine["peak_bytes"] > 1e8 and engine["startup_s"] > 0
        assert 0 < engine["counted"]["mfu"] < 1 and len(engine["rounds"]["counted"]) >= 1
    assert "pairs/s" in result.out and "alternating rounds" in result.out


def test_a_figure_that_does_not_count_is_exit_6(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = {
        "ours": {"valid": False, "problems": ["losses differ from trl's"]},
        "trl": {"valid": True, "problems": []},
    }
    protocol = {"seconds": "cpu-seconds", "threads": 1, "rounds": 1}
    project = {"benchmark": "sft", "engines": engines, "protocol": protocol, "ratios": {"counted": {}}}
    monkeypatch.setattr(run, "_engines", lambda *_: (project, engines_table(project)))
    path = tmp_path / "result.json"
    result = command.call("bench", "sft", "--json", str(path))
    assert result.code == 6 and "the figures of ours do not count" in result.err
    assert "invalid: ours: losses differ" in result.out and json.loads(path.read_text()) == project


def test_packers_are_compared_row_for_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PACK_ROWS", {"ours": 20_000, "trl": 4_000})
    path = tmp_path / "result.json"
    result = command.call("bench", "pack", "--quick", "--json", str(path))
    assert result.code == 0, result.text
    engines = json.loads(path.read_text())["engines"]
    assert engines["ours"]["rows"] == 20_000 and engines["trl"]["valid"]


def test_options_that_mean_nothing_are_refused() -> None:
    result = command.call("bench", "pack", "--rows", "rows.jsonl")
    assert result.code == 2 and "compared on lengths alone" in result.err
