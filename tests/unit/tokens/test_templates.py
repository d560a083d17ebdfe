"""Rows of every kind keep every answer with every chat template that TRL ships, or are refused with a way that does."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tests.rendering import Renderer
from tests.unit.tokens import templates
from tests.unit.tokens.answers import answers_of
from tests.unit.tokens.test_chat import TOOL, assistant, call, user, with_ends, with_template
from trainer.errors import DataError
from trainer.tokens.turns import Way

OF_IMAGES = {"diffusion_gemma", "idefics3", "lfm2_2_5_vl", "llava_next", "qwen2_5_vl", "qwen3_vl", "smolvlm"}
PREFIXES = Path(__file__).parents[3] / "recipes" / "templates"
SYSTEM = {"role": "system", "content": "Be kind."}
RESULT = {"role": "tool", "content": '{"t": 3}', "name": "get_weather"}


def folder() -> Path:
    spec = importlib.util.find_spec("trl")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "chat_templates"


NAMES = [
    path.stem
    for path in sorted(folder().glob("*.jinja"))
    if not path.stem.endswith("_training") and path.stem not in OF_IMAGES
]


def thought(reasoning: str, content: str) -> dict[str, Any]:
    return assistant(f"<think>\n{reasoning}\n</think>\n\n{content}")


ROWS: dict[str, dict[str, Any]] = {
    "one": {"messages": [user("Q1"), assistant("Alpha one")]},
    "turns": {
        "messages": [user("Q1"), assistant("Alpha one"), user("Q2"), assistant("Beta"), user("Q3"), assistant("C")]
    },
    "system": {"messages": [SYSTEM, user("Q1"), assistant("Alpha one"), user("Q2"), assistant("Beta two")]},
    "tags": {"messages": [user("Q1"), thought("Hm one", "Alpha one")]},
    "key": {"messages": [user("Q1"), assistant("Alpha one", reasoning_content="Hm one")]},
    "tags, turns": {
        "messages": [user("Q1"), thought("Hm one", "Alpha one"), user("Q2"), thought("Hm two", "Beta two")]
    },
    "key, turns": {
        "messages": [
            user("Q1"),
            assistant("Alpha one", reasoning_content="Hm one"),
            user("Q2"),
            assistant("Beta two", reasoning_content="Hm two"),
        ]
    },
    "some reason": {
        "messages": [user("Q1"), assistant("Alpha one", reasoning_content="Hm one"), user("Q2"), assistant("Beta two")]
    },
    "call": {
        "messages": [
            user("Q1"),
            assistant("", tool_calls=[call("get_weather", city="Bern")]),
            RESULT,
            assistant("Beta"),
        ],
        "tools": [TOOL],
    },
    "call, reasons": {
        "messages": [
            user("Q1"),
            assistant("", tool_calls=[call("get_weather", city="Bern")], reasoning_content="Hm one"),
            RESULT,
            assistant("Beta two", reasoning_content="Hm two"),
        ],
        "tools": [TOOL],
    },
}
KNOWS_NO_TOOLS = {
    name: ("call", "call, reasons")
    for name in ("cohere", "cohere2", "deepseek_r1_distill", "gemma", "gemma3", "lfm2", "llama3", "phi3", "phi3_5")
}
REASONS = ("tags", "key", "tags, turns", "key, turns", "some reason", "call, reasons")
REFUSED: dict[tuple[str, str], tuple[str, str]] = {
    # template and row -> reason and way out
    **{
        (name, kind): ("drops part of|fails", "tools-as-text")
        for name, kinds in KNOWS_NO_TOOLS.items()
        for kind in kinds
    },
    # of an answer with a call, their content is not written, which reasoning in tags is
    **{(name, "call, reasons"): ("drops part of", "tools-as-text") for name in ("llama3_1", "llama3_2")},
    ("gemma", "system"): ("System role not supported", "system-as-user"),
    # prompts end in closed, empty reasoning unless it is switched on
    **{("qwen3_5_nothink", kind): ("opens turn 1 differently", "enable_thinking: true") for kind in REASONS},
}


def check(renderer: Renderer, row: dict[str, Any]) -> None:
    """Check that each answer is trained whole, reasoning included, behind its prompt as served."""
    answers = [message for message in row["messages"] if message["role"] == "assistant"]
    for message, text in zip(answers, answers_of(renderer, row), strict=True):
        parts = [part.strip() for part in message["content"].replace("</think>", "<think>").split("<think>")]
        parts.append(message.get("reasoning_content", ""))
        parts += [each["function"]["name"] for each in message.get("tool_calls", [])]
        assert all(part in text for part in parts), (parts, text)
        assert text.endswith(renderer.end_tokens), text


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_is_kept(tiny_tokenizer: Any, name: str) -> None:
    tokenizer = with_template(with_ends(tiny_tokenizer), (folder() / f"{name}.jinja").read_text())
    renderer = Renderer(tokenizer)
    for kind, row in ROWS.items():
        if (name, kind) not in REFUSED:
            check(renderer, row)
            continue
        reason, way = REFUSED[name, kind]
        with pytest.raises(DataError, match=reason) as caught:
            renderer.render(row)
        assert way in caught.value.hint, (kind, caught.value.hint)
        if "enable_thinking" in way:
            check(Renderer(tokenizer, template_kwargs={"enable_thinking": True}), row)
            check(renderer, {**row, "chat_template_kwargs": {"enable_thinking": True}})
        else:
            prefix = (PREFIXES / f"{way}.jinja").read_text()
            check(Renderer(with_template(tokenizer, prefix + tokenizer.chat_template)), row)


def test_no_cell_of_the_table_is_refused_for_nothing() -> None:
    assert {name for name, _ in REFUSED} <= set(NAMES) and len(NAMES) >= 34
    assert len(REFUSED) == 27


def test_an_edited_template_needs_no_identity(tiny_tokenizer: Any) -> None:
    for name in ("qwen3", "deepseek_r1_distill", "phi3", "glm4moe"):
        text = "{#- mine -#}" + (folder() / f"{name}.jinja").read_text()
        check(Renderer(with_template(with_ends(tiny_tokenizer), text)), ROWS["turns"])


def ways(renderer: Renderer, row: dict[str, Any]) -> set[Way]:
    return {way for text in renderer.render(row) for way in text.ways}  # type: ignore[misc]


def test_answers_that_the_template_does_not_write_say_how_they_are_written(tiny_tokenizer: Any) -> None:
    def renderer(name: str) -> Renderer:
        return Renderer(with_template(with_ends(tiny_tokenizer), (folder() / f"{name}.jinja").read_text()))

    assert ways(renderer("qwen3"), ROWS["key, turns"]) == {"template"}
    assert ways(renderer("llama3"), ROWS["some reason"]) == {"template", "tags"}
    assert ways(renderer("deepseek_r1_distill"), ROWS["tags"]) == {"closed"}


@pytest.mark.parametrize(
    ("name", "kind"), [("qwen3", "tags, turns"), ("deepseek_r1_distill", "tags"), ("qwen3_5_think", "key, turns")]
)
def test_the_last_answer_is_trained_as_by_trls_training_template(tiny_tokenizer: Any, name: str, kind: str) -> None:
    tokenizer = with_ends(tiny_tokenizer)
    served = Renderer(with_template(tokenizer, (folder() / f"{name}.jinja").read_text()))
    row = ROWS[kind]
    turns = [{**turn} for turn in row["messages"]]
    trls = with_template(tokenizer, (folder() / f"{name}_training.jinja").read_text())
    encoded = trls.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    expected = tokenizer.decode(
        [i for i, flag in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if flag]
    )
    assert answers_of(served, row)[-1] in expected.replace("<｜Assistant｜><think>\n", "")


def test_loss_on_reasoning_leaves_out_all_of_it_or_only_empty_blocks(tiny_tokenizer: Any) -> None:
    tokenizer = with_template(with_ends(tiny_tokenizer), (folder() / "qwen3.jinja").read_text())
    row = ROWS["some reason"]

    def trained(loss_on_reasoning: Any) -> list[str]:
        examples = Renderer(tokenizer, loss_on_reasoning=loss_on_reasoning).examples(row)
        return [
            tokenizer.decode([i for i, flag in zip(example.ids, example.mask, strict=True) if flag])
            for example in examples
        ]

    reasoned, empty = "<think>\nHm one\n</think>\n\nAlpha one<|im_end|>", "<think>\n\n</think>\n\nBeta two<|im_end|>"
    assert trained("all") == [reasoned, empty]
    assert trained("written") == [reasoned, "Beta two<|im_end|>"]
    assert trained("none") == ["Alpha one<|im_end|>", "Beta two<|im_end|>"]


@pytest.mark.parametrize(("template", "extra"), [(templates.PLAIN_CHATML, 0), (templates.MARKED, 1)])
def test_a_row_of_a_template_that_keeps_its_history_is_rendered_twice_for_each_answer(
    tiny_tokenizer: Any, template: str, extra: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = Renderer(with_template(tiny_tokenizer, template))
    renderer.render(ROWS["turns"])  # what is learned of the template once
    calls: list[object] = []
    render = renderer._apply
    monkeypatch.setattr(renderer, "_apply", lambda *args, **kwargs: calls.append(args) or render(*args, **kwargs))
    assert len(renderer.render(ROWS["turns"])) == 1
    assert len(calls) == 2 * 3 + extra, "prompt and answer of each, and the marks of the whole"
