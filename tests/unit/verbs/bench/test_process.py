"""The worker and its pipe."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from trainer.verbs.bench.process import WorkerProcess


def test_a_worker_answers_refuses_nonsense_and_its_death_is_an_answer(tmp_path: Path) -> None:
    with WorkerProcess(tmp_path / "log") as worker:
        assert worker.ask({"do": "nonsense"})["error"] == "ValueError: no such request: nonsense"
        assert worker.ask({"do": "gemm"})["flops"] > 0  # it goes on after an error
        worker.child.send_signal(signal.SIGKILL)
        assert "the process ended" in worker.ask({"do": "gemm"})["error"]


def test_a_worker_that_cannot_start_says_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))  # no standard library there
    with WorkerProcess(tmp_path / "log") as worker:
        assert "the process ended: " in worker.ask({"do": "gemm"})["error"]
