"""A template with a default system prompt writes what the one of training writes with the system turn."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils.chat_template_utils import render_jinja_template

from tests import tiny
from trainer.export.default_system_prompt import DefaultSystemError, with_default_system, without_default_system
from trainer.tokens.marks import has_marks

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "default of its own": "{% if messages[0]['role'] != 'system' %}{{ 'Be kind.' }}{% endif %}" + CHATML,
    "line break first": "\n" + CHATML,
    "space first": "  \n  " + CHATML,
    "indented block first": "    {% set n = 1 %}\n" + CHATML,
    "comment first": "{#- from a hub -#}\n" + CHATML,
    "sets messages": "{% set messages = messages[0:] %}" + CHATML,
    "loop over a copy": "{% set turns = messages %}" + CHATML.replace("in messages", "in turns"),
    "macro that reads messages": ("{% macro head() %}{{ messages[0]['content'] }}{% endmacro %}{{ head() }}" + CHATML),
    "namespace": "{% set ns = namespace(n=messages | length) %}{{ ns.n }}" + CHATML,
    "begin token": "{{ bos_token }}" + CHATML,
    "roles in turns": (
        "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}{% else %}{% set turns = messages %}"
        "{% endif %}{% for m in turns %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + CHATML
    ),
    "the project's own": tiny.TEMPLATE_PATH.read_text(encoding="utf-8"),
}
TEXTS = {
    "plain": "Answer in JSON.",
    "lines": "One.\r\nTwo.\n\n\tThree.\n",
    "quotes": "Say 'yes' or \"no\", or \\n and \\' as they are.",
    "braces": 'Give {"a": {"b": {}}} and {% generation %} {{ messages }} {# no #} %} }}',
    "letters": "Antworte auf Deutsch: äöü 日本 🐎 \u2028 end",
    "empty": "",
}
USER, ANSWER = {"role": "user", "content": "Hi {{ x }}"}, {"role": "assistant", "content": "Hello."}
TALKS = {"one": [USER], "three": [USER, ANSWER, USER], "answered": [USER, ANSWER]}


def rendered(template: Any, messages: list[dict[str, Any]], **settings: Any) -> str:
    values = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True} | settings
    texts, _ = render_jinja_template(conversations=[messages], chat_template=template, **values)
    return str(texts[0])


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_question_without_a_system_turn_comes_out_as_with_it(name: str, text: str) -> None:
    template = TEMPLATES[name]
    served = with_default_system(template, text)
    assert isinstance(served, str) and served.endswith(template) and without_default_system(served, text) == template
    for turns in TALKS.values():
        expected = rendered(template, [{"role": "system", "content": text}, *turns])
        assert rendered(served, turns) == expected
        assert rendered(served, [{"role": "system", "content": text}, *turns]) == expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_system_turn_in_the_request_wins(name: str) -> None:
    served = with_default_system(TEMPLATES[name], "Be brief.")
    custom = [{"role": "system", "content": "Be kind."}, USER]
    assert rendered(served, custom) == rendered(TEMPLATES[name], custom) and "Be brief." not in rendered(served, custom)


def test_a_developer_turn_wins_where_the_template_writes_it() -> None:
    custom = [{"role": "developer", "content": "Be kind."}, USER]
    assert rendered(with_default_system(CHATML, "Be brief."), custom) == rendered(CHATML, custom)
    drops = CHATML.replace("in messages", "in messages if m['role'] in ['system', 'user', 'assistant']")
    text = rendered(with_default_system(drops, "Be brief."), custom)
    assert text == rendered(drops, [{"role": "system", "content": "Be brief."}, *custom])


def test_generation_marks_stay_and_none_come_from_the_text() -> None:
    marked = tiny.TEMPLATE_PATH.read_text(encoding="utf-8")
    assert has_marks(marked) and has_marks(with_default_system(marked, "Be brief."))
    assert not has_marks(with_default_system(CHATML, TEXTS["braces"]))


def test_each_of_several_named_templates_gets_the_default() -> None:
    names = {"default": CHATML, "tool_use": "{{ tools | tojson }}" + CHATML}
    served = with_default_system(names, "Be brief.")
    assert isinstance(served, dict) and served.keys() == names.keys()
    assert all("Be brief." in rendered(item, [USER], tools=[]) for item in served.values())


def test_tools_are_written_as_with_the_system_turn() -> None:
    template, tool = (
        TEMPLATES["the project's own"],
        {"type": "function", "function": {"name": "find", "parameters": {}}},
    )
    served = with_default_system(template, "Be brief.")
    texts = [
        rendered(item, turns, tools=[tool])
        for item, turns in ((template, [{"role": "system", "content": "Be brief."}, USER]), (served, [USER]))
    ]
    assert texts[0] == texts[1] and "find" in texts[0]


@pytest.mark.parametrize(
    "template",
    [
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + CHATML,
        "{{ raise_exception('never') }}",
    ],
    ids=["no system", "never"],
)
def test_a_template_that_takes_no_system_turn_gets_no_default(template: str) -> None:
    with pytest.raises(DefaultSystemError, match="no system turn"):
        with_default_system(template, "Be brief.")


def test_other_environments_than_transformers_write_the_same() -> None:
    """Jinja without `trim_blocks`, as some servers run it."""
    environment = ImmutableSandboxedEnvironment()
    served = str(with_default_system(CHATML, "Be brief."))
    system = {"role": "system", "content": "Be brief."}
    expected = environment.from_string(CHATML).render(messages=[system, USER])
    assert environment.from_string(served).render(messages=[USER]) == expected


def published() -> list[Path]:
    """Chat templates of published models, as TRL brings them."""
    spec = importlib.util.find_spec("trl")
    assert spec is not None and spec.origin is not None
    return sorted((Path(spec.origin).parent / "chat_templates").glob("*.jinja"))


def test_templates_of_published_models_get_the_default_or_take_no_system_turn() -> None:
    refused = []
    for path in published():
        template = path.read_text(encoding="utf-8")
        try:
            served = with_default_system(template, TEXTS["braces"])
        except DefaultSystemError:
            refused.append(path.stem)
        else:
            assert without_default_system(str(served), TEXTS["braces"]) == template
    assert len(published()) > 50
    assert {name.removesuffix("_training") for name in refused} <= {"gemma", "llava_next"}
