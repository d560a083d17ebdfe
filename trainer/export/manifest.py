"""List every file of an export, and find files that were changed, added or lost. Needs no torch and no run.

`manifest.json` lies beside the folders of the formats, with every file below them and its digest. A `provenance.json`
knows only the folder that it lies in: the manifest tells one that is gone, exchanged or added. In a run `stage.json`
holds the digest of the manifest in turn; a copy elsewhere has the digest that `export` printed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from trainer.digests import hash_file, hash_value, lists_files
from trainer.export.provenance import (
    FORMAT_VERSION,
    PROVENANCE,
    WRITTEN,
    Examined,
    changed_files,
    entries_in,
    examine,
    is_foreign_link,
    link_finding,
    noted,
    read_provenance,
)
from trainer.shapes.files import FileDigest

MANIFEST, STAGE = "manifest.json", "stage.json"
RESOLVED = "recipe.resolved.json"
"""What a run folder holds beside its `export/`."""
Files = dict[str, FileDigest]


@dataclass
class Listing:
    """What should be in an export."""

    files: Files = field(default_factory=dict)
    """Name below the export -> sha256 and bytes; without the list itself."""
    digest: str = ""
    """Of the manifest; compare it with the one that was published."""
    findings: list[str] = field(default_factory=list)
    """About the list itself."""

    @property
    def formats(self) -> list[str]:
        """Return the folders of the formats.

        Example:
            >>> Listing({"README.md": {}, "adapter/provenance.json": {}}).formats
            ['adapter']
        """
        return sorted(
            name.removesuffix(f"/{PROVENANCE}")
            for name in self.files
            if name.count("/") == 1 and name.endswith(f"/{PROVENANCE}")
        )

    def of_format(self, name: str) -> Files:
        """Return the files of one format by their name below it."""
        return {
            file.removeprefix(f"{name}/"): facts for file, facts in self.files.items() if file.startswith(f"{name}/")
        }


def write_manifest(folder: Path) -> str:
    """Write `manifest.json` over what lies in an export; return its digest.

    Args:
        folder: With the folders of the formats, each with its `provenance.json`, whose digests are not computed again.
    """
    files: Files = {}
    formats = [path.parent for path in sorted(folder.glob(f"*/{PROVENANCE}"))]
    for format_folder in formats:
        format_files = {**read_provenance(format_folder)["files"], PROVENANCE: noted(format_folder / PROVENANCE)}
        files |= {f"{format_folder.name}/{name}": facts for name, facts in format_files.items()}
    beside = entries_in(folder, (MANIFEST, *(format_folder.name for format_folder in formats)))
    files |= {name: noted(folder / name) for name in beside}
    content = {"manifest_version": FORMAT_VERSION, "files": files}
    digest = hash_value(content)
    (folder / MANIFEST).write_bytes(orjson.dumps(content | {"digest": digest}, option=WRITTEN))
    return digest


def verify(folder: Path) -> list[Examined]:
    """Examine one format, an export with all its formats, or the export of a run.

    Raises:
        StageError: The folder is none of these.
    """
    export = folder / "export" if (folder / "export").is_dir() else folder
    if _is_export(export):
        return _examine_export(export)
    beside = _listing(folder.parent) if _is_export(folder.parent) else Listing()
    if folder.name in beside.formats:
        return [_examine_format(folder, beside.of_format(folder.name))]
    formats = sorted(path.parent for path in export.glob(f"*/{PROVENANCE}"))
    if (folder / PROVENANCE).is_file() or not formats:
        return [examine(folder)]
    reports = [examine(format_folder) for format_folder in formats]
    reports[-1].notes.append(f"no {MANIFEST} beside these folders: whether one of them is missing cannot be told")
    return reports


def _is_export(folder: Path) -> bool:
    """Tell an export from the folder of one format: what is written beside the formats, any of it."""
    if (folder / PROVENANCE).is_file():
        return False
    return any((folder / name).is_file() for name in (MANIFEST, "verify.json")) or _stage_outputs(folder) is not None


def _examine_export(folder: Path) -> list[Examined]:
    listing = _listing(folder)
    formats = listing.formats
    top = {name: facts for name, facts in listing.files.items() if name.partition("/")[0] not in formats}
    export_report = Examined(
        folder,
        f"export of {', '.join(formats)}" if formats else "export",
        listing.digest,
        len(listing.files),
        sum(facts["bytes"] for facts in listing.files.values()),
        [*listing.findings, *changed_files(folder, top, (MANIFEST, STAGE, *formats))],
    )
    return [export_report, *(_examine_format(folder / name, listing.of_format(name)) for name in formats)]


def _examine_format(folder: Path, files: Files) -> Examined:
    """Examine a format of an export: by its own provenance where that is the one of the export, else by the list."""
    path = folder / PROVENANCE
    is_own = path.is_file() and not path.is_symlink() and hash_file(path) == files[PROVENANCE]["sha256"]
    if is_own and not folder.is_symlink():
        return examine(folder)
    report = Examined(folder, folder.name, "", len(files), sum(facts["bytes"] for facts in files.values()))
    if not folder.is_dir():
        report.findings.append(f"{folder.name} is missing, with its {len(files)} files")
    elif folder.is_symlink():
        report.findings.append(link_finding(folder, folder.name))
    else:
        report.findings += changed_files(folder, files)
    return report


def _listing(folder: Path) -> Listing:
    """Read the lists of an export and compare them with each other."""
    # stage.json is the stronger list: it was written last, and holds the digest of the manifest
    stage, manifest, listing = _stage_outputs(folder), _read(folder / MANIFEST), Listing()
    listing.findings += _stage_findings(folder, stage)
    if is_foreign_link(folder / MANIFEST):
        listing.findings.append(link_finding(folder / MANIFEST, MANIFEST))
    if isinstance(manifest, dict) and lists_files(manifest.get("files")):
        listing.digest = str(manifest.pop("digest", ""))
        listing.files = manifest["files"]
        if hash_value(manifest) != listing.digest:
            listing.findings.append(f"{MANIFEST} was edited: its content has another hash than it says")
    elif (folder / MANIFEST).exists():
        listing.findings.append(f"{MANIFEST} is damaged: no list of files")
    elif stage is None or MANIFEST in stage:
        listing.findings.append(f"{MANIFEST} is missing")
    if stage is not None:
        listing.findings += _compared(folder, stage, listing.files)
        listing.files = {name: facts for name, facts in stage.items() if name != MANIFEST}
    return listing


def _compared(folder: Path, stage: Files, listed: Files) -> Iterator[str]:
    """Yield what tells the manifest from the one that the stage wrote."""
    path = folder / MANIFEST
    if path.is_file() and MANIFEST not in stage:
        yield f"{MANIFEST} is not part of the export"
    elif path.is_file() and hash_file(path) != stage[MANIFEST]["sha256"]:
        yield f"{MANIFEST} has another content than was exported"
    elif listed and listed != {name: facts for name, facts in stage.items() if name != MANIFEST}:
        yield f"{STAGE} lists other files than {MANIFEST}"


def _stage_findings(folder: Path, stage: Files | None) -> Iterator[str]:
    if stage is None and (folder / STAGE).exists():
        yield f"{STAGE} is damaged: no list of files"
    elif stage is None and (folder.parent / RESOLVED).is_file():
        yield f"{STAGE} is missing"


def _stage_outputs(folder: Path) -> Files | None:
    """Return what the stage noted of its files; None where there is no such record."""
    record = _read(folder / STAGE)
    if not isinstance(record, dict) or record.get("stage") != "export":
        return None
    outputs = record.get("outputs")
    return outputs if isinstance(outputs, dict) and lists_files(outputs) else None


def _read(path: Path) -> object:
    try:
        return orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
