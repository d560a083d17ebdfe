"""Write the files beside the weights of a format: template, system prompt, stop tokens, generation defaults.

A format that serves another prompt than training saw answers another question, however exact its weights are.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from trainer.data.records.kinds import Message
from trainer.export.default_system_prompt import DefaultSystemError, Template, both_ways, with_default_system
from trainer.export.merge import open_to_all
from trainer.export.older_readers import write_older_config, write_tokenizer
from trainer.export.provenance import template_sha256
from trainer.export.request import TokenPrompt

CONFIG = "config.json"
PROMPT_JSON = "prompt.json"
"""System prompt, template settings and stop tokens, for whoever serves the model."""
SAMPLING = ("temperature", "top_p", "top_k")


class ServedPrompt(TypedDict):
    """prompt.json: how to ask the model as training did."""

    system: str | None
    default_system: bool
    """The chat template opens a question without a system turn with it."""
    chat_template_kwargs: dict[str, object]
    stop: list[str]
    """Texts that end an answer."""
    stop_token_ids: list[int]


def end_tokens(folder: Path) -> list[int]:
    """Return the tokens at which a server of this folder ends an answer."""
    if not (folder / "generation_config.json").is_file():
        return []
    eos = GenerationConfig.from_pretrained(str(folder)).eos_token_id
    return [eos] if isinstance(eos, int) else list(eos or [])


def write_carried(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    settings: GenerationConfig,
    stop_id: int,
    prompt: ServedPrompt,
    *,
    base: Path | None,
) -> str:
    """Write tokenizer, template, generation settings and `prompt.json` into the folder of a format.

    Tokenizer and `config.json` are the base's own files where nothing in them has changed.

    Args:
        folder: Of the format; what lies there is replaced.
        tokenizer: With the template to write, see `served_template`.
        settings: Of the base model; the end of the trained answers is added.
        stop_id: Token that ends a trained answer.
        prompt: What `prompt.json` says.
        base: Folder of the base model; None where that is a GGUF file, which holds neither.

    Returns:
        Why the base's own tokenizer files are not copied; "" where they are.
    """
    why = write_tokenizer(folder, tokenizer, base)
    if (folder / CONFIG).is_file():
        write_older_config(folder / CONFIG, base)
    eos = settings.eos_token_id
    ids = [eos] if isinstance(eos, int) else list(eos or [])
    # the base's own ends stay: a server that stops at one of them stops in time
    settings.eos_token_id = ids[0] if ids == [stop_id] else [*ids, *([] if stop_id in ids else [stop_id])]
    settings._from_model_config = False  # transformers 4 would make them anew from config.json, without this end
    for name in SAMPLING:  # refused by save_pretrained beside do_sample=False
        if not settings.do_sample:
            setattr(settings, name, None)
    settings.save_pretrained(str(folder))
    write_prompt(folder, prompt)
    open_to_all(folder)
    return why


def served_template(
    tokenizer: PreTrainedTokenizerBase, system: str | None, kwargs: dict[str, object]
) -> tuple[Template | None, str]:
    """Return the chat template that travels with a format, and why it has no default system prompt ("" where it has).

    Args:
        tokenizer: With the template trained with.
        system: What a question without a system turn is to be asked with.
        kwargs: Settings of the template.
    """
    template: Template | None = tokenizer.chat_template
    if not template:
        return None, "the model has no chat template"
    if system is None:
        return template, "training had no system prompt that all rows share"
    try:
        return with_default_system(template, system, tokenizer.special_tokens_map | kwargs), ""
    except DefaultSystemError as error:
        return template, str(error)


def with_template(tokenizer: PreTrainedTokenizerBase, template: Template | None) -> PreTrainedTokenizerBase:
    """Return the tokenizer with another chat template."""
    copied = copy.copy(tokenizer)
    copied.chat_template = template
    return copied


def write_prompt(folder: Path, prompt: ServedPrompt) -> None:
    """Write `prompt.json`."""
    text = json.dumps(prompt, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / PROMPT_JSON).write_text(text + "\n", encoding="utf-8")


def carried_findings(
    folder: Path, prompts: Sequence[TokenPrompt], *, stop_id: int, template: str | None, eos_token: str | None
) -> Iterator[str]:
    """Yield what the folder would do otherwise than training.

    Args:
        folder: Of a format.
        prompts: Questions (`ids`, `messages`, `tools`, `kwargs`), as they were tokenized for training and eval.
        stop_id: Token that ends a trained answer.
        template: sha256 of the template to travel along, see `served_template`.
        eos_token: End token of the tokenizer trained with.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:  # tokenizers raises nothing narrower for a damaged file
        yield f"its tokenizer cannot be opened: {(str(error) or type(error).__name__).splitlines()[0]}"
        return
    if template_sha256(tokenizer.chat_template) != template:
        yield "its chat template is not the one trained with"
    if tokenizer.eos_token != eos_token:
        yield f"its end token is {tokenizer.eos_token!r}, trained with {eos_token!r}"
    if stop_id not in end_tokens(folder):
        token = tokenizer.convert_ids_to_tokens(stop_id)
        yield f"generation_config.json does not stop at {token!r} ({stop_id}), where trained answers end"
    prompts = [prompt for prompt in prompts if not prompt.quotes]
    differing = sum(
        any(
            _ids(tokenizer, prompt, turns) != prompt.ids for turns in both_ways(prompt.messages, default_system(folder))
        )
        for prompt in prompts
    )
    if differing:
        yield f"{differing} of {len(prompts)} prompts come out as other tokens than in training"


def default_system(folder: Path) -> str | None:
    """Return the system prompt that the folder's template gives to a question without one."""
    path = folder / PROMPT_JSON
    served = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return served.get("system") if served.get("default_system") else None


def _ids(tokenizer: PreTrainedTokenizerBase, prompt: TokenPrompt, turns: Sequence[Message]) -> list[int] | None:
    """Return a prompt's token ids as a server would make them; None where the template refuses it."""
    try:
        text = tokenizer.apply_chat_template(
            list(turns), tools=prompt.tools or None, tokenize=False, add_generation_prompt=True, **prompt.kwargs
        )
    except Exception:  # whatever a template raises: jinja errors, TypeError, its own raise_exception
        return None
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
