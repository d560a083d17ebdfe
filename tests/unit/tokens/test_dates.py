"""A template that prints today's date is noticed, and can be written so that it prints the same every day."""

from __future__ import annotations

import importlib.util
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.unit.tokens import templates
from tests.unit.tokens.test_chat import ONE_TURN, with_template
from trainer.tokens.chat import Renderer
from trainer.tokens.dates import formats_of_today, takes_a_date, with_fixed_date

TODAY = datetime(2026, 11, 29)


def shipped(name: str) -> str:
    spec = importlib.util.find_spec("trl")
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / "chat_templates" / f"{name}.jinja").read_text()


@pytest.mark.parametrize(
    ("name", "formats", "takes"),
    [("llama3_2", ["%d %b %Y"], True), ("gptoss", ["%Y-%m-%d"], False), ("llama3_1", [], True), ("qwen3", [], True)],
)
def test_templates_that_print_the_date_are_known(
    tiny_tokenizer: Any, name: str, formats: list[str], takes: bool
) -> None:
    renderer = Renderer(with_template(tiny_tokenizer, shipped(name)))
    assert formats_of_today(renderer.prompt_text, ONE_TURN, shipped(name)) == formats
    assert takes_a_date(renderer.prompt_text, ONE_TURN, shipped(name)) is takes


def test_a_date_that_the_recipe_states_is_no_todays_date(tiny_tokenizer: Any) -> None:
    tokenizer = with_template(tiny_tokenizer, shipped("llama3_2"))
    renderer = Renderer(tokenizer, template_kwargs={"date_string": "1 Jan 2026"})
    assert formats_of_today(renderer.prompt_text, ONE_TURN, shipped("llama3_2")) == []


def test_a_mention_without_use_is_no_finding(tiny_tokenizer: Any) -> None:
    unused = "{% if strftime_now is defined and false %}{{ strftime_now('%d') }}{% endif %}" + templates.PLAIN_CHATML
    assert formats_of_today(Renderer(with_template(tiny_tokenizer, unused)).prompt_text, ONE_TURN, unused) == []


@pytest.mark.parametrize(("name", "date"), [("llama3_2", "29 Nov 2026"), ("gptoss", "2026-11-29")])
def test_a_template_with_a_fixed_date_prints_it_every_day(tiny_tokenizer: Any, name: str, date: str) -> None:
    fixed = with_fixed_date(shipped(name), TODAY)
    renderer = Renderer(with_template(tiny_tokenizer, fixed))
    assert formats_of_today(renderer.prompt_text, ONE_TURN, fixed) == []
    with_fixed = Renderer(with_template(tiny_tokenizer, shipped(name)))
    today = datetime.now().strftime("%d %b %Y" if name == "llama3_2" else "%Y-%m-%d")
    assert renderer.prompt_text(ONE_TURN) == with_fixed.prompt_text(ONE_TURN).replace(today, date)
