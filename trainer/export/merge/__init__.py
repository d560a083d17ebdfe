"""Merge adapters into their unquantised base: streamed shard by shard, rounded once, and provable by replay."""

from trainer.export.merge.in_memory import open_to_all
from trainer.export.merge.plan import SURVIVAL_LIMIT, FourBit, MergePlan, MergeReport, Replay
from trainer.export.merge.replay import replay
from trainer.export.merge.stream import merge_streaming

__all__ = [
    "SURVIVAL_LIMIT",
    "FourBit",
    "MergePlan",
    "MergeReport",
    "Replay",
    "merge_streaming",
    "open_to_all",
    "replay",
]
