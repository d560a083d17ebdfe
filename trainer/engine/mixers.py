"""Run recurrent layers on the rows of a flat batch one by one, whatever their class.

State-space layers, linear attention and short convolutions carry a state along the sequence, so in a flat batch it runs
from one row into the next. `switch_on` finds such modules by what they do: it runs the model on a flat batch, changes
every second row at the input of each module, and looks whether outputs of the other rows change. The smallest such
module gets one of two ways to compute:

    kernels   one call for the whole batch with the borders of its rows (`cu_seq_lens_q`, `seq_idx`), where the kernels
              that are installed keep them
    lines     one call for each group of rows of similar length, padded on the right (trainer/engine/lines.py)

A way is taken only if changed rows no longer reach the others. Everything else of the layer, norms, projections outside
the module, feed-forward network and attention, computes the flat batch without padding.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, assert_never

import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten
from transformers.utils import logging as transformers_logging

from trainer.engine import current
from trainer.engine.attention import NotCovered
from trainer.engine.lines import Lines
from trainer.engine.recompute import decoder_layers
from trainer.engine.segments import Segments

Way = Literal["kernels", "lines"]
WAYS: tuple[Way, ...] = ("kernels", "lines")
BORDERS = ("cu_seq_lens_q", "seq_idx")
"""Keywords by which layers of transformers take the borders of rows."""
OF_THE_BATCH = frozenset({*BORDERS, "cu_seq_lens_k", "max_length_q", "max_length_k"})
LEAK = {torch.float64: 1e-10, torch.float32: 1e-5}
HALF_LEAK = 2e-2
"""Largest change of an output, as a share of the largest output, that counts as rounding."""


@dataclass(frozen=True)
class Recurrent:
    """The recurrent modules of a model, and how they compute flat batches."""

    modules: Counter[tuple[Way, str]] = field(default_factory=Counter)
    """Number of modules by way and class."""
    missing: set[str] = field(default_factory=set)
    """Packages whose kernels would be faster."""

    def lines(self) -> Iterator[str]:
        """Yield lines for the log.

        Example:
            >>> for line in Recurrent(Counter({("lines", "MambaMixer"): 2}), {"mamba-ssm"}).lines():
            ...     print(line)
            recurrent: 2 MambaMixer compute rows of similar length side by side, padded
            recurrent: by plain torch, slow on a card; install mamba-ssm (docs/engine.md)
        """
        for (way, name), number in sorted(self.modules.items()):
            match way:
                case "kernels":
                    yield f"recurrent: {number} {name} compute packed rows by kernels"
                case "lines":
                    yield f"recurrent: {number} {name} compute rows of similar length side by side, padded"
                case _:
                    assert_never(way)
        if self.missing:
            packages = ", ".join(sorted(self.missing))
            yield f"recurrent: by plain torch, slow on a card; install {packages} (docs/engine.md)"


class _RowWise:
    """Forward function of a module whose rows must not reach each other."""

    def __init__(self, module: torch.nn.Module, way: Way) -> None:
        self.forward = module.forward
        self.way = way
        self.takes = _borders_taken(module) if way == "kernels" else ()

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        segments = current.segments()
        if segments is None:
            return self.forward(*arguments, **keywords)
        total = segments.spans[-1].high
        keywords = {name: value for name, value in keywords.items() if name not in OF_THE_BATCH}
        device = next(leaf.device for leaf in tree_leaves((arguments, keywords)) if _is_flat(leaf, total))
        lines = _lines(segments, self.way, device)
        leaves, structure = tree_flatten((arguments, keywords))
        parts = [lines.split(leaf) if _is_flat(leaf, total) else [leaf] * len(lines.groups) for leaf in leaves]
        outputs = []
        with current.of(None):
            for group in range(len(lines.groups)):
                of_group, named = tree_unflatten([part[group] for part in parts], structure)
                outputs.append(self.forward(*of_group, **named, **self._borders(segments, device)))
        return _merged(outputs, lines)

    def _borders(self, segments: Segments, device: torch.device) -> dict[str, torch.Tensor]:
        """Return the keywords with the borders of rows among the keys of all segments."""
        if not self.takes:
            return {}
        index = torch.arange(len(segments.spans), dtype=torch.int32, device=device)
        starts = segments.starts_k
        values = {
            # (segments + 1,) int64: where each row starts, and the end
            "cu_seq_lens_q": starts.long(),
            # (1, keys) int32: the row of each token; the length on the host spares a wait for the device
            "seq_idx": index.repeat_interleave(starts.diff(), output_size=sum(s.num_keys for s in segments.spans))[
                None
            ],
        }
        return {name: values[name] for name in self.takes}


def switch_on(base: torch.nn.Module, batch: Callable[[], object]) -> Recurrent:
    """Let recurrent modules of a model keep the rows of flat batches apart.

    Args:
        base: Prepared model, in evaluation mode.
        batch: Computes a flat batch of several rows whose segments are the current ones.
    """
    search = _Search()
    inner = [module for layer in decoder_layers(base) for module in layer.modules() if module is not layer]
    hooks = [module.register_forward_hook(search, with_kwargs=True) for module in dict.fromkeys(inner)]
    try:
        with _heard(search.recurrent.missing):
            batch()
    finally:
        for hook in hooks:
            hook.remove()
    return search.recurrent


def switch_off(base: torch.nn.Module) -> None:
    """Undo `switch_on`."""
    for module in base.modules():
        if is_row_wise(module):
            _unwrap(module, module.forward)


def is_row_wise(module: torch.nn.Module) -> bool:
    """Tell whether a module keeps the rows of flat batches apart."""
    return isinstance(vars(module).get("forward"), _RowWise)


class _Search:
    """Hook after each module of a flat batch: inner modules come before those that hold them."""

    def __init__(self) -> None:
        self.recurrent = Recurrent()
        self.is_busy = False

    def __call__(self, module: torch.nn.Module, arguments: Any, keywords: Any, output: Any) -> None:
        segments = current.segments()
        if self.is_busy or segments is None or is_row_wise(module):
            return
        total = segments.spans[-1].high
        is_flat = functools.partial(_is_flat, total=total)
        if not any(map(is_flat, tree_leaves((arguments, keywords)))) or not any(map(is_flat, tree_leaves(output))):
            return
        self.is_busy = True
        try:
            if _leaks(module, arguments, keywords, segments):
                self._keep_apart(module, arguments, keywords, segments)
        finally:
            self.is_busy = False

    def _keep_apart(self, module: torch.nn.Module, arguments: Any, keywords: Any, segments: Segments) -> None:
        for way in WAYS:
            if way == "kernels" and not _borders_taken(module):
                continue
            module.forward = _RowWise(module, way)
            try:
                if not _leaks(module, arguments, keywords, segments):
                    self.recurrent.modules[way, type(module).__name__] += 1
                    return
            except (NotCovered, RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
                self.recurrent.missing.update(_packages(str(error)))
            _unwrap(module, module.forward)


def _lines(segments: Segments, way: Way, device: torch.device) -> Lines:
    """Return the rows of a batch as lines; all modules with one way share them."""
    if way not in segments.lines:
        match way:
            case "kernels":
                segments.lines[way] = Lines.joined(segments, device)
            case "lines":
                segments.lines[way] = Lines.padded(segments, device)
            case _:
                assert_never(way)
    lines: Lines = segments.lines[way]
    return lines


def _unwrap(module: torch.nn.Module, wrapper: _RowWise) -> None:
    """Restore the forward function of a module."""
    if getattr(wrapper.forward, "__func__", None) is type(module).forward:
        del module.forward
    else:  # another part of the engine, or a kernel, had replaced it before
        module.forward = wrapper.forward


def _borders_taken(module: torch.nn.Module) -> tuple[str, ...]:
    """Return the keywords with the borders of rows that a module takes."""
    parameters = inspect.signature(module.forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return BORDERS
    return tuple(name for name in BORDERS if name in parameters)


def _leaks(module: torch.nn.Module, arguments: Any, keywords: Any, segments: Segments) -> bool:
    """Tell whether the output of a row depends on other rows, by changing every second row of the input.

    Features are doubled and put in reverse order: a product of two projections would hide a change of sign.
    """
    total = segments.spans[-1].high
    is_changed = torch.zeros(total, dtype=torch.bool)
    for span in segments.spans[::2]:
        is_changed[span.low : span.high] = True

    def changed(leaf: Any) -> Any:
        if not (_is_flat(leaf, total) and leaf.is_floating_point()):
            return leaf
        where = is_changed.to(leaf.device).reshape(1, total, *[1] * (leaf.dim() - 2))
        return torch.where(where, 2 * leaf.flip(-1), leaf)

    expected = module(*arguments, **keywords)
    of_changed, named = tree_map(changed, (arguments, keywords))
    results = module(*of_changed, **named)
    for before, after in zip(tree_leaves(expected), tree_leaves(results), strict=True):
        if _is_flat(before, total) and before.is_floating_point():
            rest = ~is_changed.to(before.device)
            change = (after - before)[:, rest].abs().max()
            if not change <= LEAK.get(before.dtype, HALF_LEAK) * before[:, rest].abs().max():  # also for NaN
                return True
    return False


def _is_flat(leaf: object, total: int) -> bool:
    """Tell whether an argument is a tensor with one entry for each token of a flat batch, (1, T, ...)."""
    return isinstance(leaf, torch.Tensor) and leaf.dim() > 1 and leaf.shape[0] == 1 and leaf.shape[1] == total


def _merged(outputs: Sequence[Any], lines: Lines) -> Any:
    """Return the flat output of the outputs of all groups; states at the end of lines are left out."""
    flattened = [tree_flatten(output) for output in outputs]
    leaves = []
    for of_groups in zip(*(leaves for leaves, _ in flattened), strict=True):
        are_lines = all(
            isinstance(leaf, torch.Tensor) and leaf.shape[:2] == shape
            for leaf, shape in zip(of_groups, lines.shapes, strict=True)
        )
        leaves.append(lines.merge(of_groups) if are_lines else None)
    return tree_unflatten(leaves, flattened[0][1])


def _packages(message: str) -> Iterator[str]:
    """Yield the packages that a message of transformers asks for.

    Example:
        >>> list(_packages("It is slow. Install `causal_conv1d` to train on packed sequences."))
        ['causal-conv1d']
    """
    return (name.replace("_", "-") for name in re.findall(r"[Ii]nstall `([\w-]+)`", message))


@contextlib.contextmanager
def _heard(packages: set[str]) -> Iterator[None]:
    """Collect packages that transformers asks for, which its verbosity may hide; it does so once in a process."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            packages.update(_packages(record.getMessage()))

    logger = transformers_logging.get_logger()
    handlers, level = logger.handlers, logger.level
    logging.Logger.warning_once.cache_clear()  # type: ignore[attr-defined]
    logger.handlers = [Collector()]
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.handlers = handlers
        logger.setLevel(level)
