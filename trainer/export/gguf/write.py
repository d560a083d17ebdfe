"""Write the folder of the gguf format: a file for each quantisation, `prompt.json`, and Ollama's `Modelfile`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from transformers import GenerationConfig

from trainer.errors import HardwareError
from trainer.export.default_system_prompt import without_default_system
from trainer.export.gguf.converter import FLOATS, convert, find_converter
from trainer.export.gguf.modelfile import (
    MODELFILE,
    Modelfile,
    UnknownTemplateError,
    go_template,
    parameters_of,
    rendered_by,
)
from trainer.export.gguf.runtime import GgufRunner, llama_cpp, quantise
from trainer.export.merge import open_to_all
from trainer.export.sidecar import ServedPrompt, write_prompt
from trainer.recipe.export import Gguf

Say = Callable[[str], None]
_LOSSLESS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


class GgufFacts(TypedDict):
    """What writing one file measured."""

    bytes: int
    other_type_tensors: int
    """Tensors in another type, because their rows are no multiple of its block."""


def check_gguf(section: Gguf) -> None:
    """Look whether this machine can write and prove GGUF files, before anything else is done.

    Raises:
        HardwareError: Converter or runtime is missing.
    """
    find_converter(section.converter)
    llama_cpp()


def gguf_file(folder: Path, quantisation: str) -> Path:
    """Return the file of a quantisation.

    Raises:
        HardwareError: It is not there.
    """
    files = sorted(folder.glob(f"*-{quantisation}.gguf"))
    if len(files) != 1:
        raise HardwareError(
            f"{folder.name}: {len(files)} files are named *-{quantisation}.gguf, expected one",
            hint="export again: trainer export RECIPE --force",
        )
    return files[0]


def write_gguf(merged: Path, folder: Path, name: str, section: Gguf, say: Say) -> dict[str, GgufFacts]:
    """Write merged weights as GGUF, one file `NAME-QUANTISATION.gguf` each.

    Args:
        merged: Folder with merged weights, tokenizer and template.
        folder: Folder to write.
        name: First part of the file names.
        section: The recipe's `export.gguf`.
        say: Is told about each file.

    Returns:
        Facts by quantisation.

    Raises:
        HardwareError: The converter or llama.cpp refuses the model.
    """
    script = find_converter(section.converter)
    folder.mkdir(parents=True, exist_ok=True)
    quantisations = list(dict.fromkeys(section.quantisations))
    stored = str(json.loads((merged / "config.json").read_text(encoding="utf-8")).get("dtype"))
    # every quantisation is made from the type of the weights themselves: two roundings would add their errors
    source = folder / f"{name}-{_LOSSLESS.get(stored, 'f32')}.gguf"
    floats = [quantisation for quantisation in quantisations if quantisation in FLOATS]
    for quantisation in floats:
        convert(merged, folder / f"{name}-{quantisation}.gguf", quantisation, script)
    if len(floats) < len(quantisations) and not source.is_file():
        convert(merged, source, source.stem.rpartition("-")[2], script)
    facts: dict[str, GgufFacts] = {}
    for quantisation in quantisations:
        target = folder / f"{name}-{quantisation}.gguf"
        num_other = 0 if quantisation in FLOATS else quantise(source, target, quantisation)
        facts[quantisation] = {"bytes": target.stat().st_size, "other_type_tensors": num_other}
        say(_line(quantisation, facts[quantisation]))
    if source.stem.rpartition("-")[2] not in quantisations:
        source.unlink(missing_ok=True)
    return facts


def _line(quantisation: str, facts: GgufFacts) -> str:
    num_other = facts["other_type_tensors"]
    exception = f"; tensors in another type, as their rows do not fit its blocks: {num_other}" if num_other else ""
    return f"export: gguf/{quantisation} has {facts['bytes'] / 1e6:,.1f} MB{exception}"


def write_prompts(
    folder: Path, quantisations: Sequence[str], prompt: ServedPrompt, settings: GenerationConfig, *, has_tools: bool
) -> str:
    """Write `prompt.json`, and a `Modelfile` where Ollama can be told the chat template.

    Args:
        folder: With the GGUF files.
        quantisations: Of the files; the Modelfile names the 8-bit one, else the first.
        prompt: What `prompt.json` says.
        settings: Generation defaults of the model.
        has_tools: Whether questions come with tools.

    Returns:
        `written`, or why there is no Modelfile.
    """
    write_prompt(folder, prompt)
    source = gguf_file(folder, "q8_0" if "q8_0" in quantisations else quantisations[0])
    try:
        if has_tools:
            raise UnknownTemplateError("the rows have tools, which fixed text around turns cannot tell")
        text = str(_modelfile(source, prompt, settings))
        (folder / MODELFILE).write_text(text, encoding="utf-8")
        reason = ""
    except UnknownTemplateError as error:
        reason = f"{error}; llama-server --jinja runs the chat template itself"
    open_to_all(folder)
    return reason or "written"


def _modelfile(source: Path, prompt: ServedPrompt, settings: GenerationConfig) -> Modelfile:
    runner = GgufRunner(source, check_weights=False)
    try:
        template, special, adds_bos = runner.template, runner.special_tokens, runner.adds_bos
    finally:
        runner.close()
    if not template:
        raise UnknownTemplateError("the model has no chat template")
    template = without_default_system(template, prompt["system"])  # SYSTEM says it there
    chat = rendered_by(template, special, prompt["chat_template_kwargs"], adds_bos=adds_bos)
    parameters = parameters_of(settings, prompt["stop"])
    return Modelfile(source.name, go_template(chat, template), prompt["system"], parameters)
