"""The mask covers assistant tokens and their end token only, however the template is written."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from tests import tiny
from tests.rendering import MaskedTokens, Renderer
from tests.unit.tokens import templates
from tests.unit.tokens.answers import answers_of
from trainer.errors import DataError
from trainer.tokens.chat import LossOn

END = "<|im_end|>"


def with_template(tokenizer: Any, template: Any) -> Any:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def with_ends(tokenizer: Any) -> Any:
    """Return the tokenizer with the end tokens of many families."""
    changed = copy.deepcopy(tokenizer)
    changed.add_tokens([AddedToken(token, special=True) for token in templates.ENDS])
    return changed


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


ONE_TURN = {"messages": [user("Hi there"), assistant('{"a":    1,\n\n    "b": "ü😀"}')]}
TWO_TURNS = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        user("One?"),
        assistant("  First answer. "),
        user("Two?"),
        assistant("Second\nanswer"),
    ],
    "source": "a.jsonl",
    "line": 7,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather “now”",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
WITH_TOOLS = {
    "messages": [
        {"role": "system", "content": "Use tools."},
        user("Weather in Zürich and Bern?"),
        assistant("", tool_calls=[call("get_weather", city="Zürich"), call("get_weather", city="Bern")]),
        {"role": "tool", "content": '{"t": 3}'},
        {"role": "tool", "content": '{"t": 4}'},
        assistant("3 and 4 degrees."),
    ],
    "tools": [TOOL],
}


def trained_runs(tokenizer: Any, tokens: MaskedTokens) -> list[str]:
    """Return the text of each unbroken run of trained tokens."""
    runs: list[list[int]] = []
    before = 0
    for token, flag in zip(tokens.ids, tokens.mask, strict=True):
        if flag and not before:
            runs.append([])
        if flag:
            runs[-1].append(token)
        before = flag
    return [tokenizer.decode(run) for run in runs]


def trained(tokenizer: Any, row: dict[str, Any], loss_on: LossOn = "assistant") -> list[str]:
    return trained_runs(tokenizer, Renderer(tokenizer, loss_on=loss_on).tokens(row))


CHATML = (templates.MARKED, templates.UNMARKED, templates.PLAIN_CHATML, templates.PLAIN_CHATML_MARKED)


@pytest.mark.parametrize("template", CHATML)
@pytest.mark.parametrize("trim_offsets", [False, True])
def test_exactly_the_answers_and_their_end_tokens_are_trained(template: str, trim_offsets: bool) -> None:
    tokenizer = with_template(tiny.make_tokenizer(trim_offsets=trim_offsets), template)
    assert trained(tokenizer, ONE_TURN) == ['{"a":    1,\n\n    "b": "ü😀"}' + END]
    assert trained(tokenizer, TWO_TURNS) == [f"  First answer. {END}", f"Second\nanswer{END}"]


@pytest.mark.parametrize("row", [ONE_TURN, TWO_TURNS, WITH_TOOLS])
def test_marks_and_prefix_difference_agree(tiny_tokenizer: Any, row: dict[str, Any]) -> None:
    assert "endgeneration" in templates.MARKED and "generation -%" not in templates.UNMARKED
    by_marks = Renderer(tiny_tokenizer).tokens(row)
    by_difference = Renderer(with_template(tiny_tokenizer, templates.UNMARKED)).tokens(row)
    assert by_marks == by_difference


@pytest.mark.parametrize("row", [ONE_TURN, TWO_TURNS])
def test_marks_with_the_line_break_inside_train_no_line_break(tiny_tokenizer: Any, row: dict[str, Any]) -> None:
    by_marks = Renderer(with_template(tiny_tokenizer, templates.PLAIN_CHATML_MARKED)).tokens(row)
    assert by_marks == Renderer(with_template(tiny_tokenizer, templates.PLAIN_CHATML)).tokens(row)


def test_the_mask_is_that_of_transformers(tiny_tokenizer: Any) -> None:
    for row in (ONE_TURN, TWO_TURNS, WITH_TOOLS):
        expected = tiny_tokenizer.apply_chat_template(
            row["messages"],
            tools=row.get("tools"),
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        tokens = Renderer(tiny_tokenizer).tokens(row)
        assert tokens.ids == list(expected["input_ids"])
        assert tokens.mask == list(expected["assistant_masks"])


@pytest.mark.parametrize("name", ["qwen2_5", "llama3", "lfm2", "cohere"])
@pytest.mark.parametrize("row", [ONE_TURN, TWO_TURNS])
def test_templates_that_trl_ships_give_the_same_mask_with_and_without_marks(
    tiny_tokenizer: Any, name: str, row: dict[str, Any]
) -> None:
    spec = importlib.util.find_spec("trl")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "chat_templates"
    tokenizer = with_ends(tiny_tokenizer)
    plain, marked = (
        Renderer(with_template(tokenizer, (folder / f"{name}{kind}.jinja").read_text())).tokens(row)
        for kind in ("", "_training")
    )
    assert plain == marked
    assert any(plain.mask)


def test_tool_calls_are_trained_and_tool_results_are_not(tiny_tokenizer: Any) -> None:
    calls = "\n".join(
        f'<tool_call>\n{{"name": "get_weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>'
        for city in ("Zürich", "Bern")
    )
    assert trained(tiny_tokenizer, WITH_TOOLS) == [calls + END, f"3 and 4 degrees.{END}"]


def test_the_text_of_the_shipped_template(tiny_tokenizer: Any) -> None:
    text = Renderer(tiny_tokenizer).text(WITH_TOOLS, WITH_TOOLS["messages"], prompt=True)
    signature = (
        '{"type": "function", "function": {"name": "get_weather", "description": "Weather “now”", '
        '"parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}'
    )
    assert text.startswith("<|im_start|>system\nUse tools.\n\n# Tools\n")
    assert f"<tools>\n{signature}\n</tools>" in text
    assert '<|im_start|>user\n<tool_response>\n{"t": 3}\n</tool_response><|im_end|>\n' in text
    assert text.endswith("<|im_start|>assistant\n3 and 4 degrees.<|im_end|>\n<|im_start|>assistant\n")


def test_the_shipped_template_adds_no_system_prompt_and_takes_null_content(tiny_tokenizer: Any) -> None:
    row = {"messages": [user("Hi"), assistant(None, tool_calls=[call("f")])]}
    assert Renderer(tiny_tokenizer).text(row, row["messages"]) == (
        '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<tool_call>\n{"name": "f", "arguments": {}}\n'
        "</tool_call><|im_end|>\n"
    )


def test_the_shipped_template_writes_bare_functions_text_arguments_and_thoughts(tiny_tokenizer: Any) -> None:
    bare = {"name": "f", "arguments": '{"x": 1}'}
    row = {"messages": [user("Hi"), assistant("Well.", reasoning_content="Hm", tool_calls=[bare])]}
    text = Renderer(tiny_tokenizer).text(row, row["messages"])
    answer_text = '<think>\nHm\n</think>\n\nWell.\n<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
    assert text.endswith(f"{answer_text}{END}\n")


@pytest.mark.parametrize("row", [ONE_TURN, TWO_TURNS, WITH_TOOLS])
def test_with_the_shipped_template_each_beginning_is_a_prefix_of_the_whole(
    tiny_tokenizer: Any, row: dict[str, Any]
) -> None:
    renderer = Renderer(tiny_tokenizer)
    messages = row["messages"]
    complete = renderer.text(row, messages)
    for length in range(1, len(messages)):
        before_answer = messages[length]["role"] == "assistant"
        assert complete.startswith(renderer.text(row, messages[:length], prompt=before_answer))


def test_the_prompt_of_a_row_is_the_untrained_beginning(tiny_tokenizer: Any) -> None:
    renderer = Renderer(tiny_tokenizer, loss_on="last_turn")
    for row in (ONE_TURN, TWO_TURNS, WITH_TOOLS):
        tokens = renderer.tokens(row)
        assert renderer.prompt_ids(row) == tokens.ids[: tokens.mask.index(1)]


# Which turns


@pytest.mark.parametrize("template", CHATML)
@pytest.mark.parametrize("loss_on", ["last_turn", "completion"])
def test_only_the_last_turn_is_trained_where_asked(tiny_tokenizer: Any, template: str, loss_on: LossOn) -> None:
    assert trained(with_template(tiny_tokenizer, template), TWO_TURNS, loss_on) == [f"Second\nanswer{END}"]


@pytest.mark.parametrize("template", CHATML)
def test_a_turn_of_weight_zero_is_not_trained(tiny_tokenizer: Any, template: str) -> None:
    row = copy.deepcopy(TWO_TURNS)
    row["messages"][2]["weight"] = 0
    row["messages"][4]["weight"] = 1
    assert trained(with_template(tiny_tokenizer, template), row) == [f"Second\nanswer{END}"]


def test_a_row_without_trained_turns_is_refused(tiny_tokenizer: Any) -> None:
    row = {"messages": [user("Hi"), assistant("Ho", weight=0)]}
    with pytest.raises(DataError, match="no token of this row would be trained") as caught:
        Renderer(tiny_tokenizer).tokens(row)
    assert "pack.loss_on" in caught.value.hint


@pytest.mark.parametrize("template", CHATML)
def test_all_trains_everything_but_the_first_token_and_what_follows_the_end(tiny_tokenizer: Any, template: str) -> None:
    tokenizer = with_template(tiny_tokenizer, template)
    tokens = Renderer(tokenizer, loss_on="all").tokens(TWO_TURNS)
    assert tokens.mask == [0] + [1] * (len(tokens.ids) - 2) + [0]
    assert tokenizer.decode(tokens.ids[-2:]) == f"{END}\n"


def test_text_rows_are_trained_whole_and_closed_by_the_end_token(tiny_tokenizer: Any) -> None:
    tokens = Renderer(tiny_tokenizer, loss_on="all").tokens({"text": "Once upon a time"})
    assert tiny_tokenizer.decode(tokens.ids) == f"Once upon a time{END}"
    assert tokens.mask == [0] + [1] * (len(tokens.ids) - 1)
    assert (
        Renderer(tiny_tokenizer, loss_on="all").tokens({"text": f"x{END}"}).ids.count(tiny_tokenizer.eos_token_id) == 1
    )


def test_text_rows_need_loss_on_all(tiny_tokenizer: Any) -> None:
    with pytest.raises(DataError, match="a `text` row has no assistant turn") as caught:
        Renderer(tiny_tokenizer).tokens({"text": "Once", "source": "t.jsonl", "line": 3})
    assert caught.value.message.startswith("t.jsonl:3: ") and "pack.loss_on: all" in caught.value.hint


# Templates that cannot be used


HISTORY = {
    "messages": [
        user("One?"),
        assistant("<think>\nHm\n</think>\n\nFirst"),
        user("Two?"),
        assistant("<think>\nHa\n</think>\n\nSecond"),
    ]
}


def test_a_template_that_rewrites_its_history_gets_an_example_for_each_answer(tiny_tokenizer: Any) -> None:
    renderer = Renderer(with_template(tiny_tokenizer, templates.FORGETS_THOUGHTS))
    assert answers_of(renderer, HISTORY) == [
        f"<think>\nHm\n</think>\n\nFirst{END}",
        f"<think>\nHa\n</think>\n\nSecond{END}",
    ]
    assert len(renderer.examples(HISTORY)) == 2


def test_the_last_turn_of_such_a_template_can_be_trained(tiny_tokenizer: Any) -> None:
    tokenizer = with_template(tiny_tokenizer, templates.FORGETS_THOUGHTS)
    assert trained(tokenizer, HISTORY, "last_turn") == [f"<think>\nHa\n</think>\n\nSecond{END}"]


def test_a_generation_prompt_that_the_answer_does_not_continue_is_refused(tiny_tokenizer: Any) -> None:
    renderer = Renderer(with_template(tiny_tokenizer, templates.OPENS_THINKING.replace("<think>", "<tool_call>")))
    with pytest.raises(DataError, match="opens turn 1 differently from its generation prompt"):
        renderer.tokens(ONE_TURN)
    pair = {"prompt": [user("Hi")], "chosen": [assistant("a")], "rejected": [assistant("b")]}
    with pytest.raises(DataError, match="opens turn 1 differently"):
        renderer.pair(pair)


def test_both_answers_of_a_pair_close_the_reasoning_that_their_prompt_opens(tiny_tokenizer: Any) -> None:
    renderer = Renderer(with_template(tiny_tokenizer, templates.OPENS_THINKING))
    chosen, rejected = assistant("a", reasoning_content="Hm."), assistant("b")
    pair = renderer.pair({"prompt": [user("Hi")], "chosen": [chosen], "rejected": [rejected]})
    assert tiny_tokenizer.decode(pair.prompt).endswith("assistant\n<think>\n")
    assert tiny_tokenizer.decode(pair.chosen) == f"Hm.\n</think>\n\na{END}"
    assert tiny_tokenizer.decode(pair.rejected) == f"\n</think>\n\nb{END}"


def test_a_template_that_drops_the_system_turn_is_refused(tiny_tokenizer: Any) -> None:
    renderer = Renderer(with_template(tiny_tokenizer, templates.NO_SYSTEM))
    with pytest.raises(DataError, match=r"^a\.jsonl:7: .* drops part of the system turn 0: 'Be brief\.'") as caught:
        renderer.tokens(TWO_TURNS)
    assert "chatml-tools.jinja" in caught.value.hint


def test_a_template_that_drops_tools_or_calls_is_refused(tiny_tokenizer: Any) -> None:
    renderer = Renderer(with_template(tiny_tokenizer, templates.PLAIN_CHATML))
    with pytest.raises(DataError, match="drops the tool 'get_weather'"):
        renderer.tokens({**ONE_TURN, "tools": [TOOL]})
    with pytest.raises(DataError, match="drops part of the assistant turn 2: 'get_weather'"):
        renderer.tokens({"messages": WITH_TOOLS["messages"]})


def test_a_dropped_turn_is_noticed_even_if_its_words_stand_elsewhere(tiny_tokenizer: Any) -> None:
    no_tool_results = templates.PLAIN_CHATML.replace(
        "message['content'] +", "(message['content'] if message['role'] != 'tool' else '') +"
    )
    row = {
        "messages": [user("Is it 5?"), assistant("Let me see f"), {"role": "tool", "content": "5"}, assistant("Yes")]
    }
    with pytest.raises(DataError, match="drops part of the tool turn 2"):
        Renderer(with_template(tiny_tokenizer, no_tool_results)).tokens(row)


def test_thoughts_that_the_template_drops_are_trained_in_tags(tiny_tokenizer: Any) -> None:
    row = {"messages": [user("Hi"), assistant("Ho", reasoning_content="A greeting."), user("Hi"), assistant("Hu")]}
    renderer = Renderer(with_template(tiny_tokenizer, templates.PLAIN_CHATML))
    assert answers_of(renderer, row) == [f"<think>\nA greeting.\n</think>\n\nHo{END}", f"Hu{END}"]
    second = renderer.examples(row)[1]
    assert "greeting" not in tiny_tokenizer.decode(second.ids), "the served history has no reasoning"


def test_a_template_may_write_tool_results_as_json_text(tiny_tokenizer: Any) -> None:
    row = {"messages": [user("Q"), assistant("f"), {"role": "tool", "content": '{"a": "b\nc"}'}, assistant("Yes")]}
    tokenizer = with_template(tiny_tokenizer, templates.JSON_TOOL_RESULTS)
    assert trained(tokenizer, row) == [f"f{END}", f"Yes{END}"]


def test_marks_that_do_not_enclose_each_assistant_turn_are_refused(tiny_tokenizer: Any) -> None:
    once = "{% generation %}" + templates.PLAIN_CHATML + "{% endgeneration %}"
    with pytest.raises(DataError, match="enclose 1 spans for 2 assistant turns"):
        Renderer(with_template(tiny_tokenizer, once)).tokens(TWO_TURNS)
    elsewhere = templates.PLAIN_CHATML_MARKED.replace("== 'assistant'", "== 'user'")
    with pytest.raises(DataError, match="leave out part of turn 2"):
        Renderer(with_template(tiny_tokenizer, elsewhere)).tokens(TWO_TURNS)


def test_marks_in_a_comment_are_no_marks(tiny_tokenizer: Any) -> None:
    commented = "{# no {% generation %} and {% endgeneration %} here #}" + templates.PLAIN_CHATML
    assert trained(with_template(tiny_tokenizer, commented), ONE_TURN) == [f"{ONE_TURN['messages'][1]['content']}{END}"]


def test_private_use_characters_in_a_row_disturb_nothing(tiny_tokenizer: Any) -> None:
    row = {"messages": [user("\ue000 icon \ue001"), assistant("\ue001\ue000")]}
    assert trained(tiny_tokenizer, row) == [f"\ue001\ue000{END}"]


def test_a_tokenizer_may_have_a_template_for_tools_apart(tiny_tokenizer: Any) -> None:
    both = with_template(tiny_tokenizer, {"default": templates.PLAIN_CHATML, "tool_use": templates.MARKED})
    assert Renderer(both).tokens(WITH_TOOLS) == Renderer(tiny_tokenizer).tokens(WITH_TOOLS)
    plain = Renderer(with_template(tiny_tokenizer, templates.PLAIN_CHATML)).tokens(ONE_TURN)
    assert Renderer(both).tokens(ONE_TURN) == plain


def test_an_end_of_turn_that_is_no_named_special_token_is_known(tiny_tokenizer: Any) -> None:
    tokenizer = with_template(tiny_tokenizer, templates.PLAIN_CHATML.replace(END, "<|eot|>"))
    tokenizer.add_tokens([AddedToken("<|eot|>", special=True)])
    assert "<|eot|>" not in tokenizer.all_special_tokens
    assert trained(tokenizer, TWO_TURNS) == ["  First answer. <|eot|>", "Second\nanswer<|eot|>"]


def test_template_errors_and_missing_templates_name_the_row(tiny_tokenizer: Any) -> None:
    with pytest.raises(DataError, match="the tokenizer has no chat template"):
        Renderer(with_template(tiny_tokenizer, None)).tokens(ONE_TURN)
    refusing = with_template(tiny_tokenizer, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match=r"^a\.jsonl:7: the chat template fails: roles must alternate"):
        Renderer(refusing).tokens(TWO_TURNS)


def test_template_variables_come_from_the_recipe_and_the_row(tiny_tokenizer: Any) -> None:
    tokenizer = with_template(tiny_tokenizer, "{{ style }} " + templates.PLAIN_CHATML)
    renderer = Renderer(tokenizer, template_kwargs={"style": "formal"})
    assert renderer.text(ONE_TURN, ONE_TURN["messages"]).startswith("formal ")
    row = {**ONE_TURN, "chat_template_kwargs": {"style": "loose"}}
    assert renderer.text(row, row["messages"]).startswith("loose ")
    assert renderer.text({**ONE_TURN, "chat_template_kwargs": None}, ONE_TURN["messages"]).startswith("formal ")


def test_a_slow_tokenizer_is_refused(tiny_tokenizer: Any) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(DataError, match="no fast"):
        Renderer(Slow())  # type: ignore[arg-type]


# Pairs


def trl_pair(tokenizer: Any, row: dict[str, Any]) -> tuple[list[int], list[int], list[int]]:
    """Tokenize as TRL's DPOTrainer does: split where prompt and prompt + answer diverge."""

    def ids(messages: list[dict[str, Any]], *, prompt: bool = False) -> list[int]:
        encoded = tokenizer.apply_chat_template(
            messages, tools=row.get("tools"), add_generation_prompt=prompt, return_dict=True
        )
        return list(encoded["input_ids"])

    prompt = ids(row["prompt"], prompt=True)
    chosen, rejected = ids(row["prompt"] + row["chosen"]), ids(row["prompt"] + row["rejected"])

    def shared(side: list[int]) -> int:
        return next((i for i, (a, b) in enumerate(zip(prompt, side, strict=False)) if a != b), len(prompt))

    length = min(shared(chosen), shared(rejected))
    return prompt[:length], chosen[length:], rejected[length:]


PAIRS = [
    {"prompt": [user("Hi")], "chosen": [assistant("Good day.")], "rejected": [assistant("\nGood grief!")]},
    {
        "prompt": TWO_TURNS["messages"][:-1],
        "chosen": [assistant("", tool_calls=[call("get_weather", city="Bern")])],
        "rejected": [assistant("No.")],
        "tools": [TOOL],
    },
]


@pytest.mark.parametrize("row", PAIRS)
def test_pairs_are_cut_as_trl_cuts_them_and_end_with_the_end_token(tiny_tokenizer: Any, row: dict[str, Any]) -> None:
    pair = Renderer(tiny_tokenizer).pair(row)
    line_break = tiny_tokenizer("\n")["input_ids"]
    prompt, chosen, rejected = trl_pair(tiny_tokenizer, row)
    assert pair.prompt == prompt
    # TRL also trains the line break after the end token, which is never generated
    assert (pair.chosen + line_break, pair.rejected + line_break) == (chosen, rejected)
    assert pair.chosen[-1] == pair.rejected[-1] == tiny_tokenizer.eos_token_id


@pytest.mark.parametrize("template", CHATML)
def test_a_pair_is_its_prompt_and_two_answers(tiny_tokenizer: Any, template: str) -> None:
    tokenizer = with_template(tiny_tokenizer, template)
    pair = Renderer(tokenizer).pair(PAIRS[0])
    assert tokenizer.decode(pair.prompt).endswith("Hi<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(pair.chosen) == f"Good day.{END}"
    assert tokenizer.decode(pair.rejected) == f"\nGood grief!{END}"


def test_thoughts_may_be_forgotten_in_the_prompt_of_a_pair(tiny_tokenizer: Any) -> None:
    tokenizer = with_template(tiny_tokenizer, templates.FORGETS_THOUGHTS)
    row = {"prompt": HISTORY["messages"][:3], "chosen": [assistant("Yes")], "rejected": [assistant("No")]}
    assert tokenizer.decode(Renderer(tokenizer).pair(row).chosen) == f"Yes{END}"
