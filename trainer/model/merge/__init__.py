"""Merge adapters into their unquantised base: streamed shard by shard, rounded once, and provable by replay."""

from trainer.model.merge.memory import open_to_all
from trainer.model.merge.plan import SURVIVAL_LIMIT, FourBit, MergePlan, MergeReport, Replay
from trainer.model.merge.replay import replay
from trainer.model.merge.shards import hash_folder
from trainer.model.merge.stream import merge_streaming

__all__ = [
    "SURVIVAL_LIMIT",
    "FourBit",
    "MergePlan",
    "MergeReport",
    "Replay",
    "hash_folder",
    "merge_streaming",
    "open_to_all",
    "replay",
]
