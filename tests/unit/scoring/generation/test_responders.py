"""Local models and addresses behind one face: the same prompts, and an answer only once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.loopback import completion, echo, send, serving
from trainer.recipe.arms import Endpoint
from trainer.scoring.generation.decoding import DecodingRow
from trainer.scoring.generation.endpoint import EndpointModel
from trainer.scoring.generation.local import LocalModel
from trainer.scoring.generation.responders import EndpointResponder, LocalResponder, PromptEncoder
from trainer.scoring.question import PromptRequest, Question
from trainer.tokens.chat import Renderer
from trainer.tokens.reasoning import AnswerForm


def ask(text: str, **more: Any) -> PromptRequest:
    return PromptRequest([{"role": "user", "content": text}], **more)


@pytest.fixture(scope="module")
def tokens(tiny_tokenizer: Any) -> PromptEncoder:
    return PromptEncoder(Renderer(tiny_tokenizer))


@pytest.fixture(scope="module")
def local(tiny_model_dir: Path, tiny_tokenizer: Any) -> LocalModel:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    return LocalModel(model, tiny_tokenizer, stop_ids=[tiny_tokenizer.eos_token_id], max_new_tokens=4)


def speaker(
    local: LocalModel, tokens: PromptEncoder, store: Path | None = None, limit: int | None = None
) -> LocalResponder:
    return LocalResponder(local, tokens, store=store, max_context=limit)


def test_a_prompt_is_what_the_template_makes_of_it(tokens: PromptEncoder, tiny_tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hm? é 🔥"}]
    expected = tiny_tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert tiny_tokenizer.decode(tokens.ids(PromptRequest(messages))) == expected
    assert tokens.of_text("yes") == tiny_tokenizer("yes", add_special_tokens=False)["input_ids"]


def test_tools_are_part_of_the_prompt(tokens: PromptEncoder) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "description": "", "parameters": {}}}
    assert len(tokens.ids(ask("a", tools=[tool]))) > len(tokens.ids(ask("a")))


def test_equal_prompts_are_answered_once_and_all_told(
    local: LocalModel, tokens: PromptEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    real = LocalModel.answers
    monkeypatch.setattr(
        LocalModel,
        "answers",
        lambda self, prompts, **remainder: counts.append(len(prompts)) or real(self, prompts, **remainder),
    )
    delivered: list[int] = []
    requests = [ask("a"), ask("b"), ask("a"), ask("a")]
    first = speaker(local, tokens, tmp_path / "kept.jsonl").answers(requests, lambda: delivered.append(1))
    assert counts == [2] and first[0] == first[2] == first[3] and len(first) == 4
    again = speaker(local, tokens, tmp_path / "kept.jsonl").answers([ask("b"), ask("c"), ask("a")], lambda: None)
    assert counts == [2, 1] and again[0] == first[1] and again[2] == first[0]
    without = speaker(local, tokens).answers(requests, lambda: None)
    assert [answer.text for answer in without] == [answer.text for answer in first]


def test_a_prompt_fits_with_room_for_its_answer(local: LocalModel, tokens: PromptEncoder) -> None:
    length = len(tokens.ids(ask("a")))
    assert speaker(local, tokens, limit=length + 4).fits(ask("a"))
    assert not speaker(local, tokens, limit=length + 3).fits(ask("a")) and speaker(local, tokens).fits(ask("a" * 5000))


def test_choices_are_scored_after_the_whole_conversation(local: LocalModel, tokens: PromptEncoder) -> None:
    def scores(messages: list[dict[str, Any]]) -> list[float]:
        (score,) = speaker(local, tokens).choice_scores([Question("a", messages, None)], [["yes", "no way"]]) or [[]]
        return score

    user = {"role": "user", "content": "Hm?"}
    plain, with_system = scores([user]), scores([{"role": "system", "content": "Say no."}, user])
    assert len(plain) == 2 and all(value < 0 for value in plain) and plain != with_system


def test_an_address_is_asked_only_for_what_is_not_kept(tokens: PromptEncoder, tmp_path: Path) -> None:
    with serving(echo) as (url, requests):
        model = EndpointModel(Endpoint(base_url=url, name="big"), max_new_tokens=4)
        far = EndpointResponder(model, tokens, store=tmp_path / "kept.jsonl", max_context=60)
        texts = [answer.text for answer in far.answers([ask("a"), ask("b"), ask("a")], lambda: None)]
        tool = {"type": "function", "function": {"name": "f"}}
        far.answers([ask("a"), ask("a", tools=[tool])], lambda: None)
        model.close()
    assert texts == ["A", "B", "A"] and len(requests) == 3 and requests[-1]["tools"] == [tool]
    assert far.fits(ask("a")) and not far.fits(ask("a b c d e f g " * 20))
    assert EndpointResponder(model, None, store=tmp_path / "k", max_context=60).fits(ask("x" * 9999))
    assert far.choice_scores([], []) is None and not far.tells_choices


# Reasoning


@pytest.fixture(scope="module")
def thinking(tiny_tokenizer: Any) -> PromptEncoder:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = tiny.THINKING_TEMPLATE
    return PromptEncoder(Renderer(tokenizer))


def test_the_right_answer_is_that_of_the_template_without_its_reasoning(
    thinking: PromptEncoder, tokens: PromptEncoder
) -> None:
    turns = [{"role": "user", "content": "Hm?"}]
    answer = {"role": "assistant", "content": "yes", "reasoning_content": "It is so."}
    text, length = thinking.right_answer({}, turns, answer)
    assert (text, length) == ("yes", len(thinking.of_text("<think>\nIt is so.\n</think>\n\nyes")))
    assert thinking.right_answer({}, turns, {"role": "assistant", "content": "yes"})[0] == "yes"
    in_text = {"role": "assistant", "content": "<think>It is so.</think>yes"}
    assert tokens.right_answer({}, turns, in_text) == ("yes", len(tokens.of_text(in_text["content"])))
    assert tokens.right_answer({}, turns, {"role": "assistant", "content": "yes"}) == (
        "yes",
        len(tokens.of_text("yes")),
    )


def test_choices_follow_what_the_template_writes_before_an_answer(
    thinking: PromptEncoder, tokens: PromptEncoder
) -> None:
    assert tokens.ids_to_content(ask("a")) == tokens.ids(ask("a"))
    text = thinking.renderer.tokenizer.decode(thinking.ids_to_content(ask("a")))
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_reasoning_that_a_server_leaves_in_the_text_is_told_apart(tokens: PromptEncoder, tmp_path: Path) -> None:
    def reply(handler: Any, body: dict[str, Any], number: int) -> None:
        send(handler, 200, completion(f"<think>hm</think>\n{body['messages'][-1]['content']}"))

    with serving(reply) as (url, _):
        model = EndpointModel(Endpoint(base_url=url, name="big"), max_new_tokens=4)
        for encoder in (tokens, None):
            far = EndpointResponder(model, encoder, store=tmp_path / "kept.jsonl", max_context=None)
            (answer,) = far.answers([ask("a")], lambda: None)
            assert (answer.final, answer.reasoning) == ("a", "hm") and answer.text.startswith("<think>")
        model.close()


def test_generated_tokens_are_told_apart(
    local: LocalModel, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LocalModel(local.model, tiny_tokenizer, stop_ids=[4], max_new_tokens=4, form=AnswerForm())
    answer_ids = tiny_tokenizer("<think>hm</think>yes", add_special_tokens=False)["input_ids"]
    answer = model._answer(DecodingRow(0, tiny_tokenizer("Hm?")["input_ids"], tokens=answer_ids, finished=True))
    assert (answer.text, answer.final, answer.reasoning) == ("<think>hm</think>yes", "yes", "hm")
    opened = DecodingRow(0, tiny_tokenizer("Hm?<think>\n")["input_ids"], tokens=answer_ids[2:4], finished=False)
    assert model._answer(opened).content == ""
