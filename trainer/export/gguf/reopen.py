"""Reopen a GGUF file by llama.cpp: compute its outputs, compare its prompts and stop tokens with training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from trainer.export.agreement import MAX_LOGIT_BYTES, Logits
from trainer.export.default_system_prompt import both_ways
from trainer.export.gguf.modelfile import MODELFILE, ollama_text, read_modelfile, rendered_by
from trainer.export.gguf.runtime import GgufRunner
from trainer.export.gguf.write import gguf_file
from trainer.export.provenance import template_sha256
from trainer.export.reopen import Opened
from trainer.export.request import TokenPrompt
from trainer.export.sidecar import PROMPT_JSON, default_system


def open_gguf(
    folder: Path, quantisation: str, prompts: Sequence[TokenPrompt], *, stop_id: int, template: str | None
) -> Opened:
    """Reopen one file of a gguf export.

    Args:
        folder: Of the format.
        quantisation: Which of its files.
        prompts: Questions, as they were tokenized for training and eval.
        stop_id: Token that ends a trained answer.
        template: sha256 of the template to travel along.

    Raises:
        HardwareError: The file is missing, damaged or not finite, or llama.cpp is not installed.
    """
    runner = GgufRunner(gguf_file(folder, quantisation))

    def log_probs(rows: Sequence[Sequence[int]]) -> Logits:
        # float32: 4 bytes; of long rows only the last positions, as on the side of the trained model
        last = max(1, MAX_LOGIT_BYTES // (max(1, len(rows)) * runner.num_words * 4))
        return [torch.from_numpy(runner.log_probs(list(map(int, row)), last=last)) for row in rows]

    def answers(questions: Sequence[TokenPrompt], max_new_tokens: int) -> list[str]:
        return [runner.text(runner.generate(prompt.ids, max_new_tokens)) for prompt in questions]

    findings = [
        *_carried(runner, prompts, stop_id=stop_id, template=template, system=default_system(folder)),
        *_modelfile_findings(runner, folder, prompts, stop_id=stop_id),
    ]
    return Opened(log_probs, answers, close=runner.close, gives_log_probs=True, findings=findings)


def _carried(
    runner: GgufRunner, prompts: Sequence[TokenPrompt], *, stop_id: int, template: str | None, system: str | None
) -> Iterator[str]:
    """Yield what the file would do otherwise than training."""
    if template_sha256(runner.template) != template:
        yield "its chat template is not the one trained with"
    if not runner.is_end(stop_id):
        yield f"llama.cpp does not stop at token {stop_id}, where trained answers end"

    def texts(prompt: TokenPrompt) -> list[str]:
        chat = rendered_by(runner.template or "", runner.special_tokens, prompt.kwargs, adds_bos=runner.adds_bos)
        return [chat(turns, prompt.tools or None) for turns in both_ways(prompt.messages, system)]

    if (count := _differing(runner, prompts, texts)) and runner.template:
        yield f"{count} of {len(prompts)} prompts come out of llama.cpp as other tokens than in training"


def _modelfile_findings(
    runner: GgufRunner, folder: Path, prompts: Sequence[TokenPrompt], *, stop_id: int
) -> Iterator[str]:
    """Yield what Ollama would do otherwise than training, told by the Modelfile."""
    if not (folder / MODELFILE).is_file():
        return
    try:
        modelfile = read_modelfile(folder / MODELFILE)
    except ValueError as error:
        yield str(error)
        return
    served = json.loads((folder / PROMPT_JSON).read_text(encoding="utf-8"))
    if not (folder / modelfile.source).is_file():
        yield f"{MODELFILE}: there is no {modelfile.source}"
    if modelfile.system != served["system"]:
        yield f"{MODELFILE}: its system prompt is not the one of {PROMPT_JSON}"
    if runner.piece(stop_id) not in [value for name, value in modelfile.parameters if name == "stop"]:
        yield f"{MODELFILE} does not stop at {runner.piece(stop_id)}, where trained answers end"
    comparable = [prompt for prompt in prompts if not prompt.tools and prompt.kwargs == served["chat_template_kwargs"]]

    def texts(prompt: TokenPrompt) -> list[str]:
        return [
            ollama_text(modelfile.template, turns, modelfile.system)
            for turns in both_ways(prompt.messages, modelfile.system)
        ]

    if count := _differing(runner, comparable, texts):
        yield f"{MODELFILE}: {count} of {len(comparable)} prompts come out as other tokens than in training"


def _differing(runner: GgufRunner, prompts: Sequence[TokenPrompt], texts: Callable[[TokenPrompt], list[str]]) -> int:
    """Return how many prompts come out as other tokens than in training, in one of their texts, or not at all."""
    count = 0
    for prompt in prompts:
        if prompt.quotes:
            continue
        try:
            same = all(runner.ids(text, add_special=True) == prompt.ids for text in texts(prompt))
        except Exception:  # whatever a template raises: jinja errors, TypeError, its own raise_exception
            same = False
        count += not same
    return count
