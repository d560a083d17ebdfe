"""`verify` knows what an export should hold: whatever is gone, exchanged, edited, added or linked is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import call
from trainer.digests import hash_value
from trainer.export.manifest import MANIFEST, RESOLVED, STAGE, verify, write_manifest
from trainer.export.provenance import PROVENANCE, entries_in, noted, write_provenance

FORMATS = ("adapter", "merged")


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """The export of a run, as the stage leaves it; without models in it."""
    folder = tmp_path / "run/export"
    for kind in FORMATS:
        (folder / kind / "inside").mkdir(parents=True)
        for name in ("weights.bin", "README.md", "inside/more.txt"):
            (folder / kind / name).write_text(f"{kind} {name}")
        write_provenance(folder / kind, {"kind": kind})
    for name in ("README.md", "verify.json"):
        (folder / name).write_text(name)
    write_manifest(folder)
    _note(folder)
    (folder.parent / RESOLVED).write_text("{}")
    return folder


def _note(export: Path) -> None:
    outputs = {name: noted(export / name) for name in entries_in(export, (STAGE,))}
    (export / STAGE).write_text(json.dumps({"stage": "export", "outputs": outputs}))


def _copied_over(export: Path, source: str, target: str) -> None:
    shutil.rmtree(export / target)
    shutil.copytree(export / source, export / target)


def _swapped(export: Path) -> None:
    (export / "adapter").rename(export / "aside")
    (export / "merged").rename(export / "adapter")
    (export / "aside").rename(export / "merged")


def _linked(path: Path, target: Path) -> None:
    path.rename(target)
    path.symlink_to(target)


def _edited(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


def _without(path: Path, name: str) -> None:
    """Take a file out of the list, and sign the list anew as its writer does."""
    content = json.loads(path.read_text())
    for listed in [listed for listed in content["files"] if listed.startswith(name)]:
        del content["files"][listed]
    del content["digest"]
    path.write_text(json.dumps(content | {"digest": hash_value(content)}))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "provenance deleted": (lambda at: (at / "adapter" / PROVENANCE).unlink(), "adapter: provenance.json is missing"),
    "provenance emptied": (lambda at: (at / "adapter" / PROVENANCE).write_text(""), "adapter: provenance.json has 0"),
    "format removed": (lambda at: shutil.rmtree(at / "merged"), "merged: merged is missing, with its 4 files"),
    "format emptied": (
        lambda at: (shutil.rmtree(at / "merged"), (at / "merged").mkdir()),
        "merged: README.md is missi",
    ),
    "all formats removed": (lambda at: [shutil.rmtree(at / kind) for kind in FORMATS], "adapter: adapter is missing"),
    "copied over": (lambda at: _copied_over(at, "adapter", "merged"), "merged: README.md has"),
    "swapped": (_swapped, "adapter: README.md has"),
    "figures edited": (lambda at: _edited(at / "verify.json", str.upper), "export: verify.json has another content"),
    "card edited": (lambda at: _edited(at / "README.md", lambda text: text + "!"), "export: README.md has 10 bytes"),
    "card deleted": (lambda at: (at / "README.md").unlink(), "export: README.md is missing"),
    "stray file": (lambda at: (at / "evil.py").touch(), "export: evil.py is not part of the export"),
    "stray file inside": (lambda at: (at / "merged/evil.py").touch(), "merged: evil.py is not part of the export"),
    "stray folder": (lambda at: (at / "other").mkdir(), "export: other is not part of the export"),
    "stray format": (lambda at: shutil.copytree(at / "merged", at / "best"), "export: best/README.md is not part of"),
    "stray link": (lambda at: (at / "other").symlink_to("/"), "export: other is not part of the export"),
    "file edited": (
        lambda at: (at / "merged/weights.bin").write_text("merged weights.bim"),
        "merged: weights.bin has an",
    ),
    "file deleted": (lambda at: (at / "merged/inside/more.txt").unlink(), "merged: inside/more.txt is missing"),
    "format linked": (lambda at: _linked(at / "merged", at.parent / "aside"), "merged: merged is a link to "),
    "file linked": (
        lambda at: _linked(at / "merged/weights.bin", at.parent / "aside"),
        "merged: weights.bin is a link to ",
    ),
    "folder linked": (
        lambda at: _linked(at / "merged/inside", at.parent / "aside"),
        "merged: inside/more.txt is missing",
    ),
    "card linked": (lambda at: _linked(at / "README.md", at.parent / "aside"), "export: README.md is a link to "),
    "list deleted": (lambda at: (at / MANIFEST).unlink(), "export: manifest.json is missing"),
    "list linked": (lambda at: _linked(at / MANIFEST, at.parent / "aside"), "export: manifest.json is a link to "),
    "list cut": (
        lambda at: _edited(at / MANIFEST, lambda text: text[: len(text) // 2]),
        "export: manifest.json is damaged",
    ),
    "list emptied": (lambda at: (at / MANIFEST).write_text(""), "export: manifest.json is damaged"),
    "list of nothing": (lambda at: (at / MANIFEST).write_text("{}"), "export: manifest.json is damaged"),
    "list edited": (
        lambda at: _edited(at / MANIFEST, lambda text: text.replace("weights", "wei")),
        "export: manifest.json was edited",
    ),
}


def _refused(folder: Path, export: Path, finding: str) -> None:
    result = call("verify", str(folder))
    where, _, text = finding.partition(": ")
    at = export if where == "export" else export / where
    assert result.code == 6, result.text
    assert f"{at}: FAILED" in result.out and f"\n  {text}" in result.out, result.out
    assert (
        f"error: {result.err.split(' ')[1]} is not what was exported: " in result.err and result.err.count("fix:") == 1
    )


@pytest.mark.parametrize("how", DAMAGES)
def test_whatever_is_not_as_it_was_written_is_named(how: str, export: Path) -> None:
    damage, finding = DAMAGES[how]
    damage(export)
    _refused(export.parent, export, finding)
    _refused(export, export, finding)
    (export / STAGE).unlink()
    (export.parent / RESOLVED).unlink()
    _refused(export, export, finding)  # a copy elsewhere, by the manifest alone


def test_a_copy_without_list_and_record_says_so(export: Path) -> None:
    for name in (STAGE, MANIFEST, f"../{RESOLVED}"):
        (export / name).unlink()
    _refused(export, export, "export: manifest.json is missing")
    for name in ("verify.json", "README.md"):
        (export / name).unlink()
    result = call("verify", str(export))
    assert result.code == 0 and result.out.count(": ok") == 2 and "no manifest.json beside these folders" in result.out


@pytest.mark.parametrize("how", ["provenance deleted", "format removed", "copied over", "swapped", "format linked"])
def test_one_format_is_known_by_the_list_beside_it(how: str, export: Path) -> None:
    damage, finding = DAMAGES[how]
    damage(export)
    kind = finding.partition(":")[0]
    _refused(export / kind, export, finding)
    assert len(verify(export / kind)) == 1


def test_a_shortened_list_is_told_by_the_record_of_the_run(export: Path) -> None:
    _without(export / MANIFEST, "merged/")
    shutil.rmtree(export / "merged")
    _refused(export.parent, export, "export: manifest.json has another content than was exported")
    _refused(export.parent, export, "merged: merged is missing, with its 4 files")


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (None, "stage.json is missing"),
        ("", "stage.json is damaged"),
        ('{"stage": "export", "outputs": {}}', "manifest.json is not part of the export"),
        ('{"stage": "export", "outputs": {"../x": {"bytes": 1, "sha256": ""}}}', "stage.json is damaged"),
    ],
    ids=["missing", "empty", "lists nothing", "leads outside"],
)
def test_a_run_needs_the_record_of_its_export(content: str | None, finding: str, export: Path) -> None:
    (export / STAGE).unlink()
    if content is not None:
        (export / STAGE).write_text(content)
    _refused(export.parent, export, f"export: {finding}")


def test_lists_that_differ_are_told(export: Path) -> None:
    record = json.loads((export / STAGE).read_text())
    del record["outputs"]["verify.json"]
    (export / STAGE).write_text(json.dumps(record))
    _refused(export, export, "export: stage.json lists other files than manifest.json")


def test_a_whole_export_is_told_by_its_digest(export: Path, tmp_path: Path) -> None:
    digest = json.loads((export / MANIFEST).read_text())["digest"]
    for folder in (export.parent, export, shutil.copytree(export, tmp_path / "copy")):
        result = call("verify", str(folder))
        assert result.code == 0 and f"manifest {digest}" in result.out and result.out.count(": ok") == 3, result.text
    (tmp_path / "copy" / STAGE).unlink()
    assert call("verify", str(tmp_path / "copy")).code == 0


def test_an_export_older_than_the_list_is_verified_by_its_record(export: Path) -> None:
    (export / MANIFEST).unlink()
    _note(export)
    assert call("verify", str(export)).code == 0
    shutil.rmtree(export / "adapter")
    _refused(export, export, "adapter: adapter is missing")


def test_a_hub_download_of_links_into_its_cache_is_no_finding(export: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--me--it/snapshots/abc", tmp_path / "models--me--it/blobs"
    shutil.copytree(export / "merged", snapshot)
    blobs.mkdir()
    for number, name in enumerate(entries_in(snapshot)):
        _linked(snapshot / name, blobs / str(number))
    assert call("verify", str(snapshot)).code == 0
    (blobs / "0").write_text("other")
    assert call("verify", str(snapshot)).code == 6


def test_what_tools_leave_in_an_export_is_no_finding(export: Path) -> None:
    for name in (".cache/huggingface/x", ".gitattributes", "merged/.cache/x"):
        (export / name).parent.mkdir(parents=True, exist_ok=True)
        (export / name).touch()
    assert call("verify", str(export)).code == 0
