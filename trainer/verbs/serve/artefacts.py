"""Find the trained and exported folders of a run, without opening any of them."""

from __future__ import annotations

from pathlib import Path

from trainer.data.served_prompt import ServedSystem, served_system
from trainer.digests import hash_value, is_model_file, refuse_damage
from trainer.errors import StageError
from trainer.model.source import locate, weight_inputs
from trainer.recipe import Recipe
from trainer.rundir import RunFolder

WEIGHTS = (".safetensors", ".gguf")


def trained(run: RunFolder, arguments: str) -> Path:
    """Return the folder that training wrote.

    Raises:
        StageError: Nothing is trained.
    """
    if run.record("train") is None:
        raise StageError(f"{run.path}: nothing is trained yet", hint=f"trainer run {arguments}")
    return run.stage_dir("train")


def exported(run: RunFolder, kind: str, arguments: str) -> Path:
    """Return the folder of an exported format.

    Args:
        run: The run folder.
        kind: `adapter`, `merged` or `gguf`.
        arguments: The recipe, as a fix repeats it.

    Raises:
        StageError: It is missing, damaged, or older than the training.
    """
    folder = run.stage_dir("export") / kind
    record, training = run.record("export"), run.record("train")
    if record is None or not folder.is_dir():
        raise StageError(
            f"{folder}: this format is not exported", hint=f"trainer export {arguments} --set 'export.formats=[{kind}]'"
        )
    if training is not None and training.ended > record.started:
        raise StageError(
            f"{folder} is older than the training: it holds other weights", hint=f"trainer export {arguments}"
        )
    refuse_damage(folder, run.hashes, hint=f"trainer export {arguments} --force")
    return folder


def refuse_other_base(recipe: Recipe, run: RunFolder, arguments: str) -> None:
    """Compare the weights of a local base model with those that were trained on.

    Raises:
        StageError: A file has other content.
    """
    record = run.record("train")
    assert record is not None, "looked at before"
    source = locate(recipe.model.name_or_path, revision=recipe.model.revision)
    for name, path in weight_inputs(source).items():
        written = record.inputs.get(f"model/{name}") or record.inputs.get(name)
        if is_model_file(path.name) and written and run.hashes.file(path) != written:
            raise StageError(
                f"{path} has other content than the base model that was trained on",
                hint=f"bring that model back, or train on this one: trainer train {arguments} --force",
            )


def is_exported(run: RunFolder, kind: str) -> bool:
    """Tell whether a format is there; it may still be stale."""
    return run.record("export") is not None and (run.stage_dir("export") / kind).is_dir()


def system_of(recipe: Recipe, run: RunFolder) -> ServedSystem:
    """Return what a question without a system turn is asked with."""
    return served_system(recipe.data, run.stage_dir("data") / "train.jsonl")


def weights_hash(run: RunFolder, *, merged: bool) -> str:
    """Return what tells the answering weights from all others."""
    stage = "export" if merged else "train"
    record = run.record(stage)
    assert record is not None, "looked at before"
    files = {name: facts["sha256"] for name, facts in record.outputs.items() if name.endswith(WEIGHTS)}
    answering = {name: digest for name, digest in files.items() if not merged or name.startswith("merged/")}
    return hash_value({"files": answering, "from": None if merged else record.fingerprint})
