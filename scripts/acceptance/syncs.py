"""List the operations of a training step that make the host wait for the device.

On a card torch itself tells (`torch.cuda.set_sync_debug_mode`). Elsewhere the operations are counted that would make
the host wait on one: values that are read, and results whose shape depends on values.
"""

import contextlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.cli import main
from trainer.methods.loop import RecipeLoop

READS = frozenset({"tolist", "cpu", "numpy", "__array__"})
"""Methods of tensors that read values on the CPU without an operation."""
WAITING = frozenset(
    {
        "_local_scalar_dense",
        "bincount",
        "equal",
        "is_nonzero",
        "masked_select",
        "nonzero",
        "unique_consecutive",
        "_unique2",
        "unique_dim",
    }
)
INDEXED = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})


class Watch:
    """What a loop waits for in micro-steps and optimizer steps; logging, validation and checkpoints may wait."""

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.micro_steps = 0
        self.is_on = False

    def note(self, event: str) -> None:
        """Keep what happened, and the line of the project that led to it."""
        if self.is_on and self.micro_steps:  # before the first one, the order of the data is drawn
            frames = [frame for frame in traceback.extract_stack() if "acceptance" not in frame.filename]
            near = [frame for frame in frames if "torch/" not in frame.filename][-1]
            self.waits.append(f"{event} at {Path(near.filename).name}:{near.lineno}")

    @contextlib.contextmanager
    def counting(self, is_on: bool) -> Iterator[None]:
        """Count, or not, for a while."""
        before, self.is_on = self.is_on, is_on
        try:
            with _card_says(self, is_on) if torch.cuda.is_available() else contextlib.nullcontext():
                yield
        finally:
            self.is_on = before

    def around(self, method: Callable[..., Any], is_on: bool) -> Callable[..., Any]:
        """Return a method that counts, or does not."""

        def called(loop: Any, *arguments: Any, **keywords: Any) -> Any:
            if method.__name__ == "training_step":
                self.micro_steps += 1
            with self.counting(is_on):
                return method(loop, *arguments, **keywords)

        return called


class _Methods(TorchFunctionMode):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in READS:
            self.watch.note(func.__name__)
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in INDEXED and any(
            entry is not None and entry.dtype in (torch.bool, torch.uint8) for entry in args[1]
        )
        if name in WAITING or by_mask or func is torch.ops.aten.repeat_interleave.Tensor:
            self.watch.note(name)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _card_says(watch: Watch, is_on: bool) -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn" if is_on else "default")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
        for entry in caught:
            if "synchroniz" in str(entry.message):
                watch.note(f"{entry.message} ({Path(entry.filename).name}:{entry.lineno})")


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Watch every training that runs inside."""
    watch = Watch()
    changed = {"_run_epoch": True, "training_step": True, "_maybe_log_save_evaluate": False}
    with contextlib.ExitStack() as stack:
        for name, is_on in changed.items():
            stack.enter_context(mock.patch.object(RecipeLoop, name, watch.around(getattr(RecipeLoop, name), is_on)))
        if not torch.cuda.is_available():
            stack.enter_context(_Methods(watch))
            stack.enter_context(_Operations(watch))
        yield watch


if __name__ == "__main__":  # FIGURES.json, then the words of `trainer train`, which trains in this process
    os.environ.setdefault("ACCELERATE_MIXED_PRECISION", "no")  # as in a process that accelerate has launched
    with watched() as watch:
        code = main(sys.argv[2:])
    Path(sys.argv[1]).write_text(json.dumps({"micro_steps": watch.micro_steps, "waits": watch.waits}))
    sys.exit(code)
