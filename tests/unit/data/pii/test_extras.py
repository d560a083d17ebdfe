from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import pytest

from trainer.data.pii.detectors.name_model import NameDetector, spans
from trainer.data.pii.detectors.presidio import PresidioDetector
from trainer.data.pii.detectors.rule import Match
from trainer.data.pii.scan import Scanner, beside
from trainer.errors import HardwareError
from trainer.recipe.pii import NameModel, Pii, Presidio

MISSING = importlib.util.find_spec("presidio_analyzer") is None


def without_package(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the import of a package fail as it does where it is not installed."""
    monkeypatch.setitem(__import__("sys").modules, name, None)


def test_a_missing_presidio_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    without_package(monkeypatch, "presidio_analyzer")
    with pytest.raises(HardwareError) as caught:
        PresidioDetector(Presidio()).find("hello")
    assert "recipe-trainer[presidio]" in caught.value.hint


def test_a_missing_runtime_or_file_of_a_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = NameDetector(NameModel(model_dir=str(tmp_path)))
    with pytest.raises(HardwareError, match=r"model\.onnx"):
        detector.find("hello")
    for name in ("model.onnx", "tokenizer.json", "config.json"):
        (tmp_path / name).touch()
    without_package(monkeypatch, "onnxruntime")
    with pytest.raises(HardwareError) as caught:
        detector.find("hello")
    assert "recipe-trainer[ner]" in caught.value.hint


@pytest.mark.skipif(MISSING, reason="presidio-analyzer is not installed")
def test_presidio_only_reports() -> None:
    scanner = Scanner(Pii(action="redact", presidio=Presidio(threshold=0.3)))
    record = {"text": "Write to ann.lee@corp.de, see https://corp.de/x", "source": "a", "line": 1}
    scanned = pickle.loads(pickle.dumps(scanner))(record)
    assert scanned.record["text"] == "Write to [EMAIL], see https://corp.de/x"
    assert {finding.action for finding in scanned.findings if finding.type.startswith("presidio:")} == {"report"}


def test_labels_of_tokens_become_ranges() -> None:
    offsets = [(0, 0), (0, 3), (4, 7), (7, 9), (10, 14), (15, 20), (0, 0)]
    labels = ["O", "B-PER", "I-PER", "I-PER", "O", "B-LOC", "O"]
    assert spans(labels, offsets) == [Match(0, 9, "name:PER"), Match(15, 20, "name:LOC")]
    assert spans(["PER", "PER", "O"], [(0, 3), (4, 7), (8, 9)]) == [Match(0, 7, "name:PER")]
    assert spans(["B-PER", "B-PER"], [(0, 3), (4, 7)]) == [Match(0, 3, "name:PER"), Match(4, 7, "name:PER")]


def test_what_the_rules_found_stays_theirs() -> None:
    rules_matches, extra = [Match(5, 9, "phone")], [Match(0, 6, "name:PER"), Match(12, 15, "name:LOC")]
    assert beside(rules_matches, extra) == [Match(5, 9, "phone"), Match(12, 15, "name:LOC")]
