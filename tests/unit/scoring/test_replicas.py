"""Two processes answer as one does, and say so when they cannot."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer.errors import HardwareError
from trainer.scoring import replicas
from trainer.scoring.generate import LocalModel
from trainer.scoring.question import Answer
from trainer.scoring.timing import peak_memory_gib, throughput, timings

CPUS = [torch.device("cpu"), torch.device("cpu")]


class Loader:
    """Loads a folder; is pickled into the processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, device: torch.device) -> LocalModel:
        torch.set_num_threads(1)
        model = AutoModelForCausalLM.from_pretrained(self.folder).to(device).eval()
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        return LocalModel(model, tokenizer, stop_ids=[tokenizer.eos_token_id], max_new_tokens=5, batch_size=4)


class Refusing(Loader):
    """Cannot load."""

    def __call__(self, device: torch.device) -> LocalModel:
        raise HardwareError("no room", hint="a smaller model")


class Dying(Loader):
    """Is killed while it loads."""

    def __call__(self, device: torch.device) -> LocalModel:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Broken(Loader):
    """Has a bug."""

    def __call__(self, device: torch.device) -> LocalModel:
        raise ZeroDivisionError("bug")


PROMPTS = [[10 + place] * (place + 1) for place in range(11)]


@pytest.mark.slow
def test_two_processes_answer_as_one_does(tiny_model_dir: Path) -> None:
    load, told = Loader(tiny_model_dir), {}  # type: ignore[var-annotated]
    one = replicas.answers(load, PROMPTS, CPUS[:1])
    assert replicas.answers(load, PROMPTS, CPUS, on_answer=told.__setitem__) == one
    assert [told[place] for place in range(len(PROMPTS))] == one


@pytest.mark.slow
def test_a_process_that_dies_is_an_error_and_not_a_wait(tiny_model_dir: Path) -> None:
    with pytest.raises(HardwareError, match="ended with code -9 after 0 of 11"):
        replicas.answers(Dying(tiny_model_dir), PROMPTS, CPUS)


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [(Refusing, HardwareError, "no room"), (Broken, RuntimeError, "ZeroDivisionError: bug")],
)
def test_what_fails_in_a_process_is_raised_here(
    kind: type[Loader], error: type[Exception], message: str, tmp_path: Path
) -> None:
    results: queue.Queue[Any] = queue.Queue()
    replicas._work(kind(tmp_path), CPUS[0], {4: [1]}, results)
    results.put(pickle.loads(pickle.dumps(results.get(timeout=1))))  # as between processes
    with pytest.raises(error, match=message):
        replicas._gathered([], results, 1, lambda index, answer: None)


def test_every_prompt_is_dealt_once_and_hands_weigh_the_same() -> None:
    prompts = [[0] * (1 + place * 7 % 50) for place in range(41)]
    hands = replicas.deal(prompts, 4)
    assert sorted(place for hand in hands for place in hand) == list(range(41))
    weights = [sum(len(prompts[place]) for place in hand) for hand in hands]
    assert max(weights) - min(weights) <= 50


@pytest.mark.parametrize(
    ("weights", "cards", "expected"),
    [(10, [], "single"), (90, [80], "single"), (50, [80, 80], "replicas"), (60, [80, 80], "sharded")],
)
def test_a_model_past_one_card_is_sharded(weights: int, cards: list[int], expected: str) -> None:
    assert replicas.placement(weights, cards) == expected


# Timing, of the same small model


def test_timings_of_a_local_model(tiny_model_dir: Path) -> None:
    model = Loader(tiny_model_dir)(CPUS[0])
    found = timings(model, PROMPTS[:3])
    assert len(found) == 3
    assert all(0 < one.first_token_s <= one.total_s for one in found)
    assert [one.num_tokens for one in found] == [answer.num_tokens for answer in model.answers(PROMPTS[:3])]
    rate = throughput(model, PROMPTS, 3)
    assert rate.concurrency == 3 and rate.num_requests == 11 and rate.tokens_per_s > rate.requests_per_s > 0
    assert model.batch_size == 4 and 0.05 < peak_memory_gib() < 64
    with pytest.raises(ValueError, match="0 prompts"):
        throughput(model, [], 1)


def test_a_slow_prefill_shows_in_the_time_to_first_token(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = Loader(tiny_model_dir)(CPUS[0])
    model.decoder.register_forward_pre_hook(
        lambda _, args, kwargs: time.sleep(0.2 if kwargs["input_ids"].shape[1] > 1 else 0.05), with_kwargs=True
    )
    timing = model.timing([20, 21, 22])
    assert timing.first_token_s >= 0.2 and timing.total_s >= timing.first_token_s + 0.05 * (timing.num_tokens - 1)
    assert isinstance(model.answers([[20, 21]])[0], Answer)
