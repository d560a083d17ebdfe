"""Hold the segments of the flat batch that the model computes now.

Many models do not hand keywords down to their attention or recurrent layers, so these read the segments here. The
backward pass of a card runs in a thread of its own, so this is no context variable.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from trainer.engine.segments import Segments

_segments: Segments | None = None


def segments() -> Segments | None:
    """Return the segments of the flat batch; None where lines of a batch are rows."""
    return _segments


@contextlib.contextmanager
def of(segments: Segments | None) -> Iterator[None]:
    """Hold the segments of a batch while it is computed."""
    global _segments
    before, _segments = _segments, segments
    try:
        yield
    finally:
        _segments = before
