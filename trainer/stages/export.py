"""Run `trainer export`: write the formats, have each reopened by a fresh process, publish what is proven.

Writes a folder for each format with its model card and `provenance.json`, `verify.json` with every figure, `README.md`
and `manifest.json`. The limits stand in `export.verify`; beyond them nothing is published.
"""

from __future__ import annotations

import shutil

import torch

from trainer.disk import cache_dir, read_json, read_json_lines, write_json
from trainer.errors import HardwareError
from trainer.export.judge import raise_failed, sentence
from trainer.export.lineage import RunFacts
from trainer.export.manifest import write_manifest
from trainer.export.push import hub_token, push
from trainer.export.run import ExportInputs, ExportRun
from trainer.recipe import Recipe
from trainer.recipe.model import low_rank
from trainer.rundir import StageContext, StageRecord, environment

ROWS = ("train.jsonl", "validation.jsonl", "heldout.jsonl")
MERGING = "export.merging"
"""Folder beside `export/` where merged weights are written, so that a killed merge goes on where it was."""


def run(recipe: Recipe, context: StageContext) -> None:
    """Write every format of `export.formats`, then prove it; upload it where the recipe says so.

    Raises:
        GateError: A proof failed; nothing is published.
        HardwareError: The model does not fit, or a format cannot be written on this machine.
        StageError: The base model is not the one trained on.
    """
    if recipe.export.push:
        hub_token(recipe.export.push)
    work = ExportRun(recipe, _inputs(recipe, context), hash_file=context.run.hashes.file, say=context.say)
    try:
        proofs = work.proofs()
    except torch.OutOfMemoryError as error:
        raise HardwareError(
            f"out of memory in export: {str(error).splitlines()[0]}",
            hint="hide the card: CUDA_VISIBLE_DEVICES= trainer export RECIPE",
        ) from error
    write_json(context.dir / "verify.json", proofs)
    work.origin.write_cards(context.dir, proofs, context.say)
    context.numbers.update({f"{name}_max_logit_diff": proof.get("max_logit_diff") for name, proof in proofs.items()})
    for name, proof in proofs.items():
        if proof["passed"]:
            context.say(sentence(name, proof))
    raise_failed(proofs, context.dir / "verify.json")
    context.say(f"export: manifest {write_manifest(context.dir)}")
    shutil.rmtree(context.run.path / MERGING, ignore_errors=True)
    if recipe.export.push:
        chosen = recipe.export.push.format or recipe.export.formats[0]
        context.say(f"export: {chosen} is at {push(context.dir / chosen, recipe.export.push)}")


def _inputs(recipe: Recipe, context: StageContext) -> ExportInputs:
    return ExportInputs(
        run=_run_facts(context),
        trained=context.input("train", "adapter" if low_rank(recipe.adapter) else "model"),
        token_files={split: context.input("pack", f"{split}.safetensors") for split in ("train", "heldout")},
        pack_report=read_json(context.input("pack", "report.json")),
        heldout=read_json_lines(context.input("data", "heldout.jsonl")),
        predictions=read_json_lines(context.input("eval", "predictions.jsonl")),
        folder=context.dir,
        merging=context.run.path / MERGING,
        cache=cache_dir(),
    )


def _run_facts(context: StageContext) -> RunFacts:
    train, machine = context.run.record("train"), environment()
    trained, rows = _hashes(train), _hashes(context.run.record("data"))
    return RunFacts(
        fingerprint=context.record.fingerprint,
        inputs=context.record.inputs,
        trained_on=train.inputs if train else {},
        numbers=train.numbers if train else {},
        trained={name: digest for name, digest in trained.items() if name.startswith(("adapter/", "model/"))},
        rows={name: rows[name] for name in ROWS if name in rows},
        train_rows=context.input("data", "train.jsonl"),
        data_report=read_json(context.input("data", "report.json")),
        scores=read_json(context.input("eval", "scores.json")),
        gates=read_json(context.input("eval", "gates.json")),
        code={"sha256": machine["code"], "packages": machine["packages"]},
    )


def _hashes(record: StageRecord | None) -> dict[str, str]:
    return {name: file["sha256"] for name, file in record.outputs.items()} if record else {}
