"""Reopen exported formats as a user would: merged weights by transformers, an adapter by PEFT."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft.utils import load_peft_weights
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from trainer.errors import HardwareError, TrainerError
from trainer.export.agreement import Logits, logits_of
from trainer.export.request import TokenPrompt
from trainer.export.safetensors_check import not_finite
from trainer.export.served_keys import unserved_keys
from trainer.export.sidecar import end_tokens
from trainer.export.write_transformers import base_folder
from trainer.model import adapter as adapters
from trainer.model.classes import class_of
from trainer.model.foreign.safetensors_header import DamagedFileError
from trainer.model.load import device, load_model
from trainer.recipe.model import ModelSection
from trainer.scoring.generation.continuation import Ends, argmax, way_of

FLOAT64_PARAMETERS = 500_000_000
"""Models up to this size are computed in float64."""
BATCH = 8
"""Questions answered together."""


@dataclass(frozen=True)
class GreedyAnswers:
    """Greedy answers as token ids without the end, and as text."""

    ids: list[list[int]]
    texts: list[str]


def free() -> None:
    """Give memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_double(model: PreTrainedModel) -> PreTrainedModel:
    """Return a small model in float64; a large one, and one whose kernels know no float64, as it is."""
    if model.num_parameters() > FLOAT64_PARAMETERS:
        return model
    model = model.double()
    try:
        model(input_ids=torch.tensor([[0, 0]], device=next(model.parameters()).device), use_cache=False)
    except RuntimeError:  # "not implemented for 'Double'": some attention kernels
        return model.float()
    return model


def unquantised(section: ModelSection, cache: str) -> PreTrainedModel:
    """Load a model in float32, or float64 if it is small; on the card if it fits there.

    Raises:
        HardwareError: It cannot be loaded.
    """
    try:
        model = load_model(section, Path(cache), dtype=torch.float32, placement=device()).eval()
    except HardwareError as error:
        if not isinstance(error.__cause__, torch.OutOfMemoryError):
            raise
        free()
        model = load_model(section, Path(cache), dtype=torch.float32, placement=torch.device("cpu")).eval()
    return in_double(model)


def greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[TokenPrompt],
    *,
    eos: Sequence[int],
    max_new_tokens: int,
) -> GreedyAnswers:
    """Answer prompts with the model's own `generate`, or by whole rows, the most likely token each time.

    Args:
        model: Causal language model, or one with an adapter.
        tokenizer: Decodes the answers.
        prompts: Token ids.
        eos: Tokens that end an answer.
        max_new_tokens: Longest answer.
    """
    decoder = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder.generation_config = GenerationConfig()
    is_double = next(decoder.parameters()).dtype == torch.float64
    if is_double:
        decoder.float()  # the weights were read as float32: nothing is lost, and there are many tokens to compute
    # by length, so that a batch has little padding
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].ids))
    ends = Ends(eos, max_new_tokens, min(eos))
    continued, _ = way_of(decoder)
    ids_by_index: dict[int, list[int]] = {}
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        answers = continued(decoder, [prompts[index].ids for index in batch], argmax, ends)
        for index, tokens in zip(batch, answers, strict=True):
            ids_by_index[index] = tokens[: next((at for at, token in enumerate(tokens) if token in eos), len(tokens))]
    if is_double:
        decoder.double()
    ids = [ids_by_index[index] for index in range(len(prompts))]
    return GreedyAnswers(ids, [str(tokenizer.decode(row, skip_special_tokens=True)) for row in ids])


@dataclass
class Opened:
    """A reopened format."""

    logits: Callable[[Sequence[Sequence[int]]], Logits]
    """Rows of token ids -> logits, or log-probabilities."""
    answers: Callable[[Sequence[TokenPrompt], int], list[str]]
    close: Callable[[], None] = lambda: None
    gives_log_probs: bool = False
    findings: list[str] = field(default_factory=list)


def open_adapter(folder: Path, *, section: ModelSection, cache: str, trained: Path) -> Opened:
    """Reopen an adapter.

    Args:
        folder: Of the format.
        section: The recipe's `model`: the base that the adapter is put on.
        cache: Folder for converted models.
        trained: The adapter that training wrote.

    Raises:
        HardwareError: It cannot be opened; the message says why.
    """
    findings = _not_finite(folder) + unserved_keys(folder, base_folder(section, Path(cache)))
    model = adapters.load_on(unquantised(section, cache), folder)
    return _opened(folder, model, findings + _adapter_findings(folder, trained))


def open_whole(folder: Path) -> Opened:
    """Reopen a format that holds all weights, by plain transformers.

    Raises:
        HardwareError: It cannot be opened; the message says why.
    """
    findings = _not_finite(folder)
    model, lacking = _plain(folder)
    return _opened(folder, model, findings + lacking)


def _not_finite(folder: Path) -> list[str]:
    files = sorted(folder.glob("*.safetensors"))
    return [f"{path.name}: {name} is not finite" for path in files for name in _broken(path)]


def _opened(folder: Path, model: PreTrainedModel, findings: list[str]) -> Opened:
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    eos = end_tokens(folder) or [tokenizer.eos_token_id]

    def answers(prompts: Sequence[TokenPrompt], max_new_tokens: int) -> list[str]:
        return greedy(model, tokenizer, prompts, eos=eos, max_new_tokens=max_new_tokens).texts

    return Opened(lambda rows: logits_of(model, rows), answers, findings=findings)


def _broken(path: Path) -> list[str]:
    """Return the tensors that are not finite.

    Raises:
        HardwareError: The file is damaged.
    """
    try:
        return list(not_finite(path))
    except DamagedFileError as error:
        raise HardwareError(str(error), hint="export again: trainer export RECIPE --force") from error


def _plain(folder: Path) -> tuple[PreTrainedModel, list[str]]:
    """Open a folder by plain transformers; return the model and what it lacks.

    Raises:
        HardwareError: It cannot be opened.
    """
    try:
        model, info = class_of(folder).from_pretrained(
            str(folder), dtype=torch.float32, device_map={"": device()}, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise HardwareError(f"cannot be opened: {first}", hint="export again: trainer export RECIPE --force") from error
    findings = [f"{name} is missing" for name in sorted(info["missing_keys"])]
    findings += [f"{name} belongs to no module" for name in sorted(info["unexpected_keys"])]
    findings += [f"{name} has another shape" for name in sorted(map(str, info["mismatched_keys"]))]
    model = model.eval()
    # quantised weights keep their types: what unpacks them knows no float64
    return (model if getattr(model, "hf_quantizer", None) is not None else in_double(model)), findings


def _adapter_findings(folder: Path, trained: Path) -> list[str]:
    """Return what tells the exported adapter from the trained one, tensor by tensor."""
    try:
        adapters.check_saved(folder)
    except TrainerError as error:
        return [error.message]
    ours, theirs = (load_peft_weights(str(path), device="cpu") for path in (trained, folder))
    names = sorted(ours.keys() ^ theirs.keys())
    differing = [name for name in ours.keys() & theirs.keys() if not torch.equal(ours[name], theirs[name])]
    return [f"{name} is not in both the trained and the exported adapter" for name in names] + [
        f"{name} differs from the trained adapter" for name in sorted(differing)
    ]


def recast_findings(trained: Path, folder: Path) -> list[str]:
    """Return the tensors of a fully tuned model that are not those of training, rounded to the type of the file."""
    with ExitStack() as stack:
        ours, theirs = (_tensors(stack, path) for path in (trained, folder))
        names = sorted(ours.keys() ^ theirs.keys())
        findings = [f"{name} is not in both the trained and the exported model" for name in names]
        for name in sorted(ours.keys() & theirs.keys()):
            stored = theirs[name].get_tensor(name)
            if not torch.equal(ours[name].get_tensor(name).to(stored.dtype), stored):
                findings.append(f"{name} differs from the trained model")
    return findings


def _tensors(stack: ExitStack, folder: Path) -> dict[str, safe_open]:
    """Return the open file of every tensor by name."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        file = stack.enter_context(safe_open(path, framework="pt"))
        tensors.update(dict.fromkeys(file.keys(), file))
    return tensors
