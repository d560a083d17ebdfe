"""Two processes answer as one does, and say so when they cannot."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer.errors import HardwareError
from trainer.model.size import weight_bytes
from trainer.recipe.model import ModelSection, NoAdapter, QloraAdapter
from trainer.scoring.generation import models
from trainer.scoring.generation.local import LocalModel
from trainer.scoring.generation.models import open_one
from trainer.scoring.generation.replicas import Replicas, ReplicatedModel, _work, deal, layout_of
from trainer.scoring.generation.sampling import NucleusSampling
from trainer.scoring.generation.timing import peak_memory_gib, throughput, timings
from trainer.scoring.question import Answer


class Loader:
    """Loads a folder; is pickled into the processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, device: torch.device) -> Any:
        torch.set_num_threads(1)
        return AutoModelForCausalLM.from_pretrained(self.folder).to(device).eval()


class Refusing(Loader):
    """Cannot load."""

    def __call__(self, device: torch.device) -> Any:
        raise HardwareError("no room", hint="a smaller model")


class Dying(Loader):
    """Is killed while it loads."""

    def __call__(self, device: torch.device) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class Broken(Loader):
    """Has a bug."""

    def __call__(self, device: torch.device) -> Any:
        raise ZeroDivisionError("bug")


CPU = torch.device("cpu")
PROMPTS = [[10 + index] * (index + 1) for index in range(11)]


def local(folder: Path, replicas: Replicas | None = None, **settings: Any) -> LocalModel:
    """Return a model of the folder, with or without other processes."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    common: dict[str, Any] = {"stop_ids": [tokenizer.eos_token_id], "max_new_tokens": 5, "batch_size": 4, **settings}
    model = Loader(folder)(CPU)
    if replicas is None:
        return LocalModel(model, tokenizer, **common)
    return ReplicatedModel(model, tokenizer, replicas=replicas, **common)


def others(kind: type[Loader], folder: Path) -> Replicas:
    return Replicas(kind(folder), AutoTokenizer.from_pretrained(folder), [CPU])


@pytest.fixture
def few_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.scoring.generation.replicas.MIN_PROMPTS", 2)


@pytest.mark.slow
@pytest.mark.usefixtures("few_are_shared")
def test_two_processes_answer_as_one_does_again_and_again(tiny_model_dir: Path) -> None:
    delivered: dict[int, Answer] = {}
    first = local(tiny_model_dir).answers(PROMPTS)
    with others(Loader, tiny_model_dir) as replicas:
        second = local(tiny_model_dir, replicas)
        assert second.answers(PROMPTS, on_answer=delivered.__setitem__) == first
        assert [delivered[index] for index in range(len(PROMPTS))] == first
        (worker,) = replicas.workers
        drawn = local(tiny_model_dir, replicas, sampling=NucleusSampling(seed=3), max_new_tokens=3)
        assert drawn.answers(PROMPTS[:4]) == local(
            tiny_model_dir, sampling=NucleusSampling(seed=3), max_new_tokens=3
        ).answers(PROMPTS[:4])
        assert replicas.workers == [worker] and worker.is_alive()
    assert not worker.is_alive()


@pytest.mark.slow
@pytest.mark.usefixtures("few_are_shared")
def test_a_process_that_dies_is_an_error_and_not_a_wait(tiny_model_dir: Path) -> None:
    with (
        others(Dying, tiny_model_dir) as replicas,
        pytest.raises(HardwareError, match=r"ended with code -9 after \d+ of 11"),
    ):
        local(tiny_model_dir, replicas).answers(PROMPTS)


def test_few_prompts_start_no_process(tiny_model_dir: Path) -> None:
    with others(Dying, tiny_model_dir) as replicas:
        result = local(tiny_model_dir, replicas).answers(PROMPTS)
        assert result == local(tiny_model_dir).answers(PROMPTS) and not replicas.workers


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [(Refusing, HardwareError, "no room"), (Broken, RuntimeError, "ZeroDivisionError: bug")],
)
def test_what_fails_in_a_process_is_raised_here(
    kind: type[Loader], error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    replicas = Replicas(kind(tmp_path), None, [CPU])
    results: queue.Queue[Any] = queue.Queue()
    _work(replicas.load, None, CPU, queue.Queue(), results)
    replicas.results = queue.Queue()
    replicas.results.put(pickle.loads(pickle.dumps(results.get(timeout=1))))  # as between processes
    with pytest.raises(error, match=message):
        replicas._take(lambda index, answer: None, wait_s=1)


def test_what_is_sent_to_a_process_can_be_pickled(tiny_model_dir: Path) -> None:
    section, adapter = ModelSection(name_or_path=str(tiny_model_dir)), NoAdapter(kind="none")
    load = partial(open_one, section, adapter, "base", tiny_model_dir, tiny_model_dir)
    again = pickle.loads(pickle.dumps(load))
    assert again(CPU).config.model_type == "llama"


def test_every_prompt_is_dealt_once_and_hands_weigh_the_same() -> None:
    prompts = [[0] * (1 + index * 7 % 50) for index in range(41)]
    hands = deal(prompts, 4)
    assert sorted(index for hand in hands for index in hand) == list(range(41))
    weights = [sum(len(prompts[index]) for index in hand) for hand in hands]
    assert max(weights) - min(weights) <= 50


@pytest.mark.parametrize(
    ("weights", "cards", "expected"),
    [(10, [], "single"), (90, [80], "single"), (50, [80, 80], "replicas"), (60, [80, 80], "sharded")],
)
def test_a_model_past_one_card_is_sharded(weights: int, cards: list[int], expected: str) -> None:
    assert layout_of(weights, cards) == expected


@pytest.mark.parametrize(
    ("card_bytes", "expected"), [([1 << 30, 1 << 30], ("replicas", None)), ([1 << 16, 1 << 30], ("sharded", "auto"))]
)
def test_several_cards_hold_copies_or_share_one(
    card_bytes: list[int],
    expected: tuple[str, str | None],
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(models, "devices", lambda: [CPU, CPU])
    sizes = iter(card_bytes)
    monkeypatch.setattr(models, "_memory", lambda card: next(sizes))
    monkeypatch.setattr(
        models, "open_models", lambda *_, placement, **__: calls.append(placement) or iter([("base", None)])
    )
    section = ModelSection(name_or_path=str(tiny_model_dir))
    opened = models.Models(section, NoAdapter(kind="none"), None, tuned=tmp_path, cache=tmp_path)
    for _, _model in opened.opened(["base"]):
        assert (opened.replicas is not None) == (expected[0] == "replicas")
    assert calls == [expected[1]]


def test_weights_are_weighed_before_they_are_loaded(tiny_model_dir: Path, tmp_path: Path) -> None:
    section, loaded = ModelSection(name_or_path=str(tiny_model_dir)), Loader(tiny_model_dir)(CPU)
    num_weights = sum(weight.numel() for weight in loaded.parameters())
    assert weight_bytes(section, tmp_path, None, torch.bfloat16) == 2 * num_weights
    assert weight_bytes(section, tmp_path, QloraAdapter(kind="qlora"), torch.bfloat16) < 2 * num_weights


# Timing, of the same small model


def test_timings_of_a_local_model(tiny_model_dir: Path) -> None:
    model = local(tiny_model_dir)
    measured = timings(model, PROMPTS[:3])
    assert len(measured) == 3
    assert all(0 < item.first_token_s <= item.total_s for item in measured)
    assert [item.num_tokens for item in measured] == [answer.num_tokens for answer in model.answers(PROMPTS[:3])]
    assert throughput(model, PROMPTS, 3) > 0
    assert model.batch_size == 4 and 0.05 < peak_memory_gib() < 64
    with pytest.raises(ValueError, match="0 prompts"):
        throughput(model, [], 1)


def test_a_slow_prefill_shows_in_the_time_to_first_token(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = local(tiny_model_dir)
    model.decoder.register_forward_pre_hook(
        lambda _, args, kwargs: time.sleep(0.2 if kwargs["input_ids"].shape[1] > 1 else 0.05), with_kwargs=True
    )
    timing = model.timing([20, 21, 22])
    assert timing.first_token_s >= 0.2 and timing.total_s >= timing.first_token_s + 0.05 * (timing.num_tokens - 1)
    assert isinstance(model.answers([[20, 21]])[0], Answer)
