"""Keep layer inputs in the host's memory from the forward pass to the backward pass.

On a card, copies run beside the computation, on a separate stream, between page-locked memory and the card. At most two
inputs are on the card at a time. On the CPU the same code copies at once.

    forward    compute layer 3 | copy input 3 out, input 2 is still leaving, input 1 is freed
    backward   compute layer 3 | fetch input 2
"""

from __future__ import annotations

from collections import deque

import torch

from trainer.model.planning.predictor import INPUTS_IN_FLIGHT


class Waiting:
    """One input on the host."""

    def __init__(self, tensor: torch.Tensor, index: int, below: Waiting | None) -> None:
        """Allocate memory on the host.

        Args:
            tensor: The input.
            index: Of its layer.
            below: Input of the offloaded layer before it in the same forward pass.
        """
        self.index = index
        self.below = below
        self.on_device: torch.Tensor | None = tensor
        self.device = tensor.device
        self.on_host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        self.copied: torch.cuda.Event | None = None
        """Recorded after the last copy, out or back."""

    def __del__(self) -> None:
        """Without a backward pass the copy may still run: the next user of this memory must wait for it."""
        if getattr(self, "copied", None) is not None:
            torch.cuda.current_stream(self.device).wait_event(self.copied)


class Host:
    """Inputs of one model's layers that wait on the host."""

    def __init__(self) -> None:
        self.leaving: deque[Waiting] = deque()
        self.streams: dict[torch.device, torch.cuda.Stream] = {}

    def put(self, tensor: torch.Tensor, index: int) -> Waiting:
        """Start copying an input to the host; it stays on the card until two more have followed it.

        Args:
            tensor: Must not be changed until its backward pass.
            index: Of its layer; a forward pass goes through rising indices.
        """
        below = self.leaving[-1] if self.leaving else None
        if below is not None and below.index >= index:  # another forward pass has begun
            self.clear()
            below = None
        waiting = Waiting(tensor, index, below)
        self._copy(waiting, waiting.on_host, tensor)
        self.leaving.append(waiting)
        while len(self.leaving) > INPUTS_IN_FLIGHT:
            oldest = self.leaving.popleft()
            self._wait(oldest)  # the next user of this memory must wait for the copy
            oldest.on_device = None
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
        # the copy of the layer below runs while this layer is computed again
        if waiting.below is not None:
            self._fetch(waiting.below)
        return tensor

    def clear(self) -> None:
        """Free inputs without a backward pass."""
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
        stream = self.streams.setdefault(waiting.device, torch.cuda.Stream(waiting.device))
        stream.wait_stream(torch.cuda.current_stream(waiting.device))  # `source` is computed, `target` no longer read
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)
            waiting.copied = stream.record_event()

    def _wait(self, waiting: Waiting) -> None:
        """Order all later computation after the copy."""
        if waiting.copied is not None:
            torch.cuda.current_stream(waiting.device).wait_event(waiting.copied)
            waiting.copied = None
