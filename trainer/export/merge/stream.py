"""Merge adapters into a base model, tensor by tensor and shard by shard; resumable, never the whole model in memory."""

from __future__ import annotations

import hashlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TypedDict

import torch

from trainer.digests import hash_file
from trainer.export.merge.folder import (
    check_base,
    check_room,
    copy_surroundings,
    full_disk_named,
    locked,
    publish,
    write_config,
    write_index,
    write_stop,
)
from trainer.export.merge.four_bit import forget_stacks
from trainer.export.merge.in_memory import merge_in_memory
from trainer.export.merge.pieces import Piece, Pieces, blocks_of, plan_pieces
from trainer.export.merge.plan import (
    SURVIVAL_LIMIT,
    Adapters,
    MergedWeights,
    MergePlan,
    MergeReport,
    NotStreamableError,
)
from trainer.export.merge.rounding import MANTISSA_BITS, Survival
from trainer.export.merge.shards import SINGLE, ShardWriter, return_memory_at_once

Say = Callable[[str], None]
STATE = "merge_state.json"
SAMPLED_BLOCKS = 2


class WrittenShard(TypedDict):
    """A shard on the disk: what makes it recognisable, and how its updates survived."""

    size: int
    sha256: str
    survival: dict[str, float]
    """Tensor to share of the update."""


class MergeState(TypedDict):
    """merge_state.json of an unfinished merge."""

    fingerprint: str
    shards: dict[str, WrittenShard]


@dataclass(frozen=True)
class Shard:
    """A file of the result."""

    name: str
    pieces: list[Piece]

    @property
    def num_bytes(self) -> int:
        return sum(piece.slot.num_bytes for piece in self.pieces)


def merge_streaming(
    base: Path, adapters: Sequence[tuple[Path, float]], target: Path, plan: MergePlan, say: Say
) -> MergeReport:
    """Write `base` with the weighted updates of `adapters` to `target`.

    The arithmetic is PEFT's, in float32, with one rounding at the end. A killed merge goes on where it was: shards that
    are there whole are kept. Where tensors cannot be followed one by one, the merge is done in memory and says so.

    Args:
        base: Folder with config.json and unquantised safetensors.
        adapters: PEFT folders, and the share of each update.
        target: Folder to write; must not exist.
        plan: How.
        say: Takes lines of progress.

    Raises:
        DivergedError: A weight is not finite.
        HardwareError: The disk is full, or the base is quantised.
        StageError: The base is not the one trained on, a file is damaged, an adapter belongs to another model, or the
            target exists or is in use.
    """
    return_memory_at_once()
    started = time.monotonic()
    weighted = [(Path(folder), float(weight)) for folder, weight in adapters]
    with locked(target) as partial, full_disk_named(target):
        if plan.base_sha256:
            check_base(base, plan.base_sha256)
        try:
            # reads headers only: a wrong adapter is refused before hours of writing
            pieces = plan_pieces(base, weighted, plan)
        except NotStreamableError as reason:
            say(f"merge: in memory, the whole model at once, since {reason}")
            weights = merge_in_memory(base, weighted, partial, plan)
        else:
            weights = _stream(base, weighted, partial, plan, pieces, say)
            forget_stacks()
        copy_surroundings(base, weighted[0][0], partial)
        write_config(partial, weights.dtype, untied=weights.untied, vocabulary=weights.vocabulary)
        write_stop(partial, plan.stop_id)
        (partial / STATE).unlink(missing_ok=True)
        publish(partial, target)
    return _report(target, started, weights)


def _report(target: Path, started: float, weights: MergedWeights) -> MergeReport:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    return MergeReport(
        **vars(weights),
        seconds=time.monotonic() - started,
        peak_rss_gib=peak,
        shards={path.name: path.stat().st_size for path in sorted(target.glob("*.safetensors"))},
    )


def _stream(base: Path, adapters: Adapters, partial: Path, plan: MergePlan, pieces: Pieces, say: Say) -> MergedWeights:
    rounding, nearest = choose_rounding(pieces, plan)
    if nearest is not None:
        say(f"merge: rounding to nearest would keep {nearest:.3f} of the update (median); rounding: {rounding}")
    seed = plan.seed if rounding == "stochastic" else None
    shards = shard_plan(pieces.pieces, plan.max_shard_gb)
    # the names of shards hold their number: a plan with another limit shares no file with the old one
    state = _state(partial, _fingerprint(base, adapters, plan))
    check_room(partial, sum(shard.num_bytes for shard in shards if shard.name not in state["shards"]))
    resumed = len(state["shards"])
    for number, shard in enumerate(shards, 1):
        if shard.name not in state["shards"]:
            state["shards"][shard.name] = _write_shard(partial, shard, seed, plan.device)
            _save_state(partial, state)
        say(f"merge: shard {number} of {len(shards)}, {shard.num_bytes / 1e9:.2f} GB")
    weight_map = {piece.name: shard.name for shard in shards for piece in shard.pieces}
    write_index(partial, weight_map, sum(shard.num_bytes for shard in shards))
    survival = {name: share for saved in state["shards"].values() for name, share in saved["survival"].items()}
    changed = sum(piece.is_changed for piece in pieces.pieces)
    return MergedWeights(
        dtype=str(pieces.dtype).removeprefix("torch."),
        vocabulary=pieces.vocabulary,
        rounding=rounding,
        changed=changed,
        copied=len(pieces.pieces) - changed,
        untied=pieces.untied,
        streamed=True,
        survival=_summary(list(survival.values())),
        nearest_survival=nearest,
        resumed_shards=resumed,
    )


def _summary(shares: list[float]) -> dict[str, float]:
    if not shares:
        return {}
    return {"median": statistics.median(shares), "mean": statistics.fmean(shares), "lowest": min(shares)}


def choose_rounding(pieces: Pieces, plan: MergePlan) -> tuple[str, float | None]:
    """Settle `auto`: measure on a few blocks of every adapted tensor what rounding to nearest would keep.

    Returns:
        `nearest` or `stochastic`, and the median share measured (None where there was no choice to make).
    """
    if pieces.dtype not in MANTISSA_BITS:
        return "nearest", None
    if plan.rounding != "auto":
        return plan.rounding, None
    shares = [_sampled(piece, plan.device) for piece in pieces.pieces if piece.update is not None]
    shares = [share for share in shares if share == share]  # NaN: an update of zeros has no share
    if not shares:
        return "nearest", None
    median = statistics.median(shares)
    return ("nearest" if median >= SURVIVAL_LIMIT else "stochastic"), median


def _sampled(piece: Piece, device: str) -> float:
    survival = Survival()
    # enough for a median over tensors: all blocks would cost a second merge
    for block in islice(blocks_of(piece, seed=None, device=device), SAMPLED_BLOCKS):
        if block.base is not None and block.exact is not None:
            survival.add(block.base, block.exact, block.stored)
    return survival.share()


def shard_plan(pieces: list[Piece], max_shard_gb: float) -> list[Shard]:
    """Fill shards in the order of the base; inside a shard wide types come first, so that all are aligned.

    Example:
        Tensors of 4, 4 and 8 bytes, at most 10 bytes in a shard.

        >>> from trainer.export.merge.shards import StoredTensor
        >>> def piece(name, count):
        ...     return Piece(name, StoredTensor(Path("base"), name, (count,), torch.float16, 0), torch.float16)
        >>> for shard in shard_plan([piece("a", 2), piece("b", 2), piece("c", 4)], max_shard_gb=10 / 1e9):
        ...     print(shard.name, [piece.name for piece in shard.pieces])
        model-00001-of-00002.safetensors ['a', 'b']
        model-00002-of-00002.safetensors ['c']
    """
    groups: list[list[Piece]] = [[]]
    room = limit = max_shard_gb * 1e9  # bytes
    for piece in pieces:
        if groups[-1] and piece.slot.num_bytes > room:
            groups.append([])
            room = limit
        groups[-1].append(piece)
        room -= piece.slot.num_bytes
    total = len(groups)
    names = [SINGLE] if total == 1 else [f"model-{i:05d}-of-{total:05d}.safetensors" for i in range(1, total + 1)]
    return [
        Shard(name, sorted(group, key=lambda piece: -piece.dtype.itemsize))
        for name, group in zip(names, groups, strict=True)
    ]


def _write_shard(partial: Path, shard: Shard, seed: int | None, device: str) -> WrittenShard:
    """Write one shard aside and rename it; return what makes it recognisable."""
    aside = partial / f"{shard.name}.tmp"  # a name that `_state` removes: a killed merge leaves no half shard behind
    writer = ShardWriter(aside, [piece.slot for piece in shard.pieces])
    survival = {}
    try:
        for piece in shard.pieces:
            share = _write_piece(writer, piece, seed, device)
            if share == share:  # NaN: a copied tensor, or an update of zeros
                survival[piece.name] = share
        sha256 = writer.close()
    except BaseException:
        writer.abandon()
        aside.unlink(missing_ok=True)
        raise
    aside.rename(partial / shard.name)
    return {"size": writer.size, "sha256": sha256, "survival": survival}


def _write_piece(writer: ShardWriter, piece: Piece, seed: int | None, device: str) -> float:
    survival = Survival()
    for block in blocks_of(piece, seed=seed, device=device):
        writer.write(block.stored)
        if piece.update is not None and block.base is not None and block.exact is not None:
            survival.add(block.base, block.exact, block.stored)
    return survival.share()


def _fingerprint(base: Path, adapters: Adapters, plan: MergePlan) -> str:
    """Return what recognises the same merge: settings, adapters by content, the base by size and time of change."""
    files = [path for path in sorted(base.iterdir()) if path.suffix in (".safetensors", ".json")]
    facts = {
        "plan": {name: repr(value) for name, value in asdict(plan).items()},
        "base": [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files],  # hashing takes minutes
        "adapters": [
            (weight, [(path.name, hash_file(path)) for path in sorted(folder.glob("adapter_*")) if path.is_file()])
            for folder, weight in adapters
        ],
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _state(partial: Path, fingerprint: str) -> MergeState:
    """Return which shards of this very merge are whole; everything else in the folder is removed."""
    path = partial / STATE
    state: MergeState = {"fingerprint": fingerprint, "shards": {}}
    if path.is_file():
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            saved = {}
        if saved.get("fingerprint") == fingerprint:
            state["shards"] = {
                name: shard for name, shard in saved["shards"].items() if _is_whole(partial, name, shard)
            }
    for file in partial.iterdir():
        if file.name not in (*state["shards"], STATE):
            file.unlink()
    return state


def _is_whole(partial: Path, name: str, shard: WrittenShard) -> bool:
    path = partial / name
    return path.is_file() and path.stat().st_size == shard["size"] and hash_file(path) == shard["sha256"]


def _save_state(partial: Path, state: MergeState) -> None:
    aside = partial / f"{STATE}.tmp"
    aside.write_text(json.dumps(state), encoding="utf-8")
    aside.rename(partial / STATE)
