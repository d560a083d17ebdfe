"""Plan the tensors of the merged checkpoint, and compute their values block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from trainer.errors import DivergedError, HardwareError
from trainer.export.merge.changes import ParameterChange, changes_of, read_adapters
from trainer.export.merge.four_bit import Stack, dequantised
from trainer.export.merge.plan import Adapters, FourBit, MergePlan, NotStreamableError, wrong_adapter
from trainer.export.merge.rounding import rounded
from trainer.export.merge.shards import Slot, StoredTensor, checkpoint, row_blocks
from trainer.export.merge.skeleton import Home, Skeleton, empty_model, homes, quantised_parameters, skeleton
from trainer.export.merge.updates import Chain, ExpertUpdate, OneExpert, Update


@dataclass(frozen=True)
class Piece:
    """One tensor of the result.

    Attributes:
        name: In the checkpoint.
        source: Where its rows are read.
        dtype: Type in the file.
        update: What is added; None copies.
        four_bit: Quantise and dequantise the source first.
        part: The stack that is quantised with it, where the checkpoint keeps experts apart; its expert and first row.
        replaced: The source is the adapter's, not the base's.
    """

    name: str
    source: StoredTensor
    dtype: torch.dtype
    update: Update | None = None
    four_bit: FourBit | None = None
    part: tuple[Stack, int, int] | None = None
    replaced: bool = False

    @property
    def slot(self) -> Slot:
        return Slot(self.name, self.source.shape, self.dtype)

    @property
    def is_copy(self) -> bool:
        return self.update is None and self.four_bit is None and self.dtype == self.source.dtype

    @property
    def is_changed(self) -> bool:
        return self.update is not None or self.replaced


@dataclass(frozen=True)
class RowBlock:
    """Some rows of a piece: `base` and `exact` in float32 (None for a copy), `stored` in the type of the file."""

    number: int
    start: int
    stored: torch.Tensor
    base: torch.Tensor | None = None
    exact: torch.Tensor | None = None


@dataclass(frozen=True)
class Pieces:
    """Every tensor of the result, in the order of the base's files.

    `vocabulary` is the new number of token rows, None where it stays.
    """

    pieces: list[Piece]
    dtype: torch.dtype
    untied: bool
    vocabulary: int | None


def plan_pieces(base: Path, adapters: Adapters, plan: MergePlan) -> Pieces:
    """Work out the result without reading a weight.

    Raises:
        DivergedError: An adapter holds numbers that are not finite.
        HardwareError: The base is quantised.
        NotStreamableError: It can only be merged in memory.
        StageError: A file is damaged, or an adapter belongs to another model.
    """
    tensors = checkpoint(base)
    opened = read_adapters(adapters)
    bones = skeleton(base, [folder for folder, _ in adapters])
    home_of = homes(empty_model(base), [(name, tensor.shape) for name, tensor in tensors.items()])
    changes = changes_of(bones, opened)
    main = main_dtype(tensors)
    target = main if plan.dtype == "auto" else getattr(torch, plan.dtype)
    quantised = quantised_parameters(base, plan.four_bit) if plan.base == "dequantised" and plan.four_bit else set()
    # an adapter on one end of tied embeddings pulls them apart: the file then needs a head of its own
    untied = bones.tied and not _same(changes.get(bones.embeddings), changes.get(bones.head or ""))
    stacks = _stacks(tensors, home_of, quantised)
    pieces = []
    for name, tensor in tensors.items():
        piece, home = Piece(name, tensor, target if tensor.dtype == main else tensor.dtype), home_of[name]
        if home.parameter in quantised:
            part = None if home.expert is None else (stacks[home.parameter], home.expert, home.first_row)
            piece = replace(piece, four_bit=plan.four_bit, part=part)
        pieces.append(_changed(piece, home, changes))
    pieces += _head(bones, changes, pieces, home_of, target, untied=untied)
    _check_all_taken(changes, home_of, bones, untied=untied)
    return Pieces(pieces, target, untied, _vocabulary(pieces, bones, home_of, tensors))


def _stacks(tensors: dict[str, StoredTensor], home_of: dict[str, Home], quantised: set[str]) -> dict[str, Stack]:
    """Return the quantised parameters whose experts are apart in the files.

    Raises:
        NotStreamableError: transformers rearranges such a parameter.
    """
    parts: dict[str, dict[int, dict[int, StoredTensor]]] = {}
    for name, home in home_of.items():
        if home.parameter in quantised and home.opaque:
            raise NotStreamableError(f"transformers rearranges {name} before it is quantised")
        if home.parameter in quantised and home.expert is not None:
            parts.setdefault(home.parameter, {}).setdefault(home.expert, {})[home.first_row] = tensors[name]
    return {
        parameter: Stack(tuple(tuple(rows[first] for first in sorted(rows)) for _, rows in sorted(experts.items())))
        for parameter, experts in parts.items()
    }


def main_dtype(tensors: dict[str, StoredTensor]) -> torch.dtype:
    """Return the type that most bytes have; others (a router's float32 bias) are kept as they are.

    Raises:
        HardwareError: It is a type of 8 bits.
    """
    sizes: dict[torch.dtype, int] = {}
    for tensor in tensors.values():
        if tensor.dtype.is_floating_point:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.num_bytes
    dtype = max(sizes, key=sizes.__getitem__)
    if dtype.itemsize < 2:
        raise HardwareError(
            f"the base holds weights of type {dtype}; an adapter cannot be merged into them without loss",
            hint="set model.name_or_path to the 16-bit base",
        )
    return dtype


def _changed(piece: Piece, home: Home, changes: dict[str, ParameterChange]) -> Piece:
    change = changes.get(home.parameter)
    if change is None:
        return piece
    if home.opaque or (home.expert is not None and change.source is not None):
        raise NotStreamableError(f"transformers rearranges {piece.name} when it loads it")
    updates = change.updates
    if home.expert is not None:
        # a checkpoint with experts apart: of the update of the stacked parameter, the rows of this one
        updates = [
            OneExpert(update, home.expert, home.first_row) for update in updates if isinstance(update, ExpertUpdate)
        ]
    source = change.source or piece.source
    # rows may differ: a vocabulary that grew in training
    if source.shape[1:] != piece.source.shape[1:]:
        raise wrong_adapter(f"{source.name} is {source.shape}, the base has {piece.source.shape}")
    update: Update | None = None
    if updates:
        update = updates[0] if len(updates) == 1 else Chain(list(updates))
    four_bit = None if change.source else piece.four_bit
    return replace(piece, source=source, update=update, four_bit=four_bit, replaced=change.source is not None)


def _same(first: ParameterChange | None, second: ParameterChange | None) -> bool:
    """Tell whether both ends of tied embeddings change in the same way."""
    first, second = first or ParameterChange(), second or ParameterChange()
    if first.updates != second.updates:
        return False
    if first.source is None or second.source is None:
        return first.source is second.source
    same_shape = first.source.shape == second.source.shape and first.source.dtype == second.source.dtype
    return same_shape and all(
        torch.equal(first.source.rows(*rows), second.source.rows(*rows)) for rows in row_blocks(first.source.shape)
    )


def _head(
    bones: Skeleton,
    changes: dict[str, ParameterChange],
    pieces: Sequence[Piece],
    home_of: dict[str, Home],
    dtype: torch.dtype,
    *,
    untied: bool,
) -> list[Piece]:
    """Return the head as a tensor of its own, where it was tied to the embeddings and is no more."""
    if not untied or bones.head is None or any(home.parameter == bones.head for home in home_of.values()):
        return []
    embeddings = next(piece for piece in pieces if home_of[piece.name].parameter == bones.embeddings)
    base = embeddings.source
    if embeddings.replaced:
        base = next(
            tensor
            for name, tensor in checkpoint(_folder(pieces)).items()
            if home_of[name].parameter == bones.embeddings
        )
    return [_changed(Piece(bones.head, base, dtype), Home(bones.head), changes)]


def _folder(pieces: Sequence[Piece]) -> Path:
    return next(piece.source.path.parent for piece in pieces if not piece.replaced)


def _check_all_taken(
    changes: dict[str, ParameterChange], home_of: dict[str, Home], bones: Skeleton, *, untied: bool
) -> None:
    parameters = {home.parameter for home in home_of.values()}
    if bones.head and bones.tied:
        parameters.add(bones.head)
    missing = sorted(set(changes) - parameters)
    if missing and any(home.opaque for home in home_of.values()):
        raise NotStreamableError(f"transformers builds {missing[0]} out of other tensors when it loads it")
    if missing:
        raise wrong_adapter(f"the base's files hold no {missing[0]}")


def _vocabulary(
    pieces: Sequence[Piece], bones: Skeleton, home_of: dict[str, Home], tensors: dict[str, StoredTensor]
) -> int | None:
    """Return the new number of token rows; None where no end of the model grew.

    The ends may differ in rows from the start: Moshi's embeddings have one more than its head.
    """
    ends = {
        piece.name: piece
        for piece in pieces
        if piece.name == bones.head or home_of[piece.name].parameter in (bones.embeddings, bones.head)
    }
    # a head that is pulled apart from the embeddings had their rows
    stored = next((tensors[name] for name in ends if name in tensors), None)
    if stored is None:
        return None
    grown = {name: piece.source.shape[0] - tensors.get(name, stored).shape[0] for name, piece in ends.items()}
    if len(set(grown.values())) > 1:
        raise wrong_adapter(f"embeddings and head would grow by different numbers of rows: {grown}")
    num_new = next(iter(grown.values()), 0)
    return int(bones.peft.get_base_model().config.get_text_config().vocab_size) + num_new if num_new else None


def blocks_of(piece: Piece, *, seed: int | None, device: str = "cpu") -> Iterator[RowBlock]:
    """Yield the rows of a piece, changed and rounded.

    Raises:
        DivergedError: A changed weight is not finite.
        HardwareError: A weight is beyond what the type of the file can hold.
    """
    as_one = piece.update is not None and piece.update.needs_all_rows
    # 4-bit statistics run over the whole tensor, so it is dequantised once and cut into rows afterwards
    prepared = _prepared(piece, piece.four_bit, device) if piece.four_bit else None
    for number, (start, stop) in enumerate(row_blocks(piece.source.shape, as_one=as_one)):
        read = piece.source.rows(start, stop) if prepared is None else prepared[start:stop]
        if piece.is_copy:
            yield RowBlock(number, start, read)
        else:
            with torch.no_grad():
                computed = _computed(piece, RowBlock(number, start, read), seed, device)
            yield computed


def _prepared(piece: Piece, settings: FourBit, device: str) -> torch.Tensor:
    if piece.part is None:
        return dequantised(piece.source.read(), settings, device)
    stack, expert, first_row = piece.part
    return stack.rows(expert, first_row, piece.source.shape[0], settings, device)


def _computed(piece: Piece, block: RowBlock, seed: int | None, device: str) -> RowBlock:
    # everything in float32, one rounding at the end: PEFT would round the update first
    base = block.stored.to(device, torch.float32)
    exact = base if piece.update is None else piece.update.apply(block.start, base)
    if piece.is_changed and not torch.isfinite(exact).all():
        raise DivergedError(
            f"merged weight {piece.name} is not finite", hint="continue from a checkpoint: trainer train RECIPE"
        )
    # without an update the nearest number is the best one
    stored = rounded(exact, piece.dtype, seed=seed if piece.update else None, name=piece.name, block=block.number)
    if not torch.isfinite(stored).all() and torch.isfinite(exact).all():
        raise HardwareError(
            f"{piece.name} reaches {float(exact.abs().max()):.3g}, {piece.dtype} holds up to "
            f"{torch.finfo(piece.dtype).max:.3g}",
            hint="--set export.dtype=bfloat16, or float32",
        )
    return replace(block, base=base, exact=exact, stored=stored)
