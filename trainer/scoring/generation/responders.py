"""Answer prompts with a model in this process or behind an address."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from trainer import exact_json
from trainer.data.records.kinds import Message, Record
from trainer.errors import DataError
from trainer.scoring.generation.answer_cache import AnswerStore
from trainer.scoring.generation.endpoint import ChatPrompt, EndpointModel
from trainer.scoring.generation.likelihood import choice_log_probs
from trainer.scoring.generation.local import LocalModel, OnAnswer
from trainer.scoring.generation.timing import peak_memory_gib, reset_peak_memory, throughput, timings
from trainer.scoring.question import Answer, PromptRequest, Question, Timing, prompt_of
from trainer.tokens.chat import Renderer
from trainer.tokens.reasoning import AnswerForm, split_tokens

OnDone = Callable[[], None]
"""Called once per answer."""
Prompt = TypeVar("Prompt")
CHOICE_BATCH = 8


def do_nothing() -> None:
    """Ignore that an answer came."""


class Responder(Protocol):
    """A model that answers."""

    tells_choices: bool
    """It gives the log-probabilities of choices."""

    def answers(self, prompts: Sequence[PromptRequest], on_done: OnDone) -> list[Answer]:
        """Answer all prompts; call `on_done` once per answer."""

    def fits(self, prompt: PromptRequest) -> bool:
        """Tell whether the prompt leaves room for an answer."""

    def timings(self, prompts: Sequence[PromptRequest]) -> list[Timing]:
        """Answer some prompts one by one."""

    def figures(self, prompts: Sequence[PromptRequest], concurrency: int) -> dict[str, float]:
        """Return throughput, and peak memory where it can be measured."""

    def choice_scores(self, questions: Sequence[Question], choices: Sequence[list[str]]) -> list[list[float]] | None:
        """Return the log-probability of each choice as answer; None where the model does not tell."""


class PromptEncoder:
    """Encode prompts with the run's tokenizer and chat template."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer

    def ids(self, prompt: PromptRequest, opening: str = "") -> list[int]:
        """Return the token ids of a prompt, and of an answer's beginning."""
        return self.renderer.history_ids(prompt.as_row(), list(prompt.messages), opening=opening)

    def quotes(self, prompt: PromptRequest) -> bool:
        """Tell whether a prompt quotes special tokens of the model."""
        guard, turns, row = self.renderer.guard, list(prompt.messages), prompt.as_row()
        return guard.turns(turns) is not turns or guard.tools(row) is not row

    def ids_to_content(self, prompt: PromptRequest) -> list[int]:
        """Return the ids before the content of an answer without reasoning: `<think></think>` may be part of them."""
        return self.ids(prompt, self.renderer.form.prefix)

    def right_answer(self, row: Record, history: Sequence[Message], turn: Message) -> tuple[str, int]:
        """Return an answer as the template writes it, without its reasoning, and its number of tokens with it.

        An earlier answer that does not follow the prompt was not trained: its content stands for it.
        """
        try:
            ids = self.renderer.answer_ids(row, list(history), turn)
        except DataError:
            ids = self.of_text(turn.get("content") or "")
        # answers of a model have no end token either
        ids = ids[:-1] if ids and ids[-1] in self.renderer.end_ids else ids
        prompt = self.renderer.history_ids(row, list(history))
        parts = split_tokens(self.form, self.renderer.tokenizer, prompt, ids)
        text = parts.content if parts else str(self.renderer.tokenizer.decode(ids, skip_special_tokens=True))
        return text.strip(), len(ids)

    @property
    def form(self) -> AnswerForm:
        """How the template writes answers."""
        return self.renderer.form

    def of_text(self, text: str) -> list[int]:
        """Return the ids of a text that continues the prompt."""
        return self.renderer.ids(self.renderer.guard.text(text, is_answer=True))


class LocalResponder:
    """A model in this process."""

    tells_choices = True

    def __init__(
        self, model: LocalModel, encoder: PromptEncoder, *, store: Path | None, max_context: int | None
    ) -> None:
        self.model = model
        self.encoder = encoder
        self.store = AnswerStore(store) if store else None
        self.max_context = max_context

    def answers(self, prompts: Sequence[PromptRequest], on_done: OnDone) -> list[Answer]:
        ids = self._ids(prompts)
        if self.store is None:
            return self.model.answers(ids, on_answer=lambda index, answer: on_done())
        return _with_store(self.store, ids, ids, self._answer, on_done)

    def _answer(self, ids: list[list[int]], on_answer: OnAnswer) -> None:
        self.model.answers(ids, on_answer=on_answer)

    def _ids(self, prompts: Sequence[PromptRequest]) -> list[list[int]]:
        return [self.encoder.ids(prompt) for prompt in prompts]

    def fits(self, prompt: PromptRequest) -> bool:
        return _fits(self.encoder, prompt, self.model.max_new_tokens, self.max_context)

    def timings(self, prompts: Sequence[PromptRequest]) -> list[Timing]:
        return timings(self.model, self._ids(prompts))

    def figures(self, prompts: Sequence[PromptRequest], concurrency: int) -> dict[str, float]:
        reset_peak_memory()
        rate = throughput(self.model, self._ids(prompts), concurrency)
        return {"throughput_rps": rate, "peak_memory_gib": peak_memory_gib()}

    def choice_scores(self, questions: Sequence[Question], choices: Sequence[list[str]]) -> list[list[float]] | None:
        contexts = [self.encoder.ids_to_content(prompt_of(question)) for question in questions]
        continuations = [[self.encoder.of_text(choice) for choice in row] for row in choices]
        scores = choice_log_probs(self.model.model, self.model.tokenizer, contexts, continuations, CHOICE_BATCH)
        return [[log_prob for log_prob, _ in row] for row in scores]


class EndpointResponder:
    """A model behind an OpenAI-compatible address."""

    tells_choices = False

    def __init__(
        self, model: EndpointModel, encoder: PromptEncoder | None, *, store: Path, max_context: int | None
    ) -> None:
        self.model = model
        self.encoder = encoder
        self.store = AnswerStore(store)
        self.max_context = max_context

    def answers(self, prompts: Sequence[PromptRequest], on_done: OnDone) -> list[Answer]:
        keys = [[prompt.messages, prompt.tools] for prompt in prompts]
        answers = _with_store(self.store, keys, _chat_prompts(prompts), self._answer, on_done)
        return [self._split(answer) for answer in answers]

    def _split(self, answer: Answer) -> Answer:
        """Split reasoning from content, where the server left both in the text."""
        form = self.encoder.form if self.encoder else AnswerForm()
        parts = form.split(answer.text) if answer.content is None else None
        return answer if parts is None else replace(answer, content=parts.content, reasoning=parts.reasoning)

    def _answer(self, prompts: list[ChatPrompt], on_answer: OnAnswer) -> None:
        self.model.answers(prompts, on_answer=on_answer)

    def fits(self, prompt: PromptRequest) -> bool:
        """Estimate by the run's own tokenizer: an endpoint does not tell its own."""
        return self.encoder is None or _fits(self.encoder, prompt, self.model.max_new_tokens, self.max_context)

    def timings(self, prompts: Sequence[PromptRequest]) -> list[Timing]:
        return timings(self.model, _chat_prompts(prompts))

    def figures(self, prompts: Sequence[PromptRequest], concurrency: int) -> dict[str, float]:
        return {"throughput_rps": throughput(self.model, _chat_prompts(prompts), concurrency)}

    def choice_scores(self, questions: Sequence[Question], choices: Sequence[list[str]]) -> list[list[float]] | None:
        return None


def _chat_prompts(prompts: Sequence[PromptRequest]) -> list[ChatPrompt]:
    return [ChatPrompt(prompt.messages, prompt.tools) for prompt in prompts]


def _fits(encoder: PromptEncoder, prompt: PromptRequest, max_new_tokens: int, max_context: int | None) -> bool:
    return max_context is None or len(encoder.ids(prompt)) + max_new_tokens <= max_context


def _with_store(
    store: AnswerStore,
    keyed_by: Sequence[object],
    prompts: Sequence[Prompt],
    answer: Callable[[list[Prompt], OnAnswer], None],
    on_done: OnDone,
) -> list[Answer]:
    """Answer the prompts that the store does not hold yet; an interrupted run does not ask again.

    Args:
        store: Answers by key.
        keyed_by: JSON values, one per prompt; equal ones share an answer.
        prompts: What the model takes.
        answer: Answers prompts and tells (index, answer) as they come.
        on_done: Called once per answer.
    """
    # equal prompts are asked once; greedy and seeded answers to them are equal anyway
    keys = [hashlib.sha256(exact_json.dumps(value)).hexdigest() for value in keyed_by]
    missing: dict[str, Prompt] = {}
    for key, prompt in zip(keys, prompts, strict=True):
        if store.get(key) is None:
            missing.setdefault(key, prompt)
        else:
            on_done()
    missing_keys = list(missing)

    def keep(index: int, reply: Answer) -> None:
        store.put(missing_keys[index], reply)
        on_done()

    if missing:
        answer(list(missing.values()), keep)
    return [store.answers[key] for key in keys]
