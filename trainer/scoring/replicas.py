"""All cards: one process with a copy of the model on each, or one copy spread over them where it does not fit one."""

from __future__ import annotations

import multiprocessing
import queue
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from trainer.errors import HardwareError, TrainerError
from trainer.scoring.generate import LocalModel, OnAnswer
from trainer.scoring.question import Answer

Load = Callable[[torch.device], LocalModel]
"""Loads the model onto a device. It is pickled: a function of a module, or functools.partial of one."""
POLL_S = 1.0
"""How often a worker that died without a word is looked for."""
WEIGHTS_SHARE = 0.7
"""Of a card's memory that weights may take; the rest is for keys, values and activations."""


@dataclass(frozen=True)
class _Failed:
    """What went wrong in a process; exceptions with keywords cannot be pickled."""

    message: str
    hint: str | None


def devices() -> list[torch.device]:
    """Return all visible cards, or the CPU."""
    return [torch.device("cuda", card) for card in range(torch.cuda.device_count())] or [torch.device("cpu")]


def placement(weight_bytes: int, card_bytes: Sequence[int]) -> Literal["single", "replicas", "sharded"]:
    """Return how a model is put onto cards.

    Args:
        weight_bytes: Size of the loaded weights.
        card_bytes: Memory of each card; none on a machine without.

    Returns:
        `sharded` stands for transformers' device_map "auto".
    """
    if len(card_bytes) < 2:
        return "single"
    return "replicas" if weight_bytes <= WEIGHTS_SHARE * min(card_bytes) else "sharded"


def deal(prompts: Sequence[Sequence[int]], hands: int) -> list[list[int]]:
    """Deal places of prompts by length, back and forth, so that every hand has as much to do."""
    order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    found: list[list[int]] = [[] for _ in range(hands)]
    for turn, place in enumerate(order):
        lap, seat = divmod(turn, hands)
        found[seat if lap % 2 == 0 else hands - 1 - seat].append(place)
    return found


def answers(
    load: Load,
    prompts: Sequence[list[int]],
    places: Sequence[torch.device],
    *,
    on_answer: OnAnswer = lambda index, answer: None,
) -> list[Answer]:
    """Answer all prompts with one process a device; the answers are those of one process.

    Args:
        load: Loads the model onto a device.
        prompts: Token ids.
        places: Devices; of a single one no process is started.
        on_answer: Told (place of the prompt, answer) in this process, in no order.

    Raises:
        HardwareError: A process died, or its model could not be loaded or used.
    """
    if len(places) == 1:
        return load(places[0]).answers(prompts, on_answer=on_answer)
    hands = [(device, hand) for device, hand in zip(places, deal(prompts, len(places)), strict=True) if hand]
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    workers = [
        context.Process(target=_work, args=(load, device, {place: prompts[place] for place in hand}, results))
        for device, hand in hands
    ]
    try:
        for worker in workers:
            worker.start()
        return _gathered(workers, results, len(prompts), on_answer)
    finally:
        for worker in workers:
            if worker.pid is not None:
                worker.terminate()
                worker.join()


def _gathered(workers: Sequence[Any], results: Any, count: int, on_answer: OnAnswer) -> list[Answer]:
    """Take what the processes send until every prompt is answered."""
    found: dict[int, Answer] = {}
    while len(found) < count:
        dead = [worker for worker in workers if worker.exitcode not in (None, 0)]  # before the queue is looked at
        try:
            place, said = results.get(timeout=POLL_S)
        except queue.Empty:
            if dead:
                raise HardwareError(
                    f"a process that answers ended with code {dead[0].exitcode} after {len(found)} of {count} answers",
                    hint="a negative code is a signal, -9 mostly too little memory: --set eval.batch_size=8",
                ) from None
            continue
        if isinstance(said, _Failed):
            if said.hint is None:
                raise RuntimeError(f"a process that answers failed:\n{said.message}")
            raise HardwareError(said.message, hint=said.hint)
        found[place] = said
        on_answer(place, said)
    return [found[place] for place in range(count)]


def _work(load: Load, device: torch.device, prompts: dict[int, list[int]], results: Any) -> None:
    """Answer one hand; runs in a process of its own."""
    names = list(prompts)
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        model = load(device)
        model.answers(list(prompts.values()), on_answer=lambda index, answer: results.put((names[index], answer)))
    except TrainerError as error:
        results.put((-1, _Failed(error.message, error.hint)))
    except Exception:
        results.put((-1, _Failed(traceback.format_exc(), None)))
