from __future__ import annotations

import copy
import io
from types import SimpleNamespace
from typing import Any

import pytest

from tests import tiny
from trainer.data.served_prompt import ServedSystem
from trainer.errors import DataError
from trainer.recipe.data import DataSection
from trainer.tokens.chat import Renderer
from trainer.tokens.reasoning import AnswerForm
from trainer.verbs.serve.chat import Stream, Talk


class Echo(Talk):
    """Answers with the number of turns that it was shown."""

    def _said_by(self, model: Any, prompt: list[int]) -> Any:
        self.say(f"{len(prompt)} turns")
        return SimpleNamespace(text=f"{len(prompt)} turns", tokens=[])


def talk(*lines: str, room: int = 99, system: ServedSystem | None = None) -> tuple[Echo, str]:
    def prompt_ids(row: dict[str, Any]) -> list[int]:
        if row["prompt"][-1]["content"] == "refused":
            raise DataError("the template refuses", hint="say something else")
        return [0] * len(row["prompt"])

    section = DataSection.model_validate({"sources": [{"path": "rows.jsonl"}]})
    tuned: Any = SimpleNamespace(
        recipe=SimpleNamespace(data=section),
        prompt_ids=prompt_ids,
        leaves_room=lambda prompt: len(prompt) <= room,
        system=system or ServedSystem(None),
        renderer=SimpleNamespace(form=AnswerForm()),
        model=None,
        max_new_tokens=8,
    )
    item = Echo(tuned, io.StringIO())
    for line in lines:
        item.take(line)
    return item, item.out.getvalue()  # type: ignore[attr-defined]


def test_every_question_is_asked_with_the_conversation_before_it() -> None:
    assert talk("a", "", "b", "c")[1] == "1 turns\n3 turns\n5 turns\n"


def test_reset_forgets_the_conversation() -> None:
    assert talk("a", "/reset", "b")[1] == "1 turns\n1 turns\n"


def test_a_typed_system_prompt_takes_the_place_of_the_one_of_training() -> None:
    item, output = talk("a", "/system", "/system Be kind.", "b", system=ServedSystem("Be brief."))
    assert output == "2 turns\nsystem: Be brief.\nsystem: Be kind.\n2 turns\n"
    assert item.turns == [{"role": "user", "content": "b"}, {"role": "assistant", "content": "2 turns"}]


def test_where_training_had_several_system_prompts_one_is_asked_for() -> None:
    item, output = talk("a", "/system Be kind.", "b", system=ServedSystem(None, "2 different", is_needed=True))
    assert output == "2 different\n/system TEXT sets it\nsystem: Be kind.\n2 turns\n" and len(item.turns) == 2


def test_the_oldest_turns_go_when_the_conversation_is_too_long() -> None:
    output = talk("a", "b", "c", room=3)[1]
    assert output == "1 turns\n3 turns\n(the oldest question no longer fits and is forgotten)\n3 turns\n"


@pytest.mark.parametrize(("question", "room"), [("refused", 99), ("a", 0)])
def test_a_question_that_cannot_be_asked_leaves_the_conversation_as_it_was(question: str, room: int) -> None:
    item, output = talk(question, room=room)
    assert item.turns == [] and output.count("\n") == 2


def test_quit_ends_and_unknown_commands_are_named() -> None:
    item, output = talk("/nonsense")
    assert "no such command: /nonsense" in output and item.take("/quit") is False


class Interrupted(Stream):
    def answer(self, model: Any, prompt: list[int]) -> str:
        self._write_to("half an an")
        raise KeyboardInterrupt


def test_ctrl_c_ends_an_answer_and_what_was_said_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.verbs.serve.chat.Stream", Interrupted)
    item, _ = talk()
    Talk.take(plain := Talk(item.tuned, io.StringIO()), "a")
    assert plain.turns[-1] == {"role": "assistant", "content": "half an an"}
    assert plain.out.getvalue() == "half an an (ended)\n"  # type: ignore[attr-defined]


def test_the_template_is_given_reasoning_and_answer_of_earlier_turns(tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = tiny.THINKING_TEMPLATE
    item, _ = talk()
    output = tokenizer("<think>\nhm\n</think>\n\nyes", add_special_tokens=False)["input_ids"]
    stream: Any = SimpleNamespace(text="<think>\nhm\n</think>\n\nyes", tokens=output)
    assert item._remembered([0], stream) == {"content": stream.text}  # a template that does not know of reasoning
    item.tuned = SimpleNamespace(renderer=Renderer(tokenizer))  # type: ignore[assignment]
    assert item._remembered([0], stream) == {"content": "yes", "reasoning_content": "hm"}
    stream.tokens = tokenizer("yes", add_special_tokens=False)["input_ids"]
    assert item._remembered([0], stream) == {"content": stream.text}
