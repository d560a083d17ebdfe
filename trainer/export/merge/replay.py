"""Prove a merged folder: recompute every tensor from base and adapters and compare it bit by bit."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from trainer.errors import DivergedError, StageError
from trainer.export.merge.changes import faults_of
from trainer.export.merge.in_memory import merge_in_memory
from trainer.export.merge.pieces import Piece, Pieces, blocks_of, plan_pieces
from trainer.export.merge.plan import Adapters, MergePlan, NotStreamableError, Replay
from trainer.export.merge.shards import StoredTensor, checkpoint, return_memory_at_once, row_blocks, tensors_of
from trainer.export.merge.stream import choose_rounding
from trainer.model.adapter import WEIGHTS


def replay(base: Path, adapters: Sequence[tuple[Path, float]], merged: Path, plan: MergePlan) -> Replay:
    """Compare a merged folder with a second computation; faults of the folder or the adapters are answers, not errors.

    Args:
        base: Folder of the base.
        adapters: PEFT folders and weights, as merged.
        merged: Folder to judge.
        plan: As merged.

    Raises:
        HardwareError: The base is quantised.
        StageError: The base itself cannot be read.
    """
    return_memory_at_once()
    weighted = [(Path(folder), float(weight)) for folder, weight in adapters]
    checkpoint(base)
    findings = _adapter_findings(weighted)
    try:
        stored = checkpoint(merged)
    except StageError as error:
        return Replay(False, 0, [], [], [*findings, error.message])
    try:
        pieces = plan_pieces(base, weighted, plan)
    except NotStreamableError:
        return _in_memory(base, weighted, merged, plan, findings)
    except (DivergedError, StageError) as error:
        unused = [error.message.rsplit(" ", 1)[-1]] if "nothing in the model takes" in error.message else []
        return Replay(False, 0, [], unused, [*findings, error.message])
    # measured anew, from the same blocks: the same answer as in the merge
    rounding, _ = choose_rounding(pieces, plan)
    differing, unchanged = _compare(pieces, stored, plan.seed if rounding == "stochastic" else None, plan.device)
    findings += [f"{name} is left as in the base, although it is adapted" for name in unchanged]
    findings += _config_findings(merged, pieces)
    return Replay(not differing and not findings, len(pieces.pieces), differing, [], findings)


def _adapter_findings(adapters: Adapters) -> list[str]:
    findings = []
    for folder, _ in adapters:
        try:
            faults = faults_of(tensors_of(folder / WEIGHTS))
        except StageError as error:
            findings.append(error.message)
            continue
        findings += [f"{name} of {folder.name} is not finite" for name in faults.not_finite]
        findings += [f"{name} of {folder.name} is all zero" for name in faults.zero if not is_expert(name)]
    return findings


def _compare(
    pieces: Pieces, stored: dict[str, StoredTensor], seed: int | None, device: str
) -> tuple[list[str], list[str]]:
    """Return the names that differ, and those that an adapter should have changed and did not."""
    expected = {piece.name for piece in pieces.pieces}
    differing, unchanged = sorted(expected ^ set(stored)), []  # in one of both only: missing, or too many
    for piece in pieces.pieces:
        if piece.name not in stored:
            continue
        same, moved = _piece_equal(piece, stored[piece.name], seed, device)
        if not same:
            differing.append(piece.name)
        if not moved:
            unchanged.append(piece.name)
    return differing, unchanged


def _piece_equal(piece: Piece, stored: StoredTensor, seed: int | None, device: str) -> tuple[bool, bool]:
    """Return whether the file holds these bits, and whether an adapted tensor differs from its base."""
    if (stored.shape, stored.dtype) != (piece.source.shape, piece.dtype):
        return False, True
    same, moved, has_update = True, piece.update is None, not is_expert(piece.name)
    for block in blocks_of(piece, seed=seed, device=device):
        read = stored.rows(block.start, block.start + len(block.stored)) if stored.shape else stored.read()
        same = same and torch.equal(_bits(read), _bits(block.stored.cpu()))
        moved = moved or (block.base is not None and not torch.equal(read.float(), _as_stored(block.base, piece)))
        # an expert that no token chose has an update of zero: unchanged is right
        has_update = has_update or block.exact is None or not torch.equal(block.exact, block.base)
    return same, moved or not has_update


def is_expert(name: str) -> bool:
    """Tell whether a tensor belongs to one expert, or to all of a layer: tokens may never have chosen it."""
    return "expert" in name


def _as_stored(base: torch.Tensor, piece: Piece) -> torch.Tensor:
    return base.to(piece.dtype).float().cpu()


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes: NaN equals NaN, and 0 differs from -0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)  # (bytes,)


def _config_findings(merged: Path, pieces: Pieces) -> list[str]:
    try:
        config = json.loads((merged / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"config.json cannot be read: {error}"]
    findings = []
    if pieces.untied and config.get("tie_word_embeddings", True):
        findings.append("config.json ties embeddings that the adapter pulled apart")
    dtype = str(pieces.dtype).removeprefix("torch.")
    if config.get("dtype") != dtype:
        findings.append(f"config.json says dtype {config.get('dtype')}, the weights are {dtype}")
    return findings


def _in_memory(base: Path, adapters: Adapters, merged: Path, plan: MergePlan, findings: list[str]) -> Replay:
    """Merge once more in memory and compare the files."""
    with tempfile.TemporaryDirectory(dir=merged.parent, prefix=".replay-") as scratch:
        merge_in_memory(base, adapters, Path(scratch), plan)
        again, stored = checkpoint(Path(scratch)), checkpoint(merged)
        differing = sorted(set(again) ^ set(stored))
        for name in sorted(set(again) & set(stored)):
            if not _equal_tensors(again[name], stored[name]):
                differing.append(name)
    return Replay(not differing and not findings, len(again), differing, [], findings)


def _equal_tensors(first: StoredTensor, second: StoredTensor) -> bool:
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    return all(torch.equal(_bits(first.rows(*rows)), _bits(second.rows(*rows))) for rows in row_blocks(first.shape))
