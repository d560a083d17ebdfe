"""The program around xllamacpp sets the fields that its flags name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from trainer.verbs.serve.xllamacpp_server import _pairs, _set


@pytest.fixture
def params() -> Any:
    return SimpleNamespace(n_ctx=0, warmup=True, chat_template="", temp=0.5, model=SimpleNamespace(n=1))


def test_flags_set_fields_in_their_type(params: Any) -> None:
    for name, value in _pairs(["--n-ctx", "4096", "--warmup", "off", "--chat-template", "{{ x }}", "--temp", "1"]):
        _set(params, name, value)
    _set(params, "model.n", "4")
    assert params.model.n == 4
    assert (params.n_ctx, params.warmup, params.chat_template, params.temp) == (4096, False, "{{ x }}", 1.0)


@pytest.mark.parametrize("flags", [["--n-ctx"], ["n-ctx", "1"]], ids=["no value", "no dashes"])
def test_what_is_no_flag_with_a_value_ends_the_program(flags: list[str]) -> None:
    with pytest.raises(SystemExit, match="come as --NAME VALUE"):
        _pairs(flags)


@pytest.mark.parametrize(("name", "value"), [("no_such", "1"), ("no.such", "1"), ("model", "x"), ("warmup", "maybe")])
def test_what_no_field_takes_ends_the_program(params: Any, name: str, value: str) -> None:
    with pytest.raises(SystemExit, match=name):
        _set(params, name, value)
