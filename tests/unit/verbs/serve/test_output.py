from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.verbs.serve.output import Output


def written(path: Path, indices: list[int]) -> bytes:
    output = Output(path)
    for folder in indices:
        if folder not in output.written:
            output.write(folder, {"answer": f"é{folder}"})
    output.finish()
    return path.read_bytes()


@pytest.mark.parametrize("cut", [0, 1, 9, 30, 45])
def test_an_interrupted_output_ends_with_the_same_bytes(tmp_path: Path, cut: int) -> None:
    complete = written(tmp_path / "whole.jsonl", [3, 1, 2, 5])
    path = tmp_path / "cut.jsonl"
    lines = b"".join(sorted(complete.splitlines(keepends=True), reverse=True))
    path.write_bytes(lines[:cut])
    assert written(path, [1, 2, 3, 5]) == complete
    assert [json.loads(line)["input_line"] for line in complete.splitlines()] == [1, 2, 3, 5]


def test_a_damaged_last_line_is_asked_again_and_the_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    written(path, [1, 2])
    path.write_bytes(path.read_bytes()[:-3])
    assert set(Output(path).written) == {1}
    assert path.read_bytes() == b'{"input_line":1,"answer":"\xc3\xa91"}\n'
