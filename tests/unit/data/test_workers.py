"""Processes change nothing but the time."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.data.workers import INLINE_CHUNKS, Workers, num_workers
from trainer.errors import HardwareError, StageError


def square(number: int) -> tuple[int, int]:
    time.sleep(0.02 * (number % 3))  # later chunks are done first
    return number * number, os.getpid()


def thresholds(number: int) -> tuple[int, ...]:
    return gc.get_threshold()


def die(number: int) -> int:
    if number > 4:
        os._exit(1)
    return number


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_order(count: int) -> None:
    with Workers(count) as workers:
        results = list(workers.map(square, range(12)))
    assert [result for result, _ in results] == [number * number for number in range(12)]
    process_ids = [process for _, process in results if process != os.getpid()]
    assert len(process_ids) == (0 if count == 1 else 12 - INLINE_CHUNKS)


def test_python_looks_for_cycles_as_often_as_before_when_the_work_is_done() -> None:
    before = gc.get_threshold()
    with Workers(2) as workers:
        assert gc.get_threshold() > before
        assert min(threshold for threshold, *_ in workers.map(thresholds, range(6))) > before[0]
    assert gc.get_threshold() == before


def test_only_a_few_chunks_are_in_flight() -> None:
    drawn = []

    def chunks() -> Iterator[int]:
        for number in range(40):
            drawn.append(number)
            yield number

    with Workers(2) as workers:
        results = workers.map(square, chunks())
        for _ in range(10):
            next(results)
        assert len(drawn) <= 15
        results.close()  # type: ignore[attr-defined]


def test_a_process_that_dies_is_an_error_with_a_way_out() -> None:
    with Workers(2) as workers, pytest.raises(HardwareError) as caught:
        list(workers.map(die, range(20)))
    assert "TRAINER_WORKERS=1" in caught.value.hint


@pytest.mark.parametrize("text", ["0", "two", "-1"])
def test_a_wrong_number_of_workers_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TRAINER_WORKERS", text)
    with pytest.raises(StageError, match="TRAINER_WORKERS"):
        num_workers()


def test_a_script_without_a_guard_is_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import math\nfrom trainer.data.workers import Workers\nprint('begun')\n"
        "with Workers(2) as workers:\n    print(list(workers.map(math.sqrt, [1, 4, 9, 16])))\n"
    )
    process = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert process.stdout == "begun\n[1.0, 2.0, 3.0, 4.0]\n" and not process.stderr
