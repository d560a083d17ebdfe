"""What of an answer is reasoning is read off the template, and told apart in whatever a model writes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from tests import tiny
from tests.unit.tokens import templates
from tests.unit.tokens.test_chat import END, assistant, user, with_template
from trainer.tokens.chat import Renderer
from trainer.tokens.reasoning import THINKING, AnswerForm, ReasonedAnswer, split_tokens

OPENED = tiny.THINKING_TEMPLATE.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
CHANNELS = (  # as gpt-oss: reasoning and answer are messages of their own
    "{% for m in messages %}{% if m.role == 'assistant' %}{% if m.thinking %}"
    "{{ '<|im_start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}"
    "{{ '<|im_start|>assistant<|channel|>final<|message|>' + m.content + '<|im_end|>' }}{% else %}"
    "{{ '<|im_start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
)
CHANNEL_TOKENS = ["<|channel|>", "<|message|>", "<|end|>"]


def channels(tiny_tokenizer: Any) -> Any:
    tokenizer = with_template(tiny_tokenizer, CHANNELS)
    tokenizer.add_tokens([AddedToken(token, special=True) for token in CHANNEL_TOKENS])
    return tokenizer


def test_the_form_of_an_answer_is_read_off_the_template(tiny_tokenizer: Any) -> None:
    form = Renderer(with_template(tiny_tokenizer, tiny.THINKING_TEMPLATE)).form
    assert (form.opening, form.closing, form.prefix) == ("<think>", "</think>", "<think>\n\n</think>\n\n")
    opened = Renderer(with_template(tiny_tokenizer, OPENED)).form
    assert (opened.opening, opened.closing, opened.prefix) == ("<think>", "</think>", "\n</think>\n\n")
    form = Renderer(channels(tiny_tokenizer)).form
    assert (form.opening, form.closing, form.key) == (
        "<|channel|>analysis<|message|>",
        "<|channel|>final<|message|>",
        "reasoning_content",  # transformers hands it on as `thinking`
    )
    plain = Renderer(with_template(tiny_tokenizer, templates.PLAIN_CHATML)).form
    assert (plain.opening, plain.closing, plain.prefix, plain.key) == ("<think>", "</think>", "", None)


def test_templates_that_trl_ships_are_read(tiny_tokenizer: Any) -> None:
    spec = importlib.util.find_spec("trl")
    assert spec is not None and spec.origin is not None
    tokenizer = with_template(tiny_tokenizer, "")
    forms = {}
    for name in ("qwen3", "qwen3_5_think", "gptoss", "glm4moe", "gemma4_v5", "lfm2_2_5", "llama3"):
        tokenizer.chat_template = (Path(spec.origin).parent / "chat_templates" / f"{name}.jinja").read_text()
        form = Renderer(tokenizer).form
        forms[name] = form.opening, form.closing, form.prefix
    assert forms == {
        "qwen3": ("<think>", "</think>", "<think>\n\n</think>\n\n"),
        "qwen3_5_think": ("<think>", "</think>", "\n</think>\n\n"),
        "gptoss": (
            "<|channel|>analysis<|message|>",
            "<|channel|>final<|message|>",
            "<|channel|>final<|message|>",
        ),
        "glm4moe": ("<think>", "</think>", "\n<think></think>\n"),
        "gemma4_v5": ("<|channel>thought", "<channel|>", ""),
        "lfm2_2_5": ("<think>", "</think>", ""),
        "llama3": ("<think>", "</think>", ""),
    }


@pytest.mark.parametrize("reasoning", ["", "It is red."], ids=["empty", "some"])
@pytest.mark.parametrize("template", [tiny.THINKING_TEMPLATE, OPENED], ids=["in the answer", "opened by the prompt"])
def test_what_a_template_writes_is_told_apart_again(tiny_tokenizer: Any, template: str, reasoning: str) -> None:
    renderer = Renderer(with_template(tiny_tokenizer, template))
    written = renderer.answer_text({}, [user("Look?")], assistant("the fox", reasoning_content=reasoning))
    prompt = renderer.text({}, [user("Look?")], prompt=True)
    assert renderer.form.split(written, prompt=prompt) == ReasonedAnswer(reasoning, "the fox")


@pytest.mark.parametrize("thinking", [None, "It is red."], ids=["none", "some"])
def test_channels_of_special_tokens_are_told_apart(tiny_tokenizer: Any, thinking: str | None) -> None:
    tokenizer = channels(tiny_tokenizer)
    renderer = Renderer(tokenizer)
    turn = assistant("the fox", **({"thinking": thinking} if thinking else {}))
    ids = tokenizer(renderer.answer_text({}, [user("Look?")], turn), add_special_tokens=False)["input_ids"]
    prompt = renderer.prompt_ids({"prompt": [user("Look?")]})
    assert "channel" not in tokenizer.decode(
        ids, skip_special_tokens=True
    )  # decoded as usual, nothing tells them apart
    assert split_tokens(renderer.form, tokenizer, prompt, ids[:-1]) == ReasonedAnswer(thinking or "", "the fox")


@pytest.mark.parametrize(
    ("text", "prompt", "parts"),
    [
        ("the fox", "", None),
        ("<think>red</think>the fox", "", ReasonedAnswer("red", "the fox")),
        ("\n<think>\nred\n</think>\n\nthe fox\n", "", ReasonedAnswer("red", "the fox")),
        ("red</think>the fox", "assistant\n<think>\n", ReasonedAnswer("red", "the fox")),
        ("<think>red", "", ReasonedAnswer("red", "")),
        ("red and", "assistant\n<think>\n", ReasonedAnswer("red and", "")),
        ("the fox", "<think>\n\n</think>\n\n", None),
        ("write </think> to end it", "", None),
        ("say <think> first, then </think>", "", None),
        ("<think>a</think>b</think>c", "", ReasonedAnswer("a", "b</think>c")),
        ("", "", None),
        ("", "<think>", ReasonedAnswer("", "")),
    ],
    ids=range(12),
)
def test_reasoning_in_the_text_of_any_model(text: str, prompt: str, parts: ReasonedAnswer | None) -> None:
    assert THINKING.split(text, prompt=prompt) == parts


def test_a_header_that_the_prompt_leaves_to_the_model_is_no_part_of_its_answer(tiny_tokenizer: Any) -> None:
    no_prompt = templates.PLAIN_CHATML.split("{% if add_generation_prompt %}")[0]
    renderer = Renderer(with_template(tiny_tokenizer, no_prompt))
    assert renderer.form.prefix == "<|im_start|>assistant\n"
    written = renderer.answer_text({}, [user("Look?")], assistant("the fox"))
    assert written == f"<|im_start|>assistant\nthe fox{END}"
    assert renderer.form.split(written) == ReasonedAnswer("", "the fox")


def test_a_template_that_refuses_the_question_has_the_usual_form(tiny_tokenizer: Any) -> None:
    refusing = with_template(tiny_tokenizer, "{{ raise_exception('no') }}")
    form = Renderer(refusing).form
    assert form == AnswerForm(special=form.special)
