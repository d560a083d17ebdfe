r"""Write each trained answer behind its prompt as served, and lay the answers of a row out in texts.

The prompt of an answer is the conversation before it with the generation prompt; the answer is what the template writes
behind that prompt. Where later texts keep both, one text has all answers. Templates that write earlier turns otherwise
(reasoning that is left out once a question follows) get one text for each such answer:

    served 1   <user>One?<assistant>                            trained   <think>So.</think>First<end>
    served 2   <user>One?<assistant>First<end><user>Two?<assistant>       <think>Hm.</think>Second<end>
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from trainer.data.records.kinds import Message, Record
from trainer.errors import DataError
from trainer.tokens.dropped import check_nothing_dropped, content_parts, holds
from trainer.tokens.encode import location
from trainer.tokens.marks import Span, find_sentinels, has_marks, pick_sentinels, with_sentinels
from trainer.tokens.parity import prompt_differs
from trainer.tokens.reasoning import QUESTION, REASONING, THINK, AnswerForm, in_tags, without_reasoning

Way = Literal["template", "tags", "closed"]
"""How an answer is written: by the template as the row has it; with its reasoning in `<think>` tags, where the template
drops it; behind the end of reasoning that its prompt opens."""
MARK_HINT = "put each assistant turn with its end token between {% generation %} and {% endgeneration %}"


@dataclass(frozen=True)
class Turn:
    """A trained answer."""

    index: int
    prompt: str
    """Text before it, as served."""
    answer: str
    """What the model writes, with the end token."""
    way: Way

    @property
    def text(self) -> str:
        """Prompt and answer."""
        return self.prompt + self.answer

    @property
    def span(self) -> Span:
        """Characters of the answer in the text."""
        return len(self.prompt), len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Example:
    """One text, and the answers that are trained in it."""

    text: str
    num_messages: int
    """Messages that the text has, from the first on."""
    turns: list[Turn]


class TemplateRenderer(Protocol):
    """The part of `trainer.tokens.chat.Renderer` that is used here."""

    @property
    def loss_on(self) -> str:
        """Which tokens are trained."""

    @property
    def end_tokens(self) -> tuple[str, ...]:
        """Tokens that may end a turn."""

    @property
    def form(self) -> AnswerForm:
        """Form in which the template writes answers."""

    def text(
        self, row: Record, messages: Sequence[Message], *, prompt: bool = False, template: str | None = None
    ) -> str:
        """Render messages; `prompt` adds the opening of an assistant turn."""

    def template_of(self, row: Record) -> str:
        """Return the template that is used for a row."""

    def cut_after_end(self, text: str) -> str:
        """Cut text behind the end token."""


class ServedConversation:
    """Turns of one row; each text is rendered once."""

    def __init__(self, renderer: TemplateRenderer, row: Record, messages: list[Message]) -> None:
        self.renderer = renderer
        self.row = row
        self.messages = messages
        self.has_marks = has_marks(renderer.template_of(row))
        self.is_marked = renderer.loss_on != "all" and self.has_marks
        self._texts: dict[int, str] = {}
        self._marks: dict[str, list[Span]] = {}

    def until(self, index: int) -> str:
        """Return the text up to a turn."""
        if index not in self._texts:
            self._texts[index] = self._text(self.messages[: index + 1])
        return self._texts[index]

    @property
    def whole(self) -> str:
        """The text of all turns."""
        return self.until(len(self.messages) - 1)

    def prompt(self, index: int) -> str:
        """Return the text before an answer, as served."""
        if index:
            return self._text(self.messages[:index], prompt=True)
        # the first turn has no prompt: its header is the text of the template before its content
        text = self.whole
        return text[: max(0, text.find((content_parts(self.messages[0]) or [""])[0]))]

    def turn(self, index: int) -> Turn:
        """Return an answer behind its prompt.

        Raises:
            DataError: The template drops part of it, or opens it differently from its prompt.
        """
        prompt = self.prompt(index)
        turn = self._written(index, prompt) or self._behind_short_history(index, prompt) or self._closed(index, prompt)
        if turn is None:
            raise self._refusal(index, prompt)
        if turn.answer.endswith(self.renderer.end_tokens):
            return turn
        return replace(turn, answer=turn.answer + self._next_opening(turn))

    def examples(self, turns: Sequence[Turn]) -> list[Example]:
        """Return the texts that have all of some answers, each behind its prompt; that of the last answer is last."""
        whole = self.whole
        if turns and turns[-1].text.startswith(whole):  # with an end token that only a next turn would write
            whole = turns[-1].text
        examples = [Example(whole, len(self.messages), [])]
        for turn in reversed(turns):
            text = turn.text
            example = next((example for example in examples if example.text.startswith(text)), None)
            if example is None:
                example = Example(text, turn.index + 1, [])
                examples.append(example)
            example.turns.insert(0, turn)
        kept = [example for example in examples if example.turns] or examples
        for example in kept:
            trained = [turn.index for turn in example.turns]
            messages = self.messages[: example.num_messages]
            check_nothing_dropped(self.renderer.text, self.row, messages, example.text, trained)
        return sorted(kept, key=lambda example: example.num_messages)

    def span(self, index: int, text: str) -> Span:
        """Return the characters of a turn in a text.

        Raises:
            DataError: The text does not have the turn as the template writes it.
        """
        if self.messages[index]["role"] == "assistant":
            turn = self.turn(index)
            if text.startswith(turn.text):
                return turn.span
        before, after = self.until(index - 1) if index else "", self.until(index)
        if after.startswith(before) and text.startswith(after):
            return len(before), len(after)
        raise DataError(
            f"{location(self.row)}: turn {index} has weight 0, and the chat template writes it differently once the "
            "conversation goes on, so that it cannot be left out of pack.loss_on: all",
            hint="set pack.loss_on: assistant, or remove the weight",
        )

    def _text(self, messages: Sequence[Message], *, prompt: bool = False, template: str | None = None) -> str:
        return self.renderer.text(self.row, messages, prompt=prompt, template=template)

    # Answers

    def _written(self, index: int, prompt: str) -> Turn | None:
        """Return an answer as the template writes it."""
        for way, written in _variants(self.messages[index]):
            text = self.until(index) if way == "template" else self._tried([*self.messages[:index], written])
            if text is not None and text.startswith(prompt):
                answer = self._answer(index, written, text, prompt)
                if holds(self.messages[index], answer):
                    return Turn(index, prompt, answer, way)
        return None

    def _behind_short_history(self, index: int, prompt: str) -> Turn | None:
        """Return an answer that changes the turns before it: gpt-oss leaves out earlier reasoning once it is there.

        Behind turns without reasoning, the same answer follows the same generation prompt.
        """
        history = [
            without_reasoning(turn)[1] if turn["role"] == "assistant" else turn for turn in self.messages[:index]
        ]
        if self.is_marked or history == self.messages[:index]:
            return None
        short = ServedConversation(self.renderer, self.row, [*history, self.messages[index]])
        turn = short._written(index, short.prompt(index))
        before = self._tried(history)
        if turn is None or before is None or not turn.prompt.startswith(before):
            return None
        opening = turn.prompt[len(before) :]
        return replace(turn, prompt=prompt) if prompt.endswith(opening) else None

    def _closed(self, index: int, prompt: str) -> Turn | None:
        """Return an answer behind reasoning that its prompt opens, where the template writes it without that opening.

        The model has to close the reasoning first, empty or not, before it can answer.
        """
        form, opened = self.renderer.form, prompt.rstrip()
        opening = next((tag for tag in (form.opening, THINK[0]) if opened.endswith(tag)), None)
        if opening is None or self.has_marks:
            return None
        history = self.messages[:index]
        reasoning, message = without_reasoning(self.messages[index])
        if not reasoning and form.key:
            reasoned = message.copy()
            reasoned[form.key] = REASONING  # type: ignore[literal-required]  # one of REASONING_KEYS
            text = self._tried([*history, reasoned])
            if text is not None and text.startswith(prompt) and text.count(REASONING) == 1:
                answer = self.renderer.cut_after_end(text[len(prompt) :].replace(REASONING, ""))
                return Turn(index, prompt, answer, "closed")
        text, stem = self._tried([*history, message]), opened.removesuffix(opening)
        if text is None or not text.startswith(stem):
            return None
        closing = form.closing if opening == form.opening else THINK[1]
        line_break = "\n" if reasoning and not prompt.endswith("\n") else ""
        answer = f"{line_break}{reasoning}\n{closing}\n\n{self.renderer.cut_after_end(text[len(stem) :])}"
        return Turn(index, prompt, answer, "closed") if holds(self.messages[index], answer) else None

    def _next_opening(self, turn: Turn) -> str:
        """Return the end token that opens the turn after an answer, where the template writes none at its end (GLM).

        A token that opens the assistant's turns too would end no answer in serving.
        """
        _, answer = without_reasoning(self.messages[turn.index])
        question: Message = {"role": "user", "content": QUESTION}
        following: Message = {"role": "tool" if answer.get("tool_calls") else "user", "content": QUESTION}
        text, longer = self._tried([question, answer]), self._tried([question, answer, following])
        if not text or not longer or not longer.startswith(text):
            return ""
        opening = self._text([question], prompt=True).removeprefix(self._text([question]))
        behind = longer[len(text) :]
        ends = (token for token in self.renderer.end_tokens if token not in opening)
        return next((token for token in ends if behind.startswith(token)), "")

    def _tried(self, messages: Sequence[Message]) -> str | None:
        """Return the text of other turns than the row's; None where the template refuses them."""
        try:
            return self._text(messages)
        except DataError:
            return None

    def _answer(self, index: int, written: Message, text: str, prompt: str) -> str:
        """Return the answer in a text that begins with its prompt."""
        if not self.is_marked:
            return self.renderer.cut_after_end(text[len(prompt) :])
        if written is self.messages[index] and self.whole.startswith(prompt):
            inside, _ = self._inside_marks(index, self.messages, self.whole, prompt)
            if holds(written, inside) and text.startswith(prompt + inside):
                text = self.whole
        messages = self.messages if text is self.whole else [*self.messages[:index], written]
        inside, unmarked = self._inside_marks(index, messages, text, prompt)
        if unmarked or not all(part in inside for part in content_parts(written)):
            omission = f"{unmarked!r:.60}, which a served model writes itself," if unmarked else "part"
            raise DataError(
                f"{location(self.row)}: the generation marks of the chat template leave out {omission} of turn {index}",
                hint=MARK_HINT,
            )
        return inside

    def _refusal(self, index: int, prompt: str) -> DataError:
        text = self.until(index)
        check_nothing_dropped(self.renderer.text, self.row, self.messages[: index + 1], text, [index])
        assert not text.startswith(prompt), "an answer that the template writes whole is an answer"
        return prompt_differs(self.renderer.text, self.row, self.messages, index)

    # Marks

    def _inside_marks(self, index: int, messages: list[Message], text: str, prompt: str) -> tuple[str, str]:
        """Return the answer as its marks enclose it, and text of it before them."""
        if text not in self._marks:
            self._marks[text] = self._marked_spans(messages, text)
        low, high = self._marks[text][sum(message["role"] == "assistant" for message in messages[:index])]
        start = len(prompt)  # marks of many templates open before the end of the generation prompt
        return self.renderer.cut_after_end(text[start : max(high, start)]), text[start:low].strip()

    def _marked_spans(self, messages: list[Message], text: str) -> list[Span]:
        sentinels = pick_sentinels(text)
        template = with_sentinels(self.renderer.template_of(self.row), sentinels)
        spans, plain = find_sentinels(self._text(messages, template=template), sentinels)
        num_answers = sum(message["role"] == "assistant" for message in messages)
        if len(spans) > num_answers:  # the end of the text has marks too: TRL's template of Phi-3
            ends = self.renderer.end_tokens
            spans = [(low, high) for low, high in spans if text[low:high].strip() not in ends]
        if plain != text or len(spans) != num_answers:
            raise DataError(
                f"{location(self.row)}: the generation marks of the chat template enclose {len(spans)} spans "
                f"for {num_answers} assistant turns",
                hint=MARK_HINT,
            )
        return spans


def _variants(message: Message) -> Iterator[tuple[Way, Message]]:
    """Yield the forms in which an answer is handed to the template."""
    yield "template", message
    tagged = in_tags(message)
    if tagged is not message:
        yield "tags", tagged
