"""Load base model and tokenizer from a hub id, a folder or a GGUF file, with 4-bit weights by bitsandbytes.

A GGUF file is converted to safetensors in the cache once, and is then an ordinary model folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypedDict, assert_never

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from trainer.digests import is_whole, refuse_damage, write_list
from trainer.disk import is_out_of_memory
from trainer.errors import HardwareError, RecipeError, TrainerError
from trainer.errors import Problem as RecipeProblem
from trainer.lock import exclusive
from trainer.model.classes import auto_class
from trainer.model.foreign.base_model import check_folder
from trainer.model.foreign.config import check_values
from trainer.model.foreign.files import ForeignFile
from trainer.model.foreign.gguf import check_gguf
from trainer.model.four_bit import four_bit, stacks_in_four_bits
from trainer.model.published import check_trainable, config_json, wide_folder
from trainer.model.source import ModelSource, locate
from trainer.recipe.model import Adapter, LoraAdapter, ModelSection, NoAdapter, four_bit_of

logging.disable_progress_bar()  # transformers draws one for every file that it opens

UNREACHABLE = (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, TimeoutError)
"""Errors of a hub that does not answer, or must not be asked, for files that are not in its cache."""
CONVERSION_WAIT_S = 3600
Placement: TypeAlias = torch.device | Literal["auto"]
"""A device, or auto: spread over all cards."""


class SourceSettings(TypedDict, total=False):
    """Keywords of `from_pretrained` that belong to a model's source."""

    trust_remote_code: bool
    revision: str


@dataclass(frozen=True)
class Precision:
    """Types of weights and products in a training."""

    weights: torch.dtype
    autocast: torch.dtype | None
    """Type of the matrix products where it differs from the weights."""


def device() -> torch.device:
    """Return this process's card, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def precision(section: ModelSection, adapter: Adapter | None) -> Precision:
    """Choose types: bfloat16 on CUDA and float32 on the CPU, unless the recipe sets them.

    Full fine-tuning keeps float32 weights under bfloat16 autocast: an update is smaller than a bfloat16 step. Where
    the recipe sets bfloat16, weights are bfloat16 and the optimizer rounds them stochastically. On a card, float16 is
    always under autocast: its gradients need a scale, or the small ones become zero.

    Raises:
        HardwareError: The card cannot do the type.
    """
    on_cuda = torch.cuda.is_available()
    has_bfloat16 = on_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    if section.dtype == "bfloat16" and on_cuda and not has_bfloat16:
        raise HardwareError("this card has no bfloat16", hint="--set model.dtype=float16, or float32")
    if section.dtype != "auto" and not (section.dtype == "float16" and on_cuda):
        return Precision(getattr(torch, section.dtype), None)
    if not on_cuda:
        return Precision(torch.float32, None)
    # bfloat16 has the exponent of float32 (8 bits), so its gradients need no scale; float16 has 5
    half = torch.bfloat16 if has_bfloat16 and section.dtype == "auto" else torch.float16
    match adapter:
        case NoAdapter():
            return Precision(torch.float32, half)
        case LoraAdapter() | None:
            return Precision(half, half)
        case _:
            assert_never(adapter)


def model_folder(section: ModelSection, cache: Path) -> tuple[str, SourceSettings]:
    """Return the arguments of `from_pretrained`: a folder or hub id, and keywords."""
    source = locate(section.name_or_path, revision=section.revision)
    settings: SourceSettings = {"trust_remote_code": section.trust_remote_code}
    if source.kind == "gguf":
        return str(_converted(source, cache)), settings
    if source.path is not None:
        return str(source.path), settings
    if source.revision:
        settings["revision"] = source.revision
    return source.name, settings


def weights_folder(
    section: ModelSection, cache: Path, say: Callable[[str], None] = lambda _: None
) -> tuple[str, SourceSettings]:
    """Return the arguments of `from_pretrained` for the weights: a published base in fewer bits is made wide once.

    Raises:
        HardwareError: Its files cannot be read, or the disk has no room.
        StageError: The weights are not the ones that a run or an export wrote there.
    """
    name, settings = model_folder(section, cache)
    if (folder := Path(name)).is_dir():
        refuse_damage(folder)
        check_folder(folder)
    try:
        wide = wide_folder(name, settings.get("revision"), cache, say)
    except (OSError, ValueError) as error:
        raise cannot_load("model", name, error) from error
    return (name, settings) if wide is None else (str(wide), {"trust_remote_code": section.trust_remote_code})


def check_base(section: ModelSection, cache: Path) -> None:
    """Refuse a base that cannot be trained on, before its weights are loaded.

    Raises:
        HardwareError: It is quantised, and that cannot be undone; or its files cannot be read.
    """
    name, settings = model_folder(section, cache)
    try:
        config = config_json(name, settings.get("revision"))
    except (OSError, ValueError) as error:
        raise cannot_load("model", name, error) from error
    check_trainable(config, name)


def commit(name_or_path: str, revision: str | None) -> str | None:
    """Return the commit of a hub model in the local cache; a branch such as main is resolved."""
    if locate(name_or_path, revision=revision).kind != "hub":
        return None
    cached = try_to_load_from_cache(name_or_path, "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else None


def _converted(source: ModelSource, cache: Path) -> Path:
    """Convert a GGUF file to a folder of bfloat16 safetensors, once."""
    assert source.path is not None
    stat = source.path.stat()
    # size and time of change stand for the content, which takes minutes to hash
    folder = cache / "models" / f"{source.path.stem}-{stat.st_size}-{stat.st_mtime_ns:x}"
    if is_whole(folder):
        return folder
    with exclusive(_lock_of(folder), subject=folder, hint="wait until it is converted", wait_s=CONVERSION_WAIT_S):
        # another process may have converted it meanwhile
        if not is_whole(folder):
            check_gguf(source.path)
            try:
                _convert(source, folder)
            except Exception as error:  # whatever transformers makes of a file that is not right
                if is_out_of_memory(error) or isinstance(error, OSError):
                    raise
                raise cannot_load("model", source.name, error) from error
    return folder


def _lock_of(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder.with_name(f".{folder.name}.lock")


def _convert(source: ModelSource, folder: Path) -> None:
    assert source.path is not None
    staged = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(staged, ignore_errors=True)  # of a process that was killed
    where: dict[str, object] = {"pretrained_model_name_or_path": str(source.path.parent), "gguf_file": source.path.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    if hasattr(transformers, "GgufConfig"):  # newer releases keep GGUF weights packed unless told otherwise
        where["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
    model.config.quantization_config = None
    del model.config.quantization_config
    clean = AutoModelForCausalLM.from_config(model.config, dtype=torch.bfloat16)
    clean.load_state_dict(model.state_dict())
    clean.generation_config = model.generation_config
    clean.config._name_or_path = source.name
    clean.save_pretrained(staged)
    tokenizer.save_pretrained(staged)
    for path in staged.iterdir():
        path.chmod(0o644)
    write_list(staged)
    shutil.rmtree(folder, ignore_errors=True)
    staged.rename(folder)


def load_tokenizer(section: ModelSection, cache: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer, with the recipe's template.

    Raises:
        HardwareError: It cannot be loaded.
    """
    name, kwargs = model_folder(section, cache)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **kwargs)
    except Exception as error:  # tokenizers raises plain exceptions for a damaged file
        if is_out_of_memory(error):
            raise
        raise cannot_load("tokenizer", name, error) from error
    if section.chat_template:
        tokenizer.chat_template = Path(section.chat_template).read_text(encoding="utf-8")
    if section.chat_template_prefix and (template := tokenizer.chat_template):
        prefix = Path(section.chat_template_prefix).read_text(encoding="utf-8")
        named = isinstance(template, dict)
        tokenizer.chat_template = (
            {name: prefix + text for name, text in template.items()} if named else prefix + template
        )
    return tokenizer


def load_model(
    section: ModelSection,
    cache: Path,
    *,
    adapter: Adapter | None = None,
    dtype: torch.dtype,
    placement: Placement | None = None,
) -> PreTrainedModel:
    """Load the base model, in 4 bits for a qlora adapter.

    Args:
        section: The recipe's `model`.
        cache: Folder for converted models.
        adapter: The recipe's `adapter`; None loads plain weights.
        dtype: Type of the weights.
        placement: Device, or auto for all cards; by default this process's.

    Raises:
        HardwareError: Files are missing or damaged, or the device is too small.
        StageError: The weights are not the ones that a run or an export wrote there.
        RecipeError: `attn_implementation` is not available for this model.
    """
    name, source = weights_folder(section, cache)
    placement = placement or device()
    kwargs: dict[str, object] = {"dtype": dtype, "use_safetensors": True}
    kwargs["device_map"] = "auto" if placement == "auto" else {"": placement}
    if section.attn_implementation != "auto":
        kwargs["attn_implementation"] = section.attn_implementation
    qlora = four_bit_of(adapter) if adapter else None
    if qlora:
        kwargs["quantization_config"] = four_bit(qlora, dtype)
    try:
        config = checked_config(name, source)
        with stacks_in_four_bits():
            model = auto_class(config).from_pretrained(name, **source, **kwargs)
    except torch.OutOfMemoryError as error:
        raise HardwareError(
            f"{name} does not fit into the memory of {'all cards' if placement == 'auto' else placement}",
            hint="--set adapter.kind=qlora, or a smaller model",
        ) from error
    except Exception as error:  # whatever transformers makes of a file that is not right
        if is_out_of_memory(error) or isinstance(error, TrainerError):
            raise
        if "attn_implementation" in str(error) or "scaled_dot_product_attention" in str(error):
            problem = RecipeProblem("recipe", None, "model.attn_implementation", str(error).splitlines()[0])
            raise RecipeError([problem], hint="--set model.attn_implementation=eager") from error
        raise cannot_load("model", name, error) from error
    if qlora and not getattr(model, "is_loaded_in_4bit", False):
        raise HardwareError(f"{name} was not loaded in 4 bits", hint="update bitsandbytes, or --set adapter.kind=lora")
    # a cache of keys and values is of no use to training, and keeps layers from being recomputed
    model.config.use_cache = False
    return model


def checked_config(name: str, source: SourceSettings) -> PreTrainedConfig:
    """Return a model's configuration; refuse a model with Python code of its own, unless the recipe allows it."""
    values, _ = PreTrainedConfig.get_config_dict(name, **source)
    check_values(values, ForeignFile(Path(name) / "config.json"))
    config = AutoConfig.from_pretrained(name, **source)
    if getattr(config, "auto_map", None) and not source["trust_remote_code"]:
        raise HardwareError(
            f"{name} asks to run its own Python code (auto_map in config.json)",
            hint="read that code, pin model.revision, then set model.trust_remote_code: true",
        )
    return config


def cannot_load(part: str, name: str, error: BaseException) -> HardwareError:
    """Return an error with the cause that transformers reports, and the way out of that cause."""
    text = str(error).strip()
    first = text.splitlines()[0] if text else type(error).__name__
    return HardwareError(f"cannot load the {part} {name}: {first}", hint=_way_out(error, is_local=Path(name).exists()))


def _way_out(error: BaseException, *, is_local: bool) -> str:
    """Return the way out of an error's cause, which its type names where it has one."""
    cause = str(error).lower()
    if "does not recognize this architecture" in cause or "unrecognized configuration class" in cause:
        return "the installed transformers has no such model: choose another, or update transformers and run the tests"
    if isinstance(error, ImportError):
        return "install the package that the message names"
    if is_local and isinstance(error, (OSError, SafetensorError)):
        return "compare the folder with its source: a file is missing, damaged, or of another model"
    if is_local:
        return "the message above is of transformers: config.json and weights may be of two models, or damaged"
    kinds = [type(cause) for cause in _causes(error)]
    if any(issubclass(kind, GatedRepoError) for kind in kinds) or "gated" in cause:
        return "ask for access on the model's page, and set HF_TOKEN in the environment"
    if any(issubclass(kind, (RepositoryNotFoundError, RevisionNotFoundError)) for kind in kinds):
        return "check model.name_or_path and model.revision; a private model needs HF_TOKEN in the environment"
    if any(issubclass(kind, UNREACHABLE) for kind in kinds):
        return "the hub cannot be reached and the files are not in HF_HOME: download them first, or use a local folder"
    return "the message above is of transformers: check model.name_or_path, model.revision and free memory"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
