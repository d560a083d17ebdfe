r"""Render a row with the model's chat template, and locate the trained characters.

The trained characters are what the template writes behind the prompt of an answer as served (`trainer.tokens.turns`):
up to the end of its `{% generation %}` marks, if the template has them, else up to the end of the turn.

    text    <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n
    mask    0           0   0 0 0         0 0           0        0 1    1         0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Literal

from trainer.data.records.kinds import Message, Record
from trainer.errors import DataError
from trainer.tokens.content import ContentGuard, guard_of, unguarded
from trainer.tokens.dropped import check_nothing_dropped, way_out
from trainer.tokens.encode import Rendered, RenderedPair, encode, location
from trainer.tokens.forms import FORMS, Numbers, ToolCallForm, choose_form, fitted, has_calls
from trainer.tokens.marks import Span
from trainer.tokens.parity import prompt_differs
from trainer.tokens.reasoning import THINK, AnswerForm, in_key, read_form
from trainer.tokens.time_limit import limited
from trainer.tokens.tokenizer import Tokenizer
from trainer.tokens.turns import Example, ServedConversation, Turn

LossOn = Literal["assistant", "last_turn", "completion", "all"]
LossOnReasoning = Literal["all", "written", "none"]

MESSAGE_CHARACTERS = 20
"""Characters of a turn in a message."""


class Renderer:
    """Render and encode canonical rows with one tokenizer, template and choice of trained turns."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        loss_on: LossOn = "assistant",
        loss_on_reasoning: LossOnReasoning = "all",
        template_kwargs: Mapping[str, object] | None = None,
    ) -> None:
        """Keep tokenizer and settings.

        Raises:
            DataError: It is not a fast tokenizer.
        """
        if not tokenizer.is_fast:
            raise DataError(
                "the tokenizer has no fast (tokenizers) version, which the loss mask needs",
                hint="convert it to a tokenizer.json",
            )
        self.tokenizer = tokenizer
        self.loss_on = loss_on
        self.loss_on_reasoning = loss_on_reasoning
        self.template_kwargs = template_kwargs or {}
        special = {id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
        # tokens that may end a turn: many tokenizers leave the end of a turn out of `all_special_ids`
        self.end_ids = frozenset({*special, *tokenizer.all_special_ids, tokenizer.eos_token_id} - {None})
        self._form_of_row: tuple[Record | None, ToolCallForm] = (None, FORMS[0])
        self.end_tokens = tuple({*special.values(), tokenizer.eos_token or ""} - {""})

    # Text

    def text(
        self, row: Record, messages: Sequence[Message], *, prompt: bool = False, template: str | None = None
    ) -> str:
        """Render messages; `prompt` adds the opening of an assistant turn.

        Raises:
            DataError: There is no template, or it refuses the conversation.
        """
        if not self.tokenizer.chat_template:
            raise DataError(
                "the tokenizer has no chat template", hint="give a Jinja file in model.chat_template of the recipe"
            )
        # trying forms renders the row several times: only rows with calls pay for it
        form = self.form_of(row, messages) if has_calls(messages) else FORMS[0]
        try:
            return self._apply(row, messages, form, prompt=prompt, template=template)
        except Exception as error:  # whatever a template raises: jinja errors, TypeError, its own raise_exception
            first = next((message["role"] for message in messages if message["role"] != "system"), "")
            where = "; the assistant opens this conversation, remove what it says first" * (first == "assistant")
            raise DataError(
                f"{location(row)}: the chat template fails: {error}{where}",
                hint=way_out(row, messages, str(error)),
            ) from error

    def _apply(
        self,
        row: Record,
        messages: Sequence[Message],
        form: ToolCallForm,
        *,
        prompt: bool = False,
        template: str | None = None,
    ) -> str:
        numbers = Numbers()
        with limited():
            text = self.tokenizer.apply_chat_template(
                fitted(messages, form, numbers),
                tools=numbers.hidden(row.get("tools")) or None,
                tokenize=False,
                add_generation_prompt=prompt,
                chat_template=template,
                **{**self.template_kwargs, **(row.get("chat_template_kwargs") or {})},
            )
        return numbers.restored(str(text))

    def form_of(self, row: Record, messages: Sequence[Message] = ()) -> ToolCallForm:
        """Return the form in which the template accepts the tool calls of a row: one for all its turns.

        Args:
            row: A canonical row.
            messages: Its turns, where the row holds only the other keys.
        """
        row_of_form, form = self._form_of_row
        if row_of_form is not row:
            turns = row.get("messages") or [*row.get("prompt", ()), *row.get("chosen", ())] or messages
            form = choose_form(turns, lambda candidate: self._apply(row, turns, candidate))
            self._form_of_row = row, form
        return form

    def prompt_text(self, row: Record, *, template: str | None = None) -> str:
        """Render the prompt of the last turn."""
        messages = row["prompt"] if "prompt" in row else row["messages"][:-1]
        return self.text(row, messages, prompt=True, template=template)

    @cached_property
    def form(self) -> AnswerForm:
        """Form in which the template writes reasoning and content of answers."""
        return read_form(partial(self.text, {}), self.end_tokens)

    @cached_property
    def guard(self) -> ContentGuard:
        """Guard that separates special tokens that rows quote from those of the template."""
        spoken = {*THINK, self.form.opening, self.form.closing}
        return guard_of(self.tokenizer, partial(self.text, {}), spoken=spoken, end_tokens=self.end_tokens)

    def guarded(self, row: Record, *conversations: list[Message]) -> tuple[Record, list[list[Message]]]:
        """Return a row and turns with guards in their quoted special tokens, reasoning where the template reads it.

        Raises:
            DataError: The template changes the quoted tokens.
        """
        conversations = tuple(map(self._with_reasoning_keys, conversations))
        guarded, turns = self.guard.tools(row), [self.guard.turns(messages) for messages in conversations]
        for guarded_turns, plain in zip(turns, conversations, strict=True):
            is_same = guarded is row and guarded_turns is plain
            # a template that trims or escapes content would treat a guarded token otherwise than a plain one
            if not is_same and unguarded(self.text(guarded, guarded_turns)) != self.text(row, plain):
                raise DataError(
                    f"{location(row)}: the row quotes special tokens, and the chat template changes them",
                    hint="take them out of the row, or give a template that writes its turns as they are in "
                    "model.chat_template",
                )
        return guarded, turns

    def _with_reasoning_keys(self, messages: list[Message]) -> list[Message]:
        """Move reasoning from `<think>` tags to a key, for a template that has tags of its own (gpt-oss)."""
        if not any(THINK[1] in (message.get("content") or "") for message in messages):
            return messages
        key = self.form.key
        return messages if key is None or self.form.opening == THINK[0] else [in_key(turn, key) for turn in messages]

    def answer_text(self, row: Record, history: Sequence[Message], answer: Message) -> str:
        """Return the expected answer after a history, up to the end token.

        Raises:
            DataError: The template refuses the conversation, or opens the answer differently from its prompt.
        """
        return ServedConversation(self, row, [*history, answer]).turn(len(history)).answer

    # Rows before they are tokenized

    def render(self, row: Record) -> list[Rendered]:
        """Return the texts of a supervised row and their trained characters; a row of token ids passes as it is.

        Several texts where the template, as served, writes earlier turns otherwise before a later answer.

        Raises:
            DataError: The template drops a turn, or opens an answer differently from its prompt.
        """
        if "input_ids" in row:
            return [Rendered(row, "ids")]
        if "text" in row:
            return [self._plain(row)]
        row, [messages] = self.guarded(row, row["messages"])
        conversation = ServedConversation(self, row, messages)
        trained = self._trained_turns(messages)
        turns = [conversation.turn(index) for index in trained if messages[index]["role"] == "assistant"]
        for turn in turns:
            self._check_end(row, turn.index, turn.answer)
        *earlier, last = conversation.examples(turns)
        whole = self._whole(conversation, last) if self.loss_on == "all" else self._answers(row, last)
        return [*(self._answers(row, example) for example in earlier), whole]

    def _answers(self, row: Record, example: Example) -> Rendered:
        """Train the answers of a text."""
        spans = [turn.span for turn in example.turns]
        ways = [turn.way for turn in example.turns]
        return Rendered(row, "chat", example.text, spans, self._untrained_reasoning(example.turns), spans, ways)

    def _whole(self, conversation: ServedConversation, example: Example) -> Rendered:
        """Train a text but for the turns of weight 0."""
        messages = conversation.messages[: example.num_messages]
        untrained = [index for index, message in enumerate(messages) if not message.get("weight", 1)]
        left_out = [conversation.span(index, example.text) for index in untrained]
        answers = self._answers(conversation.row, example)
        trained = [(0, len(self.cut_after_end(example.text)))]
        return replace(answers, trained=trained, left_out=[*answers.left_out, *left_out])

    def _untrained_reasoning(self, turns: Sequence[Turn]) -> list[Span]:
        """Return the reasoning, with its tags, that `loss_on_reasoning` leaves out."""
        if self.loss_on_reasoning == "all":
            return []
        ends = [(turn, *self.form.reasoning_end(turn.answer, prompt=turn.prompt)) for turn in turns]
        return [
            (turn.span[0], turn.span[0] + end)
            for turn, end, is_empty in ends
            if end and (is_empty or self.loss_on_reasoning == "none")
        ]

    def render_pair(self, row: Record) -> list[RenderedPair]:
        """Return the texts of a preference row.

        Raises:
            DataError: The template drops a turn, or changes the prompt once the answer is known.
        """
        conversations = [[*row["prompt"], *row[side]] for side in ("chosen", "rejected")]
        row, conversations = self.guarded(row, *conversations)
        length = len(row["prompt"])
        prompt = self.text(row, conversations[0][:length], prompt=True)
        sides = [self._side(row, messages, prompt, length) for messages in conversations]
        return [RenderedPair(row, prompt, *sides)]

    def _side(self, row: Record, messages: list[Message], prompt: str, length: int) -> str:
        """Return prompt and answer of one side of a pair."""
        conversation = ServedConversation(self, row, messages)
        if len(messages) == length + 1:
            turn = conversation.turn(length)
            text, answer = turn.text, turn.answer
        else:  # calls of tools, their results and an answer
            text, answer = self.cut_after_end(conversation.whole), ""
            if not text.startswith(prompt):
                raise prompt_differs(self.text, row, messages, length)
        check_nothing_dropped(self.text, row, messages, text, range(length, len(messages)))
        self._check_end(row, len(messages) - 1, answer or text)
        return text

    def _plain(self, row: Record) -> Rendered:
        if self.loss_on != "all":
            raise DataError(
                f"{location(row)}: a `text` row has no assistant turn to train on", hint="set pack.loss_on: all"
            )
        return Rendered(row, "text", self._guarded_inside(row["text"]))

    def _guarded_inside(self, text: str) -> str:
        """Guard a plain text but for the begin and end tokens of the model around it."""
        begin, end = (str(self.tokenizer.special_tokens_map.get(name) or "") for name in ("bos_token", "eos_token"))
        start = len(begin) if text.startswith(begin) else 0
        stop = len(text) - len(end) if text.endswith(end) and len(text) >= start + len(end) else len(text)
        return text[:start] + self.guard.text(text[start:stop]) + text[stop:]

    # Token ids

    def prompt_ids(self, row: Record) -> list[int]:
        """Return the ids of the prompt of the last answer, as in serving."""
        return self.history_ids(row, row["prompt"] if "prompt" in row else row["messages"][:-1])

    def history_ids(self, row: Record, history: list[Message], *, opening: str = "") -> list[int]:
        """Return the ids of a prompt, as in serving.

        Args:
            row: Keys beside the turns.
            history: The turns.
            opening: Start of the answer.
        """
        row, [history] = self.guarded(row, history)
        return self.ids(self.text(row, history, prompt=True) + opening)

    def answer_ids(self, row: Record, history: list[Message], answer: Message) -> list[int]:
        """Return the ids of the expected answer after a history, with the end token.

        Raises:
            DataError: The template refuses the conversation, or opens the answer differently from its prompt.
        """
        row, [turns] = self.guarded(row, [*history, answer])
        return self.ids(self.answer_text(row, turns[:-1], turns[-1]))

    def ids(self, text: str) -> list[int]:
        """Return the ids of a guarded text."""
        ids: list[int] = encode(self.tokenizer, [text]).ids.tolist()
        return ids

    # Trained characters

    def _trained_turns(self, messages: list[Message]) -> list[int]:
        if self.loss_on == "all":
            return [index for index, message in enumerate(messages) if message.get("weight", 1)]
        turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        first_user = next((index for index, message in enumerate(messages) if message["role"] == "user"), 0)
        # an assistant turn before the first user turn is context: no prompt in serving leads to it
        turns = [index for index in turns if index > first_user] or turns
        if self.loss_on in ("last_turn", "completion"):
            turns = turns[-1:]
        return [index for index in turns if messages[index].get("weight", 1)]

    def template_of(self, row: Record) -> str:
        """Return the template that transformers uses for this row; a tokenizer may have another one for tools."""
        template = self.tokenizer.chat_template
        if isinstance(template, dict):
            template = (template.get("tool_use") if row.get("tools") else None) or template.get("default")
        return str(template or "")

    def cut_after_end(self, text: str) -> str:
        """Cut text of a template after the end token, which no model generates: line breaks, a second end (Phi-3)."""
        trimmed = text.rstrip()
        if not trimmed.endswith(self.end_tokens):
            return text
        inner = trimmed.removesuffix(self.tokenizer.eos_token or "")
        spaceless = inner.rstrip()
        return spaceless if spaceless != inner and spaceless.endswith(self.end_tokens) else trimmed

    def _check_end(self, row: Record, index: int, answer: str) -> None:
        """Refuse a turn that the template does not end with an end token, as some do for tool calls."""
        if not answer.endswith(self.end_tokens):
            raise DataError(
                f"{location(row)}: turn {index} ends in {answer[-MESSAGE_CHARACTERS:]!r}, which is no end token: "
                "the model would never learn to stop",
                hint="let the chat template close each assistant turn with the end token (model.chat_template)",
            )
