"""All cards: a copy of the model on each, in processes of their own beside the one that asks."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import torch

from trainer.errors import HardwareError, TrainerError
from trainer.scoring.generation.local import LocalModel, OnAnswer
from trainer.scoring.question import Answer

Load = Callable[[torch.device], Any]
"""Loads the model onto a device. It is pickled: a function of a module, or functools.partial of one."""
POLL_S = 1.0
"""How often a process that died without a word is looked for, on either side."""
WEIGHTS_SHARE = 0.7
"""Of a card's memory that weights may take; the rest is for keys, values and activations."""
MIN_PROMPTS = 64
"""Fewer prompts are answered here alone: starting processes and loading the model again would take longer."""


@dataclass(frozen=True)
class _Failed:
    """What went wrong in a process; exceptions with keywords cannot be pickled."""

    message: str
    hint: str | None


@dataclass(frozen=True)
class _Job:
    """A hand of prompts, by their place, and the settings of the `LocalModel` that answers them."""

    settings: Mapping[str, Any]
    prompts: Mapping[int, list[int]]


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


class Replicas:
    """Processes that hold the same model on other devices; started when first needed, ended by `close`.

    Args:
        load: Loads the model.
        tokenizer: Decodes answers.
        places: A device for each process.
    """

    def __init__(self, load: Load, tokenizer: Any, places: Sequence[torch.device]) -> None:
        self.load = load
        self.tokenizer = tokenizer
        self.places = places
        self.workers: list[Any] = []
        self.jobs: list[Any] = []
        self.results: Any = None

    def __enter__(self) -> Replicas:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        for worker in self.workers:
            worker.terminate()
            worker.join()
        self.workers, self.jobs = [], []

    def answers(
        self,
        prompts: Sequence[list[int]],
        settings: Mapping[str, Any],
        here: Callable[[list[list[int]], OnAnswer], Any],
        on_answer: OnAnswer,
    ) -> list[Answer]:
        """Answer all prompts, one hand of them in this process.

        Args:
            prompts: Token ids.
            settings: Keywords of `LocalModel`.
            here: Answers the hand of this process.
            on_answer: Told (place of the prompt, answer) in this process, in no order.

        Raises:
            HardwareError: A process died, or its model could not be loaded or used.
        """
        self._start()
        own, *others = deal(prompts, 1 + len(self.places))
        for jobs, hand in zip(self.jobs, others, strict=True):
            jobs.put(_Job(settings, {place: prompts[place] for place in hand}))
        found: dict[int, Answer] = {}

        def end(place: int, answer: Answer) -> None:
            found[place] = answer
            on_answer(place, answer)

        def end_own(index: int, answer: Answer) -> None:
            end(own[index], answer)
            while self._take(end, wait_s=None):
                pass

        here([prompts[place] for place in own], end_own)
        while len(found) < len(prompts):
            dead = [worker for worker in self.workers if worker.exitcode is not None]  # before the queue is looked at
            if not self._take(end, wait_s=POLL_S) and dead:
                raise _died(dead[0].exitcode, len(found), len(prompts))
        return [found[place] for place in range(len(prompts))]

    def _start(self) -> None:
        if self.workers:
            return
        context = multiprocessing.get_context("spawn")
        self.results = context.Queue()
        self.jobs = [context.Queue() for _ in self.places]
        self.workers = [
            context.Process(target=_work, args=(self.load, self.tokenizer, place, jobs, self.results), daemon=True)
            for place, jobs in zip(self.places, self.jobs, strict=True)
        ]
        for worker in self.workers:
            worker.start()

    def _take(self, end: OnAnswer, *, wait_s: float | None) -> bool:
        """Take one answer of another process; False where there is none."""
        try:
            place, said = self.results.get(block=wait_s is not None, timeout=wait_s)
        except queue.Empty:
            return False
        if isinstance(said, _Failed):
            if said.hint is None:
                raise RuntimeError(f"a process that answers failed:\n{said.message}")
            raise HardwareError(said.message, hint=said.hint)
        end(place, said)
        return True


class ReplicatedModel(LocalModel):
    """A `LocalModel` that shares many prompts with the processes of other cards; its timings are of this one."""

    def __init__(self, model: Any, tokenizer: Any, *, replicas: Replicas, **settings: Any) -> None:
        super().__init__(model, tokenizer, **settings)
        self.replicas = replicas
        self.settings = {key: value for key, value in settings.items() if key != "say"}

    def answers(
        self, prompts: Sequence[list[int]], *, on_answer: OnAnswer = lambda index, answer: None
    ) -> list[Answer]:
        """Answer all prompts; the answers are those of one process."""
        if len(prompts) < MIN_PROMPTS:
            return super().answers(prompts, on_answer=on_answer)
        return self.replicas.answers(prompts, self.settings, self._here, on_answer)

    def _here(self, prompts: list[list[int]], on_answer: OnAnswer) -> list[Answer]:
        return super().answers(prompts, on_answer=on_answer)


def _died(code: int, done: int, count: int) -> HardwareError:
    return HardwareError(
        f"a process that answers ended with code {code} after {done} of {count} answers",
        hint="a negative code is a signal, -9 mostly too little memory: --set eval.batch_size=8",
    )


def _work(load: Load, tokenizer: Any, device: torch.device, jobs: Any, results: Any) -> None:
    """Answer one hand after the other; runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks is told, and ends this one
    parent = multiprocessing.parent_process()
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        model = load(device)
        while parent is not None and parent.is_alive():
            try:
                job = jobs.get(timeout=POLL_S)
            except queue.Empty:
                continue
            _answer(LocalModel(model, tokenizer, **job.settings), job.prompts, results)
    except TrainerError as error:
        results.put((-1, _Failed(error.message, error.hint)))
    except Exception:
        results.put((-1, _Failed(traceback.format_exc(), None)))


def _answer(model: LocalModel, prompts: Mapping[int, list[int]], results: Any) -> None:
    places = list(prompts)
    model.answers(list(prompts.values()), on_answer=lambda index, answer: results.put((places[index], answer)))
