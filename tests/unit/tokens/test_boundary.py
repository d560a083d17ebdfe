"""The prompt that a served model is given begins the row, token by token, or the row is refused by name."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tests.rendering import Renderer
from tests.unit.tokens.answers import answers_of
from tests.unit.tokens.test_chat import END, assistant, call, user, with_ends, with_template
from trainer.errors import DataError
from trainer.tokens.chat import LossOn

SPACE_BEFORE_ANSWER = (  # its prompts end in a space, which ' the' takes with it
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\nA: "
    "{% else %}{{ m.content + eos_token + '\n' }}{% endif %}{% endfor %}"
)
SPACE_MARKED = SPACE_BEFORE_ANSWER.replace(
    "{{ m.content + eos_token + '\n' }}", "{% generation %}{{ m.content + eos_token }}{% endgeneration %}{{ '\n' }}"
)
ONE = {"messages": [user("Look?"), assistant("the quick fox")], "source": "a.jsonl", "line": 3}
TWO = {"messages": [*ONE["messages"], user("Then?"), assistant("the lazy dog")], "source": "a.jsonl", "line": 4}  # type: ignore[misc]
EACH_LOSS: list[LossOn] = ["assistant", "last_turn", "completion", "all"]


def spaced(*, trim_offsets: bool = False, marked: bool = False) -> Any:
    template = SPACE_MARKED if marked else SPACE_BEFORE_ANSWER
    return with_template(tiny.make_tokenizer(trim_offsets=trim_offsets), template)


def check_row(renderer: Renderer, row: dict[str, Any]) -> None:
    """Check that the prompt begins the row, that training begins right after it, and that the text is the row's."""
    tokens, prompt = renderer.tokens(row), renderer.prompt_ids(row)
    tokenizer: Any = renderer.tokenizer
    assert tokens.ids[: len(prompt)] == prompt and tokens.mask[len(prompt)] == 1
    assert renderer.loss_on == "all" or tokens.mask[len(prompt) - 1] == 0
    text = renderer.text(row, row["messages"])
    assert tokenizer.decode(tokens.ids) == tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("loss_on", EACH_LOSS)
@pytest.mark.parametrize("trim_offsets", [False, True])
@pytest.mark.parametrize("marked", [False, True])
def test_an_answer_that_its_prompt_would_swallow_is_tokenized_apart(
    loss_on: LossOn, trim_offsets: bool, marked: bool
) -> None:
    tokenizer = spaced(trim_offsets=trim_offsets, marked=marked)
    joined = tokenizer(" the", add_special_tokens=False)["input_ids"]
    assert len(joined) == 1  # else this shows nothing
    renderer = Renderer(tokenizer, loss_on=loss_on)
    check_row(renderer, ONE)
    tokens = renderer.tokens(ONE)
    start = len(renderer.prompt_ids(ONE))
    assert tokenizer.decode(tokens.ids[start : start + sum(tokens.mask[start:])]) == f"the quick fox{END}"
    assert joined[0] not in tokens.ids


@pytest.mark.parametrize("marked", [False, True])
def test_an_earlier_answer_that_its_prompt_would_swallow_is_an_example_of_its_own(marked: bool) -> None:
    renderer = Renderer(spaced(marked=marked))
    first, second = renderer.examples(TWO)
    assert answers_of(renderer, TWO) == [f"the quick fox{END}", f"the lazy dog{END}"]
    tokenizer: Any = renderer.tokenizer
    assert tokenizer.decode(first.ids) == f"<s>Q: Look?\nA: the quick fox{END}"
    assert "Look?\nA: the quick" in tokenizer.decode(second.ids)


def test_with_loss_on_all_the_extra_example_trains_its_answer_only() -> None:
    renderer = Renderer(spaced(), loss_on="all")
    first, second = renderer.examples(TWO)
    tokenizer: Any = renderer.tokenizer
    said = [token for token, flag in zip(first.ids, first.mask, strict=True) if flag]
    assert tokenizer.decode(said) == f"the quick fox{END}"
    left = [token for token, flag in zip(second.ids, second.mask, strict=True) if flag]
    assert "the quick" not in tokenizer.decode(left) and "Then?" in tokenizer.decode(left)


def test_an_earlier_answer_that_is_not_trained_may_be_swallowed() -> None:
    weighted = {"messages": [TWO["messages"][0], assistant("the fox", weight=0), *TWO["messages"][2:]]}
    check_row(Renderer(spaced()), weighted)


def test_both_answers_of_a_pair_follow_the_prompt_that_is_served() -> None:
    tokenizer = spaced()
    renderer = Renderer(tokenizer)
    for chosen, rejected in [("the fox", "the dog"), ("the fox", "Fox"), ("Fox", "the fox"), ("the", "the")]:
        row = {"prompt": [user("Look?")], "chosen": [assistant(chosen)], "rejected": [assistant(rejected)]}
        pair = renderer.pair(row)
        assert pair.prompt == renderer.prompt_ids(row)
        assert tokenizer.decode(pair.chosen) == f"{chosen}{END}"
        assert tokenizer.decode(pair.rejected) == f"{rejected}{END}"


# Other tokenizers


def sentencepiece(scheme: str) -> Any:
    """Train a tokenizer of SentencePiece's kind: spaces are `▁` at the beginning of words."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    if scheme == "normalizer":  # as Llama 2's converted tokenizer has it
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme, split=False)
    special = ["<unk>", *tiny.SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(
        ["the quick brown fox jumps over the lazy dog in the town, Q: A: Look? "] * 9, trainer
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token=END,
        clean_up_tokenization_spaces=False,
    )


CHATML_ENDS = ["\n", " ", "\n\n", ": ", ":", "  ", "\n "]
ANSWERS = ["the quick fox", " the fox", "\nthe", "\n\n the", "   ", "1", "e\u0301t\u00e9", "\u0301x", "😀", ""]


def with_prompt_end(tokenizer: Any, end: str, turn: str) -> Any:
    template = (
        f"{{% for m in messages %}}{{{{ '{turn}' + m.role + {end!r} + m.content + eos_token + '\n' }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ '{turn}assistant' + {end!r} }}}}{{% endif %}}"
    )
    return with_template(tokenizer, template)


@cache
def of_kind(kind: str) -> Any:
    """Return a tokenizer; do not change it."""
    return tiny.make_tokenizer(trim_offsets=kind == "trimmed") if kind in ("bytes", "trimmed") else sentencepiece(kind)


KINDS = ["bytes", "trimmed", "first", "always", "never", "normalizer"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turn", ["<|im_start|>", "## "], ids=["special", "plain"])
def test_whatever_meets_at_the_boundary_is_right_or_refused(kind: str, turn: str) -> None:
    tokenizer, refused = of_kind(kind), 0
    for end in CHATML_ENDS:
        renderer = Renderer(with_prompt_end(tokenizer, end, turn))
        for answer in ANSWERS:
            row = {"messages": [user("Look?"), assistant(answer)], "source": "b.jsonl", "line": 7}
            try:
                check_row(renderer, row)
            except DataError as error:
                refused += 1
                assert (
                    error.message.startswith("b.jsonl:7: the tokenizer joins") and "model.chat_template" in error.hint
                )
    assert refused <= 6  # where a tokenizer cannot go on without a space, or composes an accent over the boundary


@pytest.mark.parametrize("kind", KINDS)
def test_every_prompt_of_a_conversation_begins_it(kind: str) -> None:
    renderer = Renderer(with_prompt_end(of_kind(kind), "\n", "<|im_start|>"))
    messages = [user("Look?"), assistant("the fox"), user("And then?"), assistant(""), user("So?"), assistant("Dog.")]
    tokens = renderer.tokens({"messages": messages})
    for index in (1, 3, 5):
        prompt = renderer.prompt_ids({"messages": messages[: index + 1]})
        assert tokens.ids[: len(prompt)] == prompt
        assert tokens.mask[len(prompt) - 1 : len(prompt) + 1] == [0, 1]


def test_a_text_with_a_begin_token_of_its_own_has_one() -> None:
    tokenizer = tiny.make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    renderer = Renderer(tokenizer, loss_on="all")
    bare, begun = (renderer.tokens({"text": text}) for text in ("the fox", "<s>the fox"))
    assert bare == begun and bare.ids.count(tokenizer.bos_token_id) == 1


# Templates


HEADER_IN_THE_MASK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content }}{% else %}"
    "{% generation %}</s>{{ m.content + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}</s><think>\n{% endif %}"
)


@pytest.mark.parametrize("loss_on", EACH_LOSS)
def test_marks_that_enclose_what_another_prompt_opens_are_refused(tiny_tokenizer: Any, loss_on: LossOn) -> None:
    with pytest.raises(DataError, match=r"^a\.jsonl:3: .* opens turn 1 differently") as caught:
        Renderer(with_template(tiny_tokenizer, HEADER_IN_THE_MASK), loss_on=loss_on).tokens(ONE)
    assert r"the prompt ends in '<think>\n', where the row has 'the quick fox" in caught.value.message
    assert r"whose generation prompt does not end in '<think>\n'" in caught.value.hint


@pytest.mark.parametrize("loss_on", ["assistant", "last_turn", "completion"])
def test_reasoning_that_the_prompt_opens_is_closed_before_an_answer_without_any(
    tiny_tokenizer: Any, loss_on: LossOn
) -> None:
    template = HEADER_IN_THE_MASK.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    renderer = Renderer(with_template(tiny_tokenizer, template), loss_on=loss_on)
    assert answers_of(renderer, ONE) == [f"\n</think>\n\nthe quick fox{END}"]
    reasoned = {"messages": [ONE["messages"][0], {**ONE["messages"][1], "reasoning_content": "A fox?"}]}  # type: ignore[index]
    assert answers_of(renderer, reasoned) == [f"A fox?\n</think>\n\nthe quick fox{END}"]


def test_the_variable_that_makes_prompt_and_answer_agree_is_named(tiny_tokenizer: Any) -> None:
    closed = HEADER_IN_THE_MASK.replace("<think>\n", "{% if thinking is not defined or thinking %}<think>\n{% endif %}")
    tokenizer = with_template(tiny_tokenizer, closed)
    with pytest.raises(DataError) as caught:
        Renderer(tokenizer).tokens(ONE)
    assert caught.value.hint.startswith("set model.chat_template_kwargs: {thinking: false}")
    check_row(Renderer(tokenizer, template_kwargs={"thinking": False}), ONE)


def test_marks_that_leave_out_what_a_served_model_writes_are_refused(tiny_tokenizer: Any) -> None:
    late = HEADER_IN_THE_MASK.replace("<think>\n", "").replace(
        "{% generation %}</s>", "</s><think></think>{% generation %}"
    )
    with pytest.raises(DataError, match=r"leave out '<think></think>', which a served model writes itself, of turn 1"):
        Renderer(with_template(tiny_tokenizer, late)).tokens(ONE)


def test_white_space_between_prompt_and_mark_is_trained(tiny_tokenizer: Any) -> None:
    spaced_answer = SPACE_MARKED.replace("A: ", "A:").replace("{% generation %}", " {% generation %}")
    renderer = Renderer(with_template(tiny_tokenizer, spaced_answer))
    check_row(renderer, ONE)
    tokens = renderer.tokens(ONE)
    assert tiny_tokenizer.decode([id_ for id_, flag in zip(tokens.ids, tokens.mask, strict=True) if flag]) == (
        f" the quick fox{END}"
    )


def test_marked_turns_that_end_otherwise_in_the_end_are_examples_of_their_own(tiny_tokenizer: Any) -> None:
    two_ends = SPACE_MARKED.replace("A: ", "A:").replace(
        "m.content + eos_token", "m.content + (eos_token if loop.last else '</s>')"
    )
    renderer = Renderer(with_template(tiny_tokenizer, two_ends))
    assert answers_of(renderer, TWO) == [f"the quick fox{END}", f"the lazy dog{END}"]
    assert len(renderer.examples(TWO)) == 2


def test_an_end_of_the_text_behind_the_end_of_the_turn_is_not_trained(tiny_tokenizer: Any) -> None:
    phi = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '</s>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% else %}{{ eos_token }}{% endif %}"
    )
    renderer = Renderer(with_template(tiny_tokenizer, phi))
    for row in (ONE, TWO):
        check_row(renderer, row)
    tokens = renderer.tokens(TWO)
    text = tiny_tokenizer.decode([id_ for id_, flag in zip(tokens.ids, tokens.mask, strict=True) if flag])
    assert text == "the quick fox</s>the lazy dog</s>"


def test_a_turn_that_the_template_does_not_close_is_refused_with_its_row(tiny_tokenizer: Any) -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.tool_calls %}"
        "{{ 'call ' + m.tool_calls[0].function.name }}{% else %}{{ m.content + eos_token }}{% endif %}{{ '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    renderer = Renderer(with_template(tiny_tokenizer, template))
    check_row(renderer, ONE)
    with pytest.raises(DataError, match=r"turn 1 ends in '.*get_weather\\n', which is no end token"):
        renderer.tokens(TRL_ROWS[-1])
    pair = {"prompt": [user("Hm?")], "chosen": [assistant("a")], "rejected": TRL_ROWS[-1]["messages"][1:2]}
    with pytest.raises(DataError, match="turn 1 ends in"):
        renderer.pair(pair)


TRL_ROWS = [
    ONE,
    TWO,
    {"messages": [user("Look?"), assistant("the fox", reasoning_content="It is red.")]},
    {"messages": [user("Look?"), assistant("<think>\nIt is red.\n</think>\n\nthe fox")]},
    {
        "messages": [
            user("Look?"),
            assistant("", tool_calls=[call("get_weather", city="Bern")]),
            {"role": "tool", "content": "5"},
            assistant("Cold."),
        ]
    },
]


def templates_of_trl() -> list[Path]:
    spec = importlib.util.find_spec("trl")
    assert spec is not None and spec.origin is not None
    return sorted((Path(spec.origin).parent / "chat_templates").glob("*.jinja"))


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
def test_every_template_that_trl_ships_is_right_or_refused(tiny_tokenizer: Any, loss_on: LossOn) -> None:
    tokenizer = with_ends(tiny_tokenizer)
    accepted = 0
    for path in templates_of_trl():
        tokenizer.chat_template = path.read_text()
        renderer = Renderer(tokenizer, loss_on=loss_on)
        for row in TRL_ROWS:
            try:
                answers = answers_of(renderer, row)
            except DataError as error:
                assert error.hint
                continue
            accepted += 1
            assert all(answer.strip().endswith(renderer.end_tokens) for answer in answers) or loss_on == "all"
    assert accepted > 275
