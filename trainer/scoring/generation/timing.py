"""How fast answers come: one by one, many at a time, and the memory that takes."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from trainer.scoring.question import Answer, Timing

GIB = 1 << 30


class Timed(Protocol):
    """A model that answers one prompt against the clock, and several at a time."""

    def timing(self, prompt: Any) -> Timing:
        """Answer one prompt alone."""

    def answers_at(self, prompts: Sequence[Any], concurrency: int) -> list[Answer]:
        """Answer all prompts, `concurrency` at a time."""


@dataclass(frozen=True)
class Throughput:
    """Answers of a pass with several requests at a time."""

    requests_per_s: float
    tokens_per_s: float
    """Answer tokens."""
    num_requests: int
    concurrency: int
    """Requests under way at once; less than asked for where there were fewer prompts."""


def timings(model: Timed, prompts: Sequence[Any], *, warm_up: int = 1) -> list[Timing]:
    """Answer prompts one by one; the first `warm_up` of them once more before, unmeasured."""
    for prompt in prompts[:warm_up]:
        model.timing(prompt)
    return [model.timing(prompt) for prompt in prompts]


def throughput(model: Timed, prompts: Sequence[Any], concurrency: int) -> Throughput:
    """Answer all prompts with `concurrency` requests at a time.

    Raises:
        ValueError: There is no prompt, or concurrency is under 1.
    """
    if not prompts or concurrency < 1:
        raise ValueError(f"throughput of {len(prompts)} prompts at concurrency {concurrency} is not defined")
    started = time.perf_counter()
    answers = model.answers_at(prompts, concurrency)
    seconds = time.perf_counter() - started
    tokens = sum(answer.num_tokens for answer in answers)
    return Throughput(len(answers) / seconds, tokens / seconds, len(answers), min(concurrency, len(prompts)))


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
