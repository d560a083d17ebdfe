"""Answer on all cards: each further card holds a copy of the model in a process of its own."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

import torch

from trainer.errors import HardwareError, TrainerError
from trainer.scoring.generation.local import Engine, LocalModel, OnAnswer
from trainer.scoring.generation.sampling import NucleusSampling
from trainer.scoring.question import Answer
from trainer.tokens.reasoning import AnswerForm

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess
    from multiprocessing.queues import Queue

    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Layout = Literal["single", "replicas", "sharded"]
Load = Callable[[torch.device], "PreTrainedModel | PeftModel"]
"""Loads the model onto a device. It is pickled: a function of a module, or functools.partial of one."""
POLL_S = 1.0
"""How often either side looks for the death of the other."""
WEIGHTS_SHARE = 0.7
"""Of a card's memory that weights may take; the rest is for keys, values and activations."""
MIN_PROMPTS = 64
"""Fewer prompts are answered here alone: starting processes and loading the model again would take longer."""


@dataclass(frozen=True)
class _Failed:
    """What went wrong in a process; exceptions with keywords cannot be pickled."""

    message: str
    hint: str | None


class LocalSettings(TypedDict, total=False):
    """Keywords of `LocalModel`."""

    stop_ids: Sequence[int]
    max_new_tokens: int
    sampling: NucleusSampling | None
    batch_size: int | Literal["auto"]
    engine: Engine
    form: AnswerForm | None
    say: Callable[[str], None]


@dataclass(frozen=True)
class _Job:
    """A hand of prompts by their index, and the settings of the `LocalModel` that answers them."""

    settings: LocalSettings
    prompts: Mapping[int, list[int]]


def devices() -> list[torch.device]:
    """Return all visible cards, or the CPU."""
    return [torch.device("cuda", card) for card in range(torch.cuda.device_count())] or [torch.device("cpu")]


def layout_of(weight_bytes: int, card_bytes: Sequence[int]) -> Layout:
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
    """Deal indices of prompts by length, back and forth, so that every hand has as much to do.

    Example: six prompts of 6 to 1 tokens for two hands, 11 and 10 tokens.
        >>> deal([[0] * length for length in (6, 5, 4, 3, 2, 1)], 2)
        [[0, 3, 4], [1, 2, 5]]
    """
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    dealt: list[list[int]] = [[] for _ in range(hands)]
    for turn, index in enumerate(order):
        # 0 1 2 | 2 1 0 | 0 1 2: the hand with the longest prompt of a lap gets the shortest of the next
        lap, seat = divmod(turn, hands)
        dealt[seat if lap % 2 == 0 else hands - 1 - seat].append(index)
    return dealt


class Replicas:
    """Processes that hold the same model on other devices; started when first needed, ended by `close`."""

    def __init__(self, load: Load, tokenizer: PreTrainedTokenizerBase, devices: Sequence[torch.device]) -> None:
        self.load = load
        self.tokenizer = tokenizer
        self.devices = devices
        self.workers: list[SpawnProcess] = []
        self.jobs: list[Queue[_Job]] = []
        self.results: Queue[tuple[int, Answer | _Failed]]

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
        settings: LocalSettings,
        here: Callable[[list[list[int]], OnAnswer], list[Answer]],
        on_answer: OnAnswer,
    ) -> list[Answer]:
        """Answer all prompts, one hand of them in this process.

        Args:
            prompts: Token ids.
            settings: Keywords of `LocalModel`.
            here: Answers the hand of this process.
            on_answer: Called with (index of the prompt, answer) in this process, in no order.

        Raises:
            HardwareError: A process died, or its model could not be loaded or used.
        """
        self._start()
        local, *remote = deal(prompts, 1 + len(self.devices))
        for jobs, hand in zip(self.jobs, remote, strict=True):
            jobs.put(_Job(settings, {index: prompts[index] for index in hand}))
        answers: dict[int, Answer] = {}

        def end(index: int, answer: Answer) -> None:
            answers[index] = answer
            on_answer(index, answer)

        def end_local(position: int, answer: Answer) -> None:
            end(local[position], answer)
            # answers of others are passed on while this process still decodes, so that the bar moves
            while self._take(end, wait_s=None):
                pass

        here([prompts[index] for index in local], end_local)
        while len(answers) < len(prompts):
            # exit codes before the queue: a worker may answer and end in between
            exit_codes = [worker.exitcode for worker in self.workers if worker.exitcode is not None]
            if not self._take(end, wait_s=POLL_S) and exit_codes:
                raise _died(exit_codes[0], len(answers), len(prompts))
        return [answers[index] for index in range(len(prompts))]

    def _start(self) -> None:
        if self.workers:
            return
        # CUDA cannot be used in a forked process
        context = multiprocessing.get_context("spawn")
        self.results = context.Queue()
        self.jobs = [context.Queue() for _ in self.devices]
        self.workers = [
            context.Process(target=_work, args=(self.load, self.tokenizer, device, jobs, self.results), daemon=True)
            for device, jobs in zip(self.devices, self.jobs, strict=True)
        ]
        for worker in self.workers:
            worker.start()

    def _take(self, end: OnAnswer, *, wait_s: float | None) -> bool:
        """Take one answer of another process; return False where there is none."""
        try:
            index, result = self.results.get(block=wait_s is not None, timeout=wait_s)
        except queue.Empty:
            return False
        if isinstance(result, _Failed):
            if result.hint is None:
                raise RuntimeError(f"a process that answers failed:\n{result.message}")
            raise HardwareError(result.message, hint=result.hint)
        end(index, result)
        return True


class ReplicatedModel(LocalModel):
    """A `LocalModel` that shares many prompts with the processes of other cards; its timings are of this one."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        replicas: Replicas,
        **settings: Unpack[LocalSettings],
    ) -> None:
        super().__init__(model, tokenizer, **settings)
        self.replicas = replicas
        self.settings = settings.copy()
        self.settings.pop("say", None)  # a function of this process

    def answers(
        self, prompts: Sequence[list[int]], *, on_answer: OnAnswer = lambda index, answer: None
    ) -> list[Answer]:
        """Answer all prompts; the answers are those of one process."""
        if len(prompts) < MIN_PROMPTS:
            return super().answers(prompts, on_answer=on_answer)
        return self.replicas.answers(prompts, self.settings, self._here, on_answer)

    def _here(self, prompts: list[list[int]], on_answer: OnAnswer) -> list[Answer]:
        return super().answers(prompts, on_answer=on_answer)


def _died(code: int, num_answers: int, num_prompts: int) -> HardwareError:
    return HardwareError(
        f"a process that answers ended with code {code} after {num_answers} of {num_prompts} answers",
        hint="a negative code is a signal, -9 mostly too little memory: --set eval.batch_size=8",
    )


def _work(
    load: Load,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    jobs: Queue[_Job],
    results: Queue[tuple[int, Answer | _Failed]],
) -> None:
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


def _answer(model: LocalModel, prompts: Mapping[int, list[int]], results: Queue[tuple[int, Answer | _Failed]]) -> None:
    indices = list(prompts)
    model.answers(list(prompts.values()), on_answer=lambda position, answer: results.put((indices[position], answer)))
