"""Every adapter with every loss, from rows to a proven export."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.command import Project

pytestmark = pytest.mark.slow

TRAIN = {"max_steps": 3, "micro_batch_size": 4, "learning_rate": 5e-3}


def ran(project: Project) -> dict[str, Any]:
    """Run all stages, the training as accelerate would start it; return the proofs."""
    for verb in ("data", "pack", "train", "run"):
        result = project.call(verb, worker=verb == "train")
        assert result.code == 0, result.text
    assert "train: up to date" in result.out
    proofs: dict[str, Any] = json.loads((project.run / "export/verify.json").read_text())
    return proofs


def metrics(project: Project) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (project.run / "train/metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ["sft", "dpo"])
@pytest.mark.parametrize("adapter", ["none", "lora", "qlora"])
def test_each_adapter_works_with_each_loss(tmp_path: Path, tiny_model_dir: Path, adapter: str, method: str) -> None:
    project = Project(tmp_path)
    formats = ["merged"] if adapter == "none" else ["adapter", "merged"]
    tiny.write_recipe(
        tmp_path,
        model=tiny_model_dir,
        adapter={"kind": "none", "r": None} if adapter == "none" else {"kind": adapter},
        method={"kind": method},
        train=TRAIN,
        export={"formats": formats},
    )
    proofs = ran(project)
    assert list(proofs) == formats and all(proof["passed"] for proof in proofs.values())
    for proof in proofs.values():
        assert ("drift_from_4bit" in proof) == (adapter == "qlora")
    if adapter == "qlora":
        assert proofs["merged"]["drift_from_4bit"]["max_logit_diff"] > 0
    losses = [line["loss"] for line in metrics(project)]
    assert len(losses) == 3 and losses[-1] < losses[0]
    arms = json.loads((project.run / "eval/scores.json").read_text())["arms"]
    assert ("preference_accuracy" in arms["tuned"]) == (method == "dpo")


@pytest.fixture(scope="module")
def tool_calls(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Project:
    """A finished qlora sft on 12 ShareGPT rows with tool calls and several turns."""
    project = Project(tmp_path_factory.mktemp("tool-calls"))
    tiny.write_recipe(
        project.folder,
        model=tiny_model_dir,
        adapter={"kind": "qlora"},
        data={"sources": [{"path": "calls.jsonl"}]},
        pack={"max_length": 2048},
        train=TRAIN | {"max_steps": 4},
        eval={"max_rows": 2, "max_new_tokens": 8},
    )
    rows = (tiny.ROOT / "recipes/data/toolcalls-tiny.jsonl").read_text().splitlines(keepends=True)[:12]
    (project.folder / "calls.jsonl").write_text("".join(rows))
    assert ran(project)["adapter"]["passed"]
    return project


def test_tool_calls_are_trained_and_what_the_tools_return_is_not(tool_calls: Project, tiny_tokenizer: Any) -> None:
    from trainer.tokens.store import TokenStore

    row = json.loads((tool_calls.run / "data/train.jsonl").read_text().splitlines()[0])
    assert [turn["role"] for turn in row["messages"]].count("tool") >= 1 and row["tools"]
    ids, mask = TokenStore.load(tool_calls.run / "pack/train.safetensors").row(0)
    trained = tiny_tokenizer.decode(ids[mask.astype(bool)])
    for turn in row["messages"]:
        name = turn["tool_calls"][0]["function"]["name"] if turn.get("tool_calls") else None
        assert name is None or f'"{name}"' in trained
        assert turn["role"] not in ("tool", "user") or turn["content"] not in trained
    turns = sum(turn["role"] == "assistant" for turn in row["messages"])
    assert trained.count("<|im_end|>") == turns >= 2 and "<|im_start|>" not in trained


def test_dpo_continues_an_adapter_and_is_measured_against_it(
    tool_calls: Project, tmp_path: Path, tiny_model_dir: Path
) -> None:
    from safetensors.torch import load_file

    project = Project(tmp_path)
    tiny.write_recipe(
        tmp_path,
        model=tiny_model_dir,
        adapter={"kind": "qlora", "r": None, "init_from": str(tool_calls.run)},
        method={"kind": "dpo"},
        train=TRAIN,
    )
    assert ran(project)["adapter"]["passed"]
    first = metrics(project)[0]
    # The policy is the reference: every reward is 0, with any other reference it is not.
    assert first["step"] == 1 and first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["rewards/chosen"] == pytest.approx(0, abs=1e-5)
    assert first["rewards/rejected"] == pytest.approx(0, abs=1e-5)
    start = load_file(tool_calls.run / "train/adapter/adapter_model.safetensors")
    end = load_file(project.run / "train/adapter/adapter_model.safetensors")
    assert set(start) == set(end)
    # three steps of at most about the learning rate each: it began where the other ended
    steps = max(float((start[name] - end[name]).abs().max()) for name in start)
    assert 0 < steps < 4 * TRAIN["learning_rate"]


def test_the_reference_is_the_start_adapter_and_not_the_base(tool_calls: Project, tiny_model_dir: Path) -> None:
    import torch
    from accelerate import Accelerator

    from tests.stores import pair_store
    from trainer.engine.prepare import prepare
    from trainer.methods.reference_log_probs import reference_log_probs
    from trainer.model import adapter as adapters
    from trainer.model.load import load_model
    from trainer.recipe.model import LoraAdapter, ModelSection

    section, cache = ModelSection(name_or_path=str(tiny_model_dir)), tool_calls.folder
    start = LoraAdapter(kind="lora", init_from=str(tool_calls.run))
    policy = adapters.attach(load_model(section, cache, dtype=torch.float32), start).eval()
    complete = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        logs = policy(input_ids=complete).logits.log_softmax(-1)[0]
        with policy.disable_adapter():
            base = policy(input_ids=complete).logits.log_softmax(-1)[0]
    store = pair_store([([5, 6, 7], [8, 9], [10, 11])])
    engine = prepare(policy, [complete[0].numpy()], attention="auto", say=lambda _: None)
    actual = reference_log_probs(policy, engine, store, pad_id=0, accelerator=Accelerator(cpu=True))
    assert float(actual[0, 0]) == pytest.approx(float(logs[2, 8] + logs[3, 9]), abs=1e-4)
    assert abs(float(actual[0, 0]) - float(base[2, 8] + base[3, 9])) > 1e-3
