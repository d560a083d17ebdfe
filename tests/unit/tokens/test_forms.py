"""Tool calls reach a chat template in the form that it takes, numbers as they are written."""

from __future__ import annotations

from typing import Any

import pytest

from tests import tiny
from trainer.errors import DataError
from trainer.exact_json import loads
from trainer.tokens.chat import Renderer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% for c in m.tool_calls or [] %}CALL{% endfor %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OBJECTS = "{{ c.function.name }} {{ c.function.arguments | tojson }}"
ITEMS = "{{ c.function.name }}{% for k, v in c.function.arguments.items() %} {{ k }}={{ v }}{% endfor %}"
JOINED = "{{ c.function.name }} {{ '' + c.function.arguments }}"
PRINTED = "{{ c.function.name }} {{ c.function.arguments }}"
IDS = (
    "{% if not c.id is defined or c.id | length != 9 %}{{ raise_exception('ids of length 9!') }}{% endif %}"
    "{{ c.function.name }} {{ c.id }} {{ c.function.arguments | tojson }}"
)
NEEDS_RESULT_ID = "{% if m.role == 'tool' %}<{{ m.tool_call_id }}>{% endif %}"


def renderer(call: str, **options: Any) -> Renderer:
    tokenizer = tiny.make_tokenizer()
    tokenizer.chat_template = CHATML.replace("CALL", call)
    return Renderer(tokenizer, **options)


def row(*ids: str | None, arguments: str = '{"n": 1, "text": "a b"}') -> dict[str, Any]:
    turns: list[dict[str, Any]] = [{"role": "user", "content": "Where?"}]
    for name in ids:
        call = {"type": "function", "function": {"name": "track", "arguments": loads(arguments)}}
        turns.append(
            {"role": "assistant", "content": "", "tool_calls": [call if name is None else {"id": name, **call}]}
        )
        turns.append({"role": "tool", "content": "town", **({} if name is None else {"tool_call_id": name})})
    return {"messages": [*turns, {"role": "assistant", "content": "There."}]}


@pytest.mark.parametrize("call", [OBJECTS, JOINED, PRINTED], ids=["objects", "joined", "printed"])
def test_arguments_are_the_json_of_the_row_whatever_the_template_takes(call: str) -> None:
    adapted = renderer(call)
    [rendered] = adapted.render(row("c1"))
    assert 'track {"n": 1, "text": "a b"}' in rendered.text
    assert adapted.form_of(row("c1")).has_text_arguments is (call != OBJECTS)
    assert len(rendered.trained) == 2


@pytest.mark.parametrize(
    "number", ["9400110200881234567000", "0.1234567890123456789", "10.50", "1e400", "-0"], ids=lambda text: text
)
@pytest.mark.parametrize("call", [OBJECTS, ITEMS, JOINED], ids=["objects", "items", "joined"])
def test_numbers_are_rendered_as_the_row_has_them(call: str, number: str) -> None:
    [rendered] = renderer(call).render(row("c1", arguments=f'{{"n": {number}}}'))
    text = rendered.text
    assert f'{{"n": {number}}}' in text or f"n={number}<" in text


def test_ids_are_made_to_fit_consistently_and_fitting_ones_stay() -> None:
    template = IDS + "{% endfor %}" + NEEDS_RESULT_ID + "{% for c in [] %}"
    [rendered] = renderer(template).render(row("call_1", "abcdef123", "call_1x", None))
    words = rendered.text.split()
    ids = [words[index + 1] for index, word in enumerate(words) if word == "track" or word.endswith("\ntrack")]
    assert len(set(ids)) == 4 and ids[1] == "abcdef123" and all(len(name) == 9 and name.isalnum() for name in ids)
    assert [f"<{name}>town" in rendered.text for name in ids] == [True] * 4
    assert len(rendered.trained) == 5
    [again] = renderer(template).render(row("call_1", "abcdef123", "call_1x", None))
    assert again.text == rendered.text


def test_a_row_without_calls_and_a_template_that_takes_none_are_left_alone() -> None:
    with pytest.raises(DataError, match="the chat template fails: ids of length 3"):
        renderer(IDS.replace("9", "3")).render(row("c"))
    assert renderer(IDS).render({"messages": row()["messages"]})[0].trained


GREETED = [
    {"role": "assistant", "content": "Welcome, friend."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "There."},
]
MARKED = CHATML.replace(
    "{{ m.content }}<|im_end|>",
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}",
)


@pytest.mark.parametrize("loss_on", ["assistant", "last_turn"])
@pytest.mark.parametrize("template", [CHATML, MARKED], ids=["plain", "marked"])
def test_what_the_assistant_says_before_anybody_asks_is_context(template: str, loss_on: Any) -> None:
    adapted = renderer("", loss_on=loss_on)
    adapted.tokenizer.chat_template = template.replace("CALL", "")
    for system in ([], [{"role": "system", "content": "Be kind."}]):
        [rendered] = adapted.render({"messages": [*system, *GREETED]})
        assert [rendered.text[low:high] for low, high in rendered.trained] == ["There.<|im_end|>"]
        assert "Welcome, friend." in rendered.text


def test_a_greeting_of_weight_0_is_left_out_of_all_and_a_lone_one_is_trained() -> None:
    adapted = renderer("", loss_on="all")
    [rendered] = adapted.render({"messages": [{**GREETED[0], "weight": 0}, *GREETED[1:]]})
    assert [rendered.text[low:high] for low, high in rendered.left_out] == ["Welcome, friend.<|im_end|>"]
    [rendered] = renderer("").render({"messages": GREETED[:1]})
    [(low, high)] = rendered.trained
    assert CHATML and low > 0 and high > low


def test_a_template_that_forbids_an_opening_assistant_is_named() -> None:
    adapted = renderer("")
    adapted.tokenizer.chat_template = (
        "{% if messages[0].role != 'user' %}{{ raise_exception('roles must alternate') }}{% endif %}" + CHATML
    )
    with pytest.raises(DataError, match="roles must alternate; the assistant opens this conversation"):
        adapted.render({"messages": GREETED})
