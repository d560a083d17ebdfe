"""Who answers: a model in this process, or one behind an address. Both take the same prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trainer import exact_json
from trainer.data.records.kinds import Message as Turn
from trainer.data.records.kinds import Record
from trainer.errors import DataError
from trainer.scoring.generation.answer_cache import AnswerStore
from trainer.scoring.generation.choice_likelihood import choice_log_probs
from trainer.scoring.generation.endpoint import ChatPrompt, EndpointModel
from trainer.scoring.generation.local import LocalModel
from trainer.scoring.generation.timing import peak_memory_gib, reset_peak_memory, throughput, timings
from trainer.scoring.question import Answer, PromptRequest, Question, Timing, asked_by
from trainer.tokens.chat import Renderer
from trainer.tokens.reasoning import AnswerForm, split_tokens

Told = Callable[[], None]
Keep = Callable[[int, Answer], None]


class Responder(Protocol):
    """A model that answers."""

    tells_choices: bool
    """It gives the log-probabilities of choices."""

    def answers(self, asked: Sequence[PromptRequest], told: Told) -> list[Answer]:
        """Answer all prompts; `told` is called once an answer."""

    def fits(self, asked: PromptRequest) -> bool:
        """Tell whether the prompt leaves room for an answer."""

    def timings(self, asked: Sequence[PromptRequest]) -> list[Timing]:
        """Answer some prompts one by one."""

    def figures(self, asked: Sequence[PromptRequest], concurrency: int) -> dict[str, float]:
        """Return throughput, and peak memory where it can be known."""

    def choice_scores(self, questions: Sequence[Question], choices: Sequence[list[str]]) -> list[list[float]] | None:
        """Return the log-probability of each choice as answer; None where the model does not tell."""


def _canonical(asked: PromptRequest) -> tuple[Record, list[Turn]]:
    """Return the keys beside the turns, and the turns, of a prompt in the form of canonical rows."""
    row: Any = asked.as_row()
    turns: Any = list(asked.messages)
    return row, turns


class PromptEncoder:
    """Prompts as token ids, with the run's template."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer

    def ids(self, asked: PromptRequest) -> list[int]:
        """Return what a served model is given."""
        row, turns = _canonical(asked)
        return self.renderer.history_ids(row, turns)

    def quotes(self, asked: PromptRequest) -> bool:
        """Tell whether a prompt quotes special tokens of the model."""
        guard, (row, turns) = self.renderer.guard, _canonical(asked)
        return guard.turns(turns) is not turns or guard.tools(row) is not row

    def ids_to_content(self, asked: PromptRequest) -> list[int]:
        """Return what comes before the content of an answer without reasoning: `<think></think>` may be part of it."""
        row, turns = _canonical(asked)
        return self.renderer.history_ids(row, turns, opening=self.renderer.form.prefix)

    def right_answer(self, row: Any, history: Sequence[Any], turn: Any) -> tuple[str, int]:
        """Return an answer as the template writes it, without its reasoning, and its number of tokens with it.

        An earlier answer that does not follow the prompt, which was not trained, is its content.
        """
        try:
            ids = self.renderer.answer_ids(row, list(history), turn)
        except DataError:
            ids = self.of_text(turn.get("content") or "")
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
        """Return the ids of a text that goes on where the prompt ends."""
        return self.renderer.ids(self.renderer.guard.text(text, is_answer=True))


class LocalResponder:
    """A model in this process."""

    tells_choices = True

    def __init__(
        self, model: LocalModel, tokens: PromptEncoder, *, store: Path | None, max_context: int | None
    ) -> None:
        self.model = model
        self.tokens = tokens
        self.store = AnswerStore(store) if store else None
        self.max_context = max_context

    def answers(self, asked: Sequence[PromptRequest], told: Told) -> list[Answer]:
        prompts = [self.tokens.ids(one) for one in asked]
        if self.store is None:
            return self.model.answers(prompts, on_answer=lambda place, answer: told())
        return _with_store(self.store, prompts, prompts, self._answer, told)

    def _answer(self, prompts: list[Any], keep: Keep) -> None:
        self.model.answers(prompts, on_answer=keep)

    def fits(self, asked: PromptRequest) -> bool:
        return self.max_context is None or len(self.tokens.ids(asked)) + self.model.max_new_tokens <= self.max_context

    def timings(self, asked: Sequence[PromptRequest]) -> list[Timing]:
        return timings(self.model, [self.tokens.ids(one) for one in asked])

    def figures(self, asked: Sequence[PromptRequest], concurrency: int) -> dict[str, float]:
        reset_peak_memory()
        rate = throughput(self.model, [self.tokens.ids(one) for one in asked], concurrency)
        return {"throughput_rps": rate.requests_per_s, "peak_memory_gib": peak_memory_gib()}

    def choice_scores(self, questions: Sequence[Question], choices: Sequence[list[str]]) -> list[list[float]] | None:
        contexts = [self.tokens.ids_to_content(asked_by(question)) for question in questions]
        continuations = [[self.tokens.of_text(choice) for choice in row] for row in choices]
        found = choice_log_probs(self.model.model, self.model.tokenizer, contexts, continuations, batch_size=8)
        return [[log_prob for log_prob, _ in row] for row in found]


class EndpointResponder:
    """A model behind an OpenAI-compatible address."""

    tells_choices = False

    def __init__(
        self, model: EndpointModel, tokens: PromptEncoder | None, *, store: Path, max_context: int | None
    ) -> None:
        self.model = model
        self.tokens = tokens
        self.store = AnswerStore(store)
        self.max_context = max_context

    def answers(self, asked: Sequence[PromptRequest], told: Told) -> list[Answer]:
        prompts = [ChatPrompt(one.messages, one.tools) for one in asked]
        keys = [[one.messages, one.tools] for one in asked]
        return [self._split(answer) for answer in _with_store(self.store, keys, prompts, self._answer, told)]

    def _split(self, answer: Answer) -> Answer:
        """Tell reasoning from content, where the server left both in the text."""
        form = self.tokens.form if self.tokens else AnswerForm()
        parts = form.split(answer.text) if answer.content is None else None
        return answer if parts is None else replace(answer, content=parts.content, reasoning=parts.reasoning)

    def _answer(self, prompts: list[Any], keep: Keep) -> None:
        self.model.answers(prompts, on_answer=keep)

    def fits(self, asked: PromptRequest) -> bool:
        """Estimate by the run's own tokenizer: an endpoint does not tell its own."""
        if self.max_context is None or self.tokens is None:
            return True
        return len(self.tokens.ids(asked)) + self.model.max_new_tokens <= self.max_context

    def timings(self, asked: Sequence[PromptRequest]) -> list[Timing]:
        return timings(self.model, [ChatPrompt(one.messages, one.tools) for one in asked])

    def figures(self, asked: Sequence[PromptRequest], concurrency: int) -> dict[str, float]:
        prompts = [ChatPrompt(one.messages, one.tools) for one in asked]
        return {"throughput_rps": throughput(self.model, prompts, concurrency).requests_per_s}

    def choice_scores(self, questions: Sequence[Question], choices: Sequence[list[str]]) -> list[list[float]] | None:
        return None


def _with_store(
    store: AnswerStore,
    keyed_by: Sequence[Any],
    prompts: Sequence[Any],
    answer: Callable[[list[Any], Keep], None],
    told: Told,
) -> list[Answer]:
    """Answer what the store does not hold yet; what was finished before an interruption is not asked again."""
    keys = [hashlib.sha256(exact_json.dumps(value)).hexdigest() for value in keyed_by]
    wanted: dict[str, int] = {}
    for place, key in enumerate(keys):
        if store.get(key) is None:
            wanted.setdefault(key, place)
        else:
            told()
    names = list(wanted)

    def keep(index: int, found: Answer) -> None:
        store.put(names[index], found)
        told()

    if names:
        answer([prompts[place] for place in wanted.values()], keep)
    kept = [store.get(key) for key in keys]
    assert all(found is not None for found in kept), "every prompt has an answer"
    return [found for found in kept if found is not None]


def shared_prefix(prompts: Sequence[list[int]]) -> int:
    """Return how many tokens all prompts begin with in common: what a server can cache."""
    if len(prompts) < 2:
        return 0
    shortest, longest = min(prompts), max(prompts)  # in the order of lists the two that share least
    same = np.equal(shortest[: len(longest)], longest[: len(shortest)])
    return int(same.argmin()) if not same.all() else len(same)
