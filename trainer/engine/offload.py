"""Layer inputs that wait in the host's memory from the forward pass to the backward pass.

On a card, copies run beside the computation, on a stream of their own, between page-locked memory and the card. Two
inputs are on the card at a time: going out, the one that is copied and the one that is computed with; coming back, the
one that is computed with and the one below it, which is fetched meanwhile. On the CPU the same code copies at once.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

from trainer.model.planning.predictor import INPUTS_IN_FLIGHT


class Waiting:
    """One input on the host."""

    def __init__(self, tensor: torch.Tensor, place: int, below: Waiting | None) -> None:
        """Take room on the host.

        Args:
            tensor: The input.
            place: Of its layer.
            below: What the layer under it has put away in the same forward pass.
        """
        self.place = place
        self.below = below
        self.on_device: torch.Tensor | None = tensor
        self.device = tensor.device
        self.on_host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        self.copied: Any = None
        """Event: the last copy, out or back, is done."""

    def __del__(self) -> None:
        """Let whoever gets this memory next compute after the copy, where no backward pass has come for it."""
        if getattr(self, "copied", None) is not None:
            torch.cuda.current_stream(self.device).wait_event(self.copied)


class Host:
    """What the layers of one model have put away."""

    def __init__(self) -> None:
        self.leaving: deque[Waiting] = deque()
        self.streams: dict[torch.device, Any] = {}

    def put(self, tensor: torch.Tensor, place: int) -> Waiting:
        """Start copying an input to the host; it stays on the card until two more have followed it.

        Args:
            tensor: Not changed by anybody while it is needed.
            place: Of its layer; the first layer of a forward pass has the smallest.
        """
        below = self.leaving[-1] if self.leaving else None
        if below is not None and below.place >= place:  # another forward pass has begun
            self.clear()
            below = None
        waiting = Waiting(tensor, place, below)
        self._copy(waiting, waiting.on_host, tensor)
        self.leaving.append(waiting)
        while len(self.leaving) > INPUTS_IN_FLIGHT:
            gone = self.leaving.popleft()
            self._wait(gone)  # whoever gets this memory next computes after the copy
            gone.on_device = None
        return waiting

    def take(self, waiting: Waiting) -> torch.Tensor:
        """Return an input on its device, and start fetching the one below."""
        if waiting in self.leaving:
            self.leaving.remove(waiting)
        self._fetch(waiting)
        self._wait(waiting)
        tensor = waiting.on_device
        assert tensor is not None
        waiting.on_device = None
        if waiting.below is not None:
            self._fetch(waiting.below)
        return tensor

    def clear(self) -> None:
        """Let go of inputs whose backward pass never came."""
        for waiting in self.leaving:
            self._wait(waiting)
            waiting.on_device = None
        self.leaving.clear()

    def _fetch(self, waiting: Waiting) -> None:
        if waiting.on_device is None:
            waiting.on_device = torch.empty_like(waiting.on_host, device=waiting.device)
            self._copy(waiting, waiting.on_device, waiting.on_host)

    def _copy(self, waiting: Waiting, target: torch.Tensor, source: torch.Tensor) -> None:
        if waiting.device.type != "cuda":
            target.copy_(source)
            return
        beside = self.streams.setdefault(waiting.device, torch.cuda.Stream(waiting.device))
        beside.wait_stream(torch.cuda.current_stream(waiting.device))  # both tensors are ready, and free to be written
        with torch.cuda.stream(beside):
            target.copy_(source, non_blocking=True)
            waiting.copied = beside.record_event()

    def _wait(self, waiting: Waiting) -> None:
        """Let what is computed from now on come after the copy."""
        if waiting.copied is not None:
            torch.cuda.current_stream(waiting.device).wait_event(waiting.copied)
            waiting.copied = None
