"""Train rows of one shape: a file each, with its data set, its batches and its loop."""

from __future__ import annotations

from typing import assert_never

from trainer.methods.shapes.pair import PairRows
from trainer.methods.shapes.shape import RowShape
from trainer.methods.shapes.single import SingleRows
from trainer.recipe.method import Method


def shape_of(method: Method) -> RowShape:
    """Return the shape of a method's rows."""
    match method.shape:
        case "single":
            return SingleRows()
        case "pair":
            return PairRows(method)
        case _:
            assert_never(method.shape)
