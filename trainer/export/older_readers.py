"""Write settings that older releases of transformers read: an export opens wherever its base does.

transformers 5 saves tokenizers and configurations in words of its own: a server with transformers 4 finds no class
`TokenizersBackend`, and, which is worse, takes its default where `rope_theta` has moved into `rope_parameters`. So
files that training did not change are the base's own, byte for byte, and the others say both.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from trainer.model.source import TOKENIZER_FILES

TEMPLATE, NAMED_TEMPLATES = "chat_template.jinja", "additional_chat_templates"
SETTINGS = "tokenizer_config.json"
FILES = (*TOKENIZER_FILES, "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json")
"""Every file by which a tokenizer may be opened."""
OF_THIS_RELEASE = ("backend", "is_local", "local_files_only")
"""Settings that transformers 5 alone writes, and does not need to read a tokenizer."""
PROBES = (
    "Hello, world! I've got 12345.67 reasons; it's 50% off\u2014don't you'll see?",
    "  two  spaces,\ttab,\n\nempty line\r\n and an end ",
    "def area(width, height):\n    return width * height  # m\u00b2\n",
    '{"name": "caf\u00e9", "n": [1, 22, 333, 4444], "ok": true}',
    "Straße naïve 你好，世界 こんにちは Привет مرحبا 😀🇩🇪",
    "HTTP/2 e.g. A.B.C. x86_64 C++ #tag @me http://a.b/c?d=e&f=1",
)
"""Texts on which two readings of one file are compared."""
OF_A_PLACE = ("_name_or_path", "transformers_version")
Json = dict[str, Any]


# Tokenizer


def write_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase, base: Path | None) -> str:
    """Write tokenizer and chat template into the folder of a format.

    Args:
        folder: What lies there of another tokenizer is removed.
        tokenizer: With the template that is served.
        base: Folder of the base model, whose files are copied where they give the tokens trained with; None where it
            had none of its own (a GGUF file).

    Returns:
        Why the base's files are not copied; "" where they are.
    """
    _remove(folder)
    original = _opened(base) if base else None
    why = _unlike(tokenizer, original, base)
    if base is None or original is None or why:
        tokenizer.save_pretrained(str(folder))
        _reword_tokenizer(folder / SETTINGS)
        return why
    for name in (*FILES, *_named_templates(base)):
        if (base / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(base / name, folder / name)
    if original.chat_template != tokenizer.chat_template:
        write_template(folder, tokenizer.chat_template)
    return ""


def _unlike(tokenizer: PreTrainedTokenizerBase, original: PreTrainedTokenizerBase | None, base: Path | None) -> str:
    """Say why the base's files would not give the tokens trained with; "" where they would."""
    if base is None:
        return "the base has no tokenizer files of its own"
    if original is None:
        return "the base's tokenizer files cannot be opened as they are"
    if _tokens(original) != _tokens(tokenizer):
        return "the tokenizer was changed since"
    path = base / "tokenizer.json"
    if path.is_file() and _ids(_bare(Tokenizer.from_file(str(path)))) != _ids(_bare(tokenizer.backend_tokenizer)):
        return "transformers 5 reads the base's tokenizer.json otherwise than older releases, and that was trained with"
    return ""


def _ids(content: Json) -> list[list[int]]:
    backend = Tokenizer.from_str(json.dumps(content))
    return [encoding.ids for encoding in backend.encode_batch(list(PROBES), add_special_tokens=False)]


def _bare(backend: Tokenizer) -> Json:
    """Return what decides the ids of a text, without what a call before has left."""
    content: Json = json.loads(backend.to_str())
    return content | {"padding": None, "truncation": None}


def _opened(base: Path) -> PreTrainedTokenizerBase | None:
    """Return the base's tokenizer; None where this release cannot open its files without further settings."""
    try:
        return AutoTokenizer.from_pretrained(str(base))
    except Exception:  # tokenizers raises nothing narrower; the tokenizer in hand is saved instead
        return None


def _tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[Json, dict[str, str], list[str]]:
    further = [str(token) for token in tokenizer.extra_special_tokens]
    return _bare(tokenizer.backend_tokenizer), tokenizer.special_tokens_map, further


def _named_templates(folder: Path) -> list[str]:
    return [f"{NAMED_TEMPLATES}/{path.name}" for path in sorted((folder / NAMED_TEMPLATES).glob("*.jinja"))]


def _remove(folder: Path) -> None:
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / NAMED_TEMPLATES, ignore_errors=True)


def _reword_tokenizer(path: Path) -> None:
    """Name the class that reads `tokenizer.json` as it is in every release, and further tokens by their older key."""
    settings = _read(path)
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    _write(path, {name: value for name, value in settings.items() if name not in OF_THIS_RELEASE})


def write_template(folder: Path, template: str | dict[str, str] | None) -> None:
    """Put a chat template in place of the one that lies in a folder, in each form that the folder has.

    Args:
        folder: With a tokenizer.
        template: A text, texts by name where there are several, or None.
    """
    settings = _read(folder / SETTINGS)
    is_in_settings = "chat_template" in settings or not (folder / TEMPLATE).is_file()
    (folder / TEMPLATE).unlink(missing_ok=True)
    shutil.rmtree(folder / NAMED_TEMPLATES, ignore_errors=True)
    templates = {"default": template} if isinstance(template, str) else template or {}
    for name, text in templates.items():
        path = folder / (TEMPLATE if name == "default" else f"{NAMED_TEMPLATES}/{name}.jinja")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if is_in_settings:  # releases before 4.45 look nowhere else
        several = [{"name": name, "template": text} for name, text in templates.items()]
        settings["chat_template"] = template if isinstance(template, str) else several
        _write(folder / SETTINGS, settings)


# Configuration


def write_older_config(path: Path, base: Path | None) -> None:
    """Rewrite a format's `config.json`: the base's own words where both say the same, older keys beside newer ones.

    Args:
        path: As this release, or the merge, has written it.
        base: Folder of the base model; None where its `config.json` is this release's too.
    """
    config = _read(path)
    if base is not None and (restored := _restored(path, base / path.name)) is not None:
        config = restored
    for section in (config, config.get("text_config")):
        if isinstance(section, dict):
            _add_older_keys(section)
    _write(path, config)


def _add_older_keys(section: Json) -> None:
    """Write type and rotary embedding by the keys of transformers 4 too; transformers 5 reads both as one.

    Example:
        >>> section = {"dtype": "bfloat16", "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
        >>> _add_older_keys(section)
        >>> section["torch_dtype"], section["rope_theta"], "rope_scaling" in section
        ('bfloat16', 1000000.0, False)
    """
    if "dtype" in section:
        section["torch_dtype"] = section["dtype"]
    rope = section.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:  # one for each kind of layer has no older form
        return
    scaling = dict(rope)
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in scaling:
            section.setdefault(name, scaling.pop(name))
    if scaling.get("rope_type", "default") != "default":
        section.setdefault("rope_scaling", scaling)


def _restored(path: Path, original_path: Path) -> Json | None:
    """Return the base's configuration with what the format changed; None where that would mean something else."""
    before, after = _meaning(original_path), _meaning(path)
    if before is None or after is None:
        return None
    original, saved = _read(original_path), _read(path)
    config = _merged(original, saved, before, after)
    aside = path.with_name("restored")
    aside.mkdir()
    try:
        _write(aside / path.name, config)
        means_the_same = _meaning(aside / path.name) == after
    finally:
        shutil.rmtree(aside)
    return config if means_the_same else None


def _meaning(path: Path) -> Json | None:
    """Return a configuration with every default filled in, as this release reads it."""
    try:
        values = AutoConfig.from_pretrained(str(path.parent)).to_dict()
    except (OSError, ValueError, KeyError):  # code of the model's own, or no file: it stays as it is
        return None
    return {name: value for name, value in values.items() if name not in OF_A_PLACE}


def _merged(original: Json, saved: Json, before: Json, after: Json) -> Json:
    """Return the base's entries for what did not change, and the saved ones for what did.

    Args:
        original: config.json of the base, as written.
        saved: config.json of the format, as written by this release.
        before: Meaning of `original`, every default filled in.
        after: Meaning of `saved`.

    Example:
        `head_dim` is only spelled out by this release; the vocabulary grew.

        >>> _merged(
        ...     original={"vocab_size": 10},
        ...     saved={"vocab_size": 12, "head_dim": 4},
        ...     before={"vocab_size": 10, "head_dim": 4},
        ...     after={"vocab_size": 12, "head_dim": 4},
        ... )
        {'vocab_size': 12}
    """
    config = {}
    for name, value in original.items():
        if name in ("torch_dtype", "_name_or_path"):
            continue
        old, new = before.get(name), after.get(name)
        if old == new:
            config[name] = value
        elif isinstance(value, dict) and all(isinstance(part, dict) for part in (old, new, saved.get(name))):
            config[name] = _merged(value, saved[name], old, new)  # type: ignore[arg-type]
        elif name in saved:
            config[name] = saved[name]
    changed = {name for name in saved if name not in original and before.get(name) != after.get(name)}
    return config | {name: saved[name] for name in saved if name in changed or name == "dtype"}


def _read(path: Path) -> Json:
    values: Json = json.loads(path.read_text(encoding="utf-8"))
    return values


def _write(path: Path, values: Json) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
