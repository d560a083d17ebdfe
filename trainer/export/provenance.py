"""Write the origin and the hashes of an exported folder, and check them again. Needs no torch and no run.

`provenance.json` lies in the folder of every format: hashes of base, rows, template, recipe, code and of every file.
`examine` hashes all of it again and repeats the checks that need no model: files whole, numbers finite, settings
readable, template and stop tokens those of training. What lies beside the formats, `manifest` knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from trainer.digests import hash_file, hash_value, lists_files
from trainer.errors import StageError
from trainer.export.safetensors_check import is_zero, not_finite
from trainer.model.foreign.safetensors_header import DamagedFileError, stored_tensors
from trainer.shapes.files import FileDigest

PROVENANCE = "provenance.json"
FORMAT_VERSION = 1
_OF_TOOLS = (".cache", ".git", ".gitattributes")
"""What the hub's client leaves in a downloaded folder."""
_SETTINGS = ("config.json", "adapter_config.json", "generation_config.json", "tokenizer_config.json", "prompt.json")
WRITTEN = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE


@dataclass
class Examined:
    """What `examine` found in one folder."""

    folder: Path
    kind: str
    digest: str
    """sha256 of provenance.json's content: compare it with the one that was published."""
    num_files: int
    num_bytes: int
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What could not be looked at."""


def template_sha256(template: object) -> str | None:
    """Return the hash of a chat template; None where there is none. Several named ones count together."""
    if not template:
        return None
    text = template.encode("utf-8") if isinstance(template, str) else orjson.dumps(template, option=WRITTEN)
    return hashlib.sha256(text).hexdigest()


def write_provenance(folder: Path, facts: Mapping[str, object]) -> str:
    """Write `provenance.json` over the files that lie in the folder; return its digest.

    Args:
        folder: Of one format.
        facts: `kind`, `base`, `data`, `recipe`, `template`, `stop_token_id`, ...
    """
    files = {name: noted(folder / name) for name in entries_in(folder, (PROVENANCE,))}
    # the digest covers the list of files, so a published digest covers every byte of the folder
    content = {"provenance_version": FORMAT_VERSION, **facts, "files": files}
    digest = hash_value(content)
    (folder / PROVENANCE).write_bytes(orjson.dumps(content | {"digest": digest}, option=WRITTEN))
    return digest


def read_provenance(folder: Path) -> dict[str, Any]:
    """Read `provenance.json`.

    Raises:
        StageError: It is missing or damaged.
    """
    path = folder / PROVENANCE
    hint = "name the folder of an export, such as runs/NAME/export/adapter"
    try:
        content = orjson.loads(path.read_bytes())
    except OSError as error:
        raise StageError(f"{path}: no such file, so nothing can be verified", hint=hint) from error
    except orjson.JSONDecodeError as error:
        raise StageError(f"{path}: damaged: {error}", hint="export again, or copy the folder again") from error
    if not isinstance(content, dict) or not lists_files(content.get("files")):
        raise StageError(f"{path}: not written by recipe-trainer", hint=hint)
    return content


def examine(folder: Path) -> Examined:
    """Hash a folder again and repeat the checks that need no model.

    Raises:
        StageError: There is no provenance.json.
    """
    facts = read_provenance(folder)
    digest = str(facts.pop("digest", ""))
    sizes = [file["bytes"] for file in facts["files"].values()]
    report = Examined(folder, str(facts.get("kind")), digest, len(sizes), sum(sizes))
    if hash_value(facts) != digest:
        report.findings.append(f"{PROVENANCE} was edited: its content has another hash than it says")
    report.findings += [
        *changed_files(folder, facts["files"], (PROVENANCE,)),
        *_broken_weights(folder),
        *_unreadable_settings(folder),
        *_other_prompt(folder, facts),
    ]
    return report


def entries_in(folder: Path, skipped: Collection[str] = ()) -> list[str]:
    """Return the files, links and empty folders below a folder, but those that begin with one of `skipped`."""
    names = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_entry = path.is_symlink() or not path.is_dir() or not any(path.iterdir())
        if is_entry and name.parts[0] not in (*_OF_TOOLS, *skipped):
            names.append(name.as_posix())
    return names


def noted(path: Path) -> FileDigest:
    """Return sha256 and size of a file."""
    return {"sha256": hash_file(path), "bytes": path.stat().st_size}


def changed_files(folder: Path, files: Mapping[str, FileDigest], skipped: Collection[str] = ()) -> Iterator[str]:
    """Yield what tells the files of a folder from a list of them.

    Args:
        folder: Where they lie.
        files: Name -> sha256 and bytes.
        skipped: Names right below the folder that are not looked at.
    """
    there = set(entries_in(folder, skipped))
    for name, expected in sorted(files.items()):
        path = folder / name
        if name not in there or not path.is_file():
            yield f"{name} is missing"
        elif is_foreign_link(path):
            yield link_finding(path, name)
        elif (size := path.stat().st_size) != expected["bytes"]:
            yield f"{name} has {size} bytes, exported with {expected['bytes']}"
        elif hash_file(path) != expected["sha256"]:
            yield f"{name} has another content than was exported"
    for name in sorted(there - files.keys()):
        yield f"{name} is not part of the export"


def is_foreign_link(path: Path) -> bool:
    """Tell a link, other than those of the hub's cache: `snapshots/COMMIT/FILE` leads to `blobs/`."""
    if not path.is_symlink():
        return False
    target = path.resolve()
    return not (target.is_file() and target.parent.name == "blobs" and "snapshots" in path.absolute().parts)


def link_finding(path: Path, name: str) -> str:
    """Say that a link stands where a file or folder was written."""
    return f"{name} is a link to {path.readlink()}: what is there can change without this export"


def _broken_weights(folder: Path) -> Iterator[str]:
    # names of all shards, to compare with the index
    names: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        try:
            names |= {tensor.name for tensor in stored_tensors(path)}
            yield from (f"{path.name}: {name} is not finite" for name in not_finite(path))
            if path.name == "adapter_model.safetensors" and _is_empty(path):
                yield f"{path.name}: every B matrix is zero"
        except DamagedFileError as error:
            yield str(error)
    index = folder / "model.safetensors.index.json"
    if index.is_file() and (lacking := sorted(set(_json(index).get("weight_map", {})) - names)):
        yield f"{len(lacking)} tensors of {index.name} are in no file, the first is {lacking[0]}"


def _is_empty(path: Path) -> bool:
    """Tell an adapter that changes nothing; of an embedding layer, A is the matrix that begins at zero."""
    tensors = [tensor for tensor in stored_tensors(path) if "lora_B" in tensor.name or "embedding_A" in tensor.name]
    return bool(tensors) and all(is_zero(path, tensor) for tensor in tensors)


def _unreadable_settings(folder: Path) -> Iterator[str]:
    for name in _SETTINGS:
        if (folder / name).is_file() and not _json(folder / name):
            yield f"{name} is no JSON object"


def _other_prompt(folder: Path, facts: Mapping[str, object]) -> Iterator[str]:
    if not (folder / "tokenizer_config.json").is_file():
        return  # gguf carries template and stop tokens in its own file
    if template_sha256(_template(folder)) != facts.get("served_template", facts.get("template")):
        yield "the chat template is not the one trained with"
    ends = _json(folder / "generation_config.json").get("eos_token_id")
    stop_id = facts.get("stop_token_id")
    if stop_id not in (ends if isinstance(ends, list) else [ends]):
        yield f"generation_config.json does not stop at token {stop_id}, where trained answers end"


def _template(folder: Path) -> object:
    """Return the chat template as transformers reads it: a text, or texts by name where there are several."""
    main, named_files = folder / "chat_template.jinja", sorted((folder / "additional_chat_templates").glob("*.jinja"))
    if not main.is_file():
        template = _json(folder / "tokenizer_config.json").get("chat_template")
        if not isinstance(template, list):
            return template
        return {str(entry.get("name")): entry.get("template") for entry in template if isinstance(entry, dict)}
    templates = {path.stem: path.read_text(encoding="utf-8", errors="replace") for path in named_files}
    text = main.read_text(encoding="utf-8", errors="replace")
    return {"default": text, **templates} if templates else text


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one where the file holds none."""
    try:
        content = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}
