"""Measure how fast answers come, and the memory that they take."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch

from trainer.scoring.question import Answer, Timing

GIB = 1 << 30
Prompt = TypeVar("Prompt", contravariant=True)


class Timed(Protocol[Prompt]):
    """A model that answers one prompt against the clock, and several at a time."""

    def timing(self, prompt: Prompt) -> Timing:
        """Answer one prompt alone."""

    def answers_at(self, prompts: Sequence[Prompt], concurrency: int) -> list[Answer]:
        """Answer all prompts, `concurrency` at a time."""


def timings(model: Timed[Prompt], prompts: Sequence[Prompt], *, warm_up: int = 1) -> list[Timing]:
    """Answer prompts one by one; the first `warm_up` of them once more before, unmeasured."""
    # the first pass allocates memory and chooses kernels
    for prompt in prompts[:warm_up]:
        model.timing(prompt)
    return [model.timing(prompt) for prompt in prompts]


def throughput(model: Timed[Prompt], prompts: Sequence[Prompt], concurrency: int) -> float:
    """Answer all prompts with `concurrency` requests at a time; return requests per second.

    Raises:
        ValueError: There is no prompt, or concurrency is under 1.
    """
    if not prompts or concurrency < 1:
        raise ValueError(f"throughput of {len(prompts)} prompts at concurrency {concurrency} is not defined")
    started = time.perf_counter()
    answers = model.answers_at(prompts, concurrency)
    return len(answers) / (time.perf_counter() - started)


def reset_peak_memory() -> None:
    """Begin a new measurement on CUDA; the peak of a process cannot be reset."""
    for card in range(torch.cuda.device_count()):
        torch.cuda.reset_peak_memory_stats(card)


def peak_memory_gib() -> float:
    """Return the most memory used: of all cards together on CUDA, else resident memory of this process, in GiB."""
    if torch.cuda.is_available():
        return sum(torch.cuda.max_memory_allocated(card) for card in range(torch.cuda.device_count())) / GIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / GIB if sys.platform == "darwin" else peak * 1024 / GIB
