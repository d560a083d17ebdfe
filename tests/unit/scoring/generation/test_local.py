"""Batched answers are those of the model's own generate, row by row, whatever the batch does meanwhile."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from trainer.errors import HardwareError
from trainer.scoring.generation import continuous_batching, decoding, kv_cache, shared_prefix
from trainer.scoring.generation.decoding import choose
from trainer.scoring.generation.local import LocalModel
from trainer.scoring.generation.sampling import NucleusSampling
from trainer.scoring.question import Answer

VOCABULARY = 61
STOP = [3, 5, 7, 11, 13, 17]  # a random model says one of them soon, and at another place in every row
LIMIT = 14
FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "gpt2")
ODD_FAMILIES = ("mamba", "qwen3_next")


class Letters:
    """Decodes tokens to letters."""

    pad_token_id = 0

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return "".join(chr(48 + token) for token in tokens)


def tiny(family: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family == "gpt2":
        values = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
        values |= {"bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False}
    if family == "qwen3_next":
        values |= {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
        values |= {"shared_expert_intermediate_size": 16, "layer_types": ["linear_attention", "full_attention"]}
        values |= {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
        values |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**(values | changes)), dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():  # far apart logits: rounding decides no token
            if weight.ndim >= 2:
                weight.copy_(torch.randn_like(weight) * (0.3 if weight.ndim == 2 else 0.1))
    model.generation_config = GenerationConfig(pad_token_id=0, repetition_penalty=1.3)
    return model


def prompts(count: int, *, shared: int = 0, seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    beginning = [draw.randrange(20, VOCABULARY) for _ in range(shared)]
    return [beginning + [draw.randrange(20, VOCABULARY) for _ in range(draw.randrange(1, 24))] for _ in range(count)]


def alone(model: Any, prompt: list[int]) -> list[int]:
    """Answer one prompt as transformers does, without padding."""
    output = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones((1, len(prompt)), dtype=torch.int64),
        max_new_tokens=LIMIT,
        do_sample=False,
        repetition_penalty=1.0,
        eos_token_id=STOP,
        pad_token_id=0,
    )
    return output[0, len(prompt) :].tolist()


def local(model: Any, **settings: Any) -> LocalModel:
    return LocalModel(model, Letters(), stop_ids=STOP, max_new_tokens=LIMIT, **settings)


def check_exact(model: Any, prompt_ids: list[list[int]], answers: list[Answer]) -> None:
    for prompt, answer in zip(prompt_ids, answers, strict=True):
        expected = alone(model, prompt)
        stopped = expected[-1] in STOP
        answer_ids = expected[:-1] if stopped else expected
        assert answer.text == Letters().decode(answer_ids, True)
        assert (answer.num_tokens, answer.finished, answer.prompt_tokens) == (len(answer_ids), stopped, len(prompt))


@pytest.mark.parametrize("family", [*FAMILIES, *ODD_FAMILIES])
@pytest.mark.parametrize("shared", [0, 40])
def test_batched_answers_are_those_of_each_row_alone(family: str, shared: int) -> None:
    model, prompt_ids = tiny(family), prompts(13, shared=shared)
    delivered: dict[int, Answer] = {}
    answers = local(model, batch_size=4).answers(prompt_ids, on_answer=delivered.__setitem__)
    check_exact(model, prompt_ids, answers)
    assert [delivered[index] for index in range(13)] == answers
    assert len({answer.num_tokens for answer in answers}) > 2  # rows end apart


def count_tokens(model: Any) -> list[int]:
    """Note how many tokens every forward pass computes, padding included."""
    calls: list[int] = []
    model.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs["input_ids"].numel()), with_kwargs=True)
    return calls


def test_a_shared_beginning_is_computed_once() -> None:
    model, prompt_ids = tiny("llama"), prompts(12, shared=100)
    observed = count_tokens(model)
    check = local(model, batch_size=4).answers(prompt_ids)
    assert observed[0] == 100 and sum(observed) < 100 + 12 * 24 + 12 * (LIMIT + 8)
    check_exact(model, prompt_ids, check)


def test_groups_with_beginnings_of_their_own_are_kept_apart() -> None:
    first, second = prompts(9, shared=60, seed=1), prompts(9, shared=60, seed=2)
    odd = prompts(3, seed=3)
    prompt_ids = [prompt for pair in zip(first, second, strict=True) for prompt in pair] + odd
    shared_groups = shared_prefix.groups(prompt_ids)
    assert sorted(index for _, indices in shared_groups for index in indices) == list(range(len(prompt_ids)))
    assert sorted((shared >= 60, len(indices)) for shared, indices in shared_groups) == [
        (False, 3),
        (True, 9),
        (True, 9),
    ]
    for shared, indices in shared_groups:
        assert len({tuple(prompt_ids[index][:shared]) for index in indices}) == 1
        lengths = [len(prompt_ids[index]) for index in indices]
        assert lengths == sorted(lengths, reverse=True) and lengths[-1] > shared
    model = tiny("qwen3")
    check_exact(model, prompt_ids, local(model, batch_size=5).answers(prompt_ids))


@pytest.mark.parametrize("same", [[[5] * 30] * 9, [[5]] * 9, [[5] * 30, [5] * 31, [5] * 60] * 3, []])
def test_equal_prompts_and_prompts_that_begin_each_other_are_answered(same: list[list[int]]) -> None:
    model = tiny("llama")
    check_exact(model, same, local(model, batch_size=4).answers(same))


def test_padding_never_widens_the_distance_within_a_sliding_window() -> None:
    model, prompt_ids = tiny("mistral", sliding_window=24), prompts(9, shared=30)
    assert kv_cache.max_shared_width(model) == 24
    check_exact(model, prompt_ids, local(model, batch_size=4).answers(prompt_ids))


@pytest.mark.parametrize("family", ODD_FAMILIES)
def test_caches_that_cannot_be_cut_are_left_to_transformers(family: str) -> None:
    assert kv_cache.max_shared_width(tiny(family)) is None


def test_ended_rows_leave_the_batch_and_others_take_their_places() -> None:
    model, prompt_ids = tiny("llama"), prompts(40)
    observed = count_tokens(model)
    answers = local(model, batch_size=8).answers(prompt_ids)
    computed = sum(observed) - sum(map(len, prompt_ids))
    steps = [-(-len(prompt_ids) // 8) * 8 * max(answer.num_tokens for answer in answers)]
    num_answered = sum(answer.num_tokens + answer.finished for answer in answers)
    assert num_answered < steps[0] * 0.75  # rows do end apart: there is something to gain
    assert computed < num_answered * 1.6  # the rest is padding of prompts, and rows that wait for the exchange
    check_exact(model, prompt_ids, answers)


# NucleusSampling


def test_a_sampled_answer_depends_on_seed_and_prompt_alone() -> None:
    model, prompt_ids = tiny("llama"), prompts(10, shared=20)
    sampling = NucleusSampling(temperature=1.5, top_p=0.9, seed=1)
    together = local(model, sampling=sampling, batch_size=4).answers(prompt_ids)
    assert together == [local(model, sampling=sampling).answers([prompt])[0] for prompt in prompt_ids]
    assert together == local(model, sampling=sampling, batch_size=10).answers(prompt_ids[::-1])[::-1]
    assert together != local(model, sampling=NucleusSampling(temperature=1.5, top_p=0.9, seed=2)).answers(prompt_ids)
    assert together != local(model).answers(prompt_ids)


def test_generate_of_transformers_samples_what_the_loop_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt_ids = tiny("llama"), prompts(6)
    sampling = NucleusSampling(temperature=1.5, top_p=0.9, seed=1)
    expected = local(model, sampling=sampling).answers(prompt_ids)
    monkeypatch.setattr(kv_cache, "max_shared_width", lambda model: None)
    assert local(model, sampling=sampling).answers(prompt_ids) == expected


def test_sampled_shares_are_those_of_the_nucleus() -> None:
    shares = torch.tensor([0.1, 0.5, 0.15, 0.25])
    drawn = ((torch.arange(10_000) + 0.5) / 10_000).tolist()
    for top_p, expected in [(1.0, [0.1, 0.5, 0.15, 0.25]), (0.7, [0, 2 / 3, 0, 1 / 3]), (0.01, [0, 1, 0, 0])]:
        tokens = choose(shares.log().expand(10_000, -1), NucleusSampling(top_p=top_p), drawn)
        assert (torch.bincount(tokens, minlength=4) / 10_000).tolist() == pytest.approx(expected, abs=2e-4)
    colder = choose(shares.log().expand(10_000, -1), NucleusSampling(temperature=0.5), drawn)
    squared = shares.square() / shares.square().sum()
    assert (torch.bincount(colder, minlength=4) / 10_000).tolist() == pytest.approx(squared.tolist(), abs=2e-4)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_sampling_that_means_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be over 0"):
        NucleusSampling(**wrong)


# Memory


def test_when_memory_runs_out_the_batch_is_halved_and_ended_rows_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt_ids = tiny("llama"), prompts(12)
    sizes: list[int] = []
    forward = decoding.Loop._forward

    def limited(self: Any, ids: torch.Tensor, *remainder: Any) -> torch.Tensor:
        sizes.append(len(ids))
        if len(ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, ids, *remainder)

    monkeypatch.setattr(decoding.Loop, "_forward", limited)
    delivered: list[int] = []
    answers = local(model, batch_size=12).answers(prompt_ids, on_answer=lambda index, _: delivered.append(index))
    assert sorted(delivered) == list(range(12)) and sizes[:2] == [12, 6]
    check_exact(model, prompt_ids, answers)


def test_a_row_that_does_not_fit_alone_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Any, *remainder: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(decoding.Loop, "_forward", never)
    with pytest.raises(HardwareError, match="a prompt of 7 tokens"):
        local(tiny("llama"), batch_size=4).answers([[20] * 7, [20] * 3])


# Other engines


def test_adapters_answer_and_can_be_switched_off() -> None:
    from peft import LoraConfig, get_peft_model

    prompt_ids = prompts(6, shared=30)
    base = local(tiny("llama")).answers(prompt_ids)
    model = get_peft_model(tiny("llama"), LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn_like(weight))
    tuned = local(model).answers(prompt_ids)
    check_exact(model, prompt_ids, tuned)
    with model.disable_adapter():
        assert local(model).answers(prompt_ids) == base != tuned


class Output:
    def __init__(self, tokens: list[int], error: str | None = None) -> None:
        self.generated_tokens = tokens
        self.error = error


class Paged:
    """Stands for a model with `generate_batch`."""

    _supports_sdpa = True
    _is_stateful = False

    def __init__(self, outputs: dict[str, Output]) -> None:
        self.outputs = outputs

    def parameters(self) -> Any:
        return iter([torch.zeros(1)])

    def generate_batch(
        self, inputs: list[list[int]], generation_config: Any, continuous_batching_config: Any
    ) -> dict[str, Output]:
        assert generation_config.eos_token_id == STOP and generation_config.max_new_tokens == LIMIT
        assert not continuous_batching_config.auto_switch_to_flash
        return self.outputs


def test_continuous_batching_takes_what_was_answered() -> None:
    model = Paged({"a": Output([20, 21, STOP[0]]), "b": Output([20] * LIMIT)})
    answers = local(model, engine="continuous").answers([[1], [2, 3]])
    assert [(a.num_tokens, a.finished, a.prompt_tokens) for a in answers] == [(2, True, 1), (LIMIT, False, 2)]


@pytest.mark.parametrize("outputs", [{"a": Output([20])}, {"a": Output([20]), "b": Output([], "out of blocks")}])
def test_continuous_batching_that_loses_rows_is_an_error(outputs: dict[str, Output]) -> None:
    with pytest.raises(HardwareError, match="continuous batching failed"):
        local(Paged(outputs), engine="continuous").answers([[1], [2, 3]])
    with pytest.raises(HardwareError, match="cannot sample"):
        local(Paged(outputs), engine="continuous", sampling=NucleusSampling())


@pytest.mark.parametrize("family", ["qwen3_next", "mamba"])
def test_continuous_batching_that_a_model_cannot_do_is_refused(family: str) -> None:
    with pytest.raises(HardwareError, match="cannot be batched continuously"):
        local(tiny(family), engine="continuous")


def test_what_is_spread_over_cards_is_not_batched_continuously() -> None:
    model = tiny("llama")
    assert continuous_batching.has_continuous(model)
    model.hf_device_map = {"model.embed_tokens": 0, "lm_head": 1}
    assert not continuous_batching.has_continuous(model)


def test_where_continuous_batching_fails_the_loop_goes_on_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt_ids, lines = tiny("llama"), prompts(5), list[str]()
    expected = local(model).answers(prompt_ids)
    model.generate_batch = lambda *_, **__: (_ for _ in ()).throw(ValueError("no kernel"))
    monkeypatch.setattr(LocalModel, "_settle", lambda self: True)  # as on a card
    answering = local(model, say=lines.append)
    assert answering.answers(prompt_ids) == expected == answering.answers(prompt_ids)
    assert lines == ["continuous batching failed: ValueError: no kernel; going on in batches of its own loop"]
    with pytest.raises(HardwareError, match="no kernel"):
        local(model, engine="continuous").answers(prompt_ids)


def test_concurrency_is_kept_to_by_the_loop() -> None:
    real = local(tiny("llama"))
    real.is_continuous = True
    widths: list[int] = []
    real.decoder.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    assert real.answers_at(prompts(6), 2) == local(tiny("llama")).answers(prompts(6))
    assert max(widths) == 2 and real.is_continuous


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="on a CPU it takes half a minute")
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_continuous_batching_gives_the_answers_of_the_loop(family: str) -> None:
    model, prompt_ids = tiny(family).cuda(), prompts(40)
    assert local(model, engine="continuous").answers(prompt_ids) == local(model, engine="transformers").answers(
        prompt_ids
    )
