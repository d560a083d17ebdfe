"""The Modelfile renders conversations as the chat template does, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from tests import tiny
from trainer.export.gguf.go_template import TemplateSyntaxError, render
from trainer.export.gguf.modelfile import (
    Modelfile,
    UnknownTemplateError,
    go_template,
    ollama_text,
    parameters_of,
    read_modelfile,
    rendered_by,
)

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WITHOUT_THINKING = "{% if not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
TEMPLATES = {
    "chatml": CHATML,
    "chatml with its own system prompt": (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe \"kind\".<|im_end|>\\n' }}{% endif %}"
        + CHATML
    ),
    "no thinking before a new answer": CHATML + WITHOUT_THINKING,
    "llama 3": (
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' "
        "+ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "gemma, system prompt within the first question": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}"
        "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
        "{% for m in turns %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\\n' "
        "+ (first if loop.first else '') + m['content'] + '<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    ),
    "mistral, no system prompt": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
        "{% else %}{{ raise_exception('no such role') }}{% endif %}{% endfor %}"
    ),
    "the project's own": tiny.TEMPLATE_PATH.read_text(),
}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TALK = ["What is 2 + 2?", "It is 4.\n\nReally.", 'And {"x": [1, "{{"]}?', "`x`", "Danke, Käthe 🎈"]


def _messages(system: str | None, count: int) -> list[dict[str, Any]]:
    head = [] if system is None else [{"role": "system", "content": system}]
    return head + [{"role": ("user", "assistant")[path % 2], "content": TALK[path]} for path in range(count)]


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_ollama_and_transformers_see_the_same_prompt(name: str, adds_bos: bool) -> None:
    chat = rendered_by(TEMPLATES[name], SPECIAL, {}, adds_bos=adds_bos)
    template = go_template(chat, TEMPLATES[name])
    systems = [None] if name.startswith("mistral") else [None, "Be brief.\n\nBe right."]
    for system in systems:
        for count in (1, 3, 5):
            messages = _messages(system, count)
            assert ollama_text(template, messages) == chat(messages)
    assert ollama_text(template, _messages(None, 1)).startswith("<s>") is (
        not adds_bos and "bos_token" in TEMPLATES[name]
    )


def test_settings_of_the_template_are_written_into_it() -> None:
    template = TEMPLATES["no thinking before a new answer"]
    thinking, silent = (
        go_template(rendered_by(template, {}, {"enable_thinking": value}, adds_bos=False), template)
        for value in (True, False)
    )
    assert "<think>" not in thinking and silent.count("<think>") == 1


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ strftime_now('%d %b %Y') }}" + CHATML, "date"),
        (CHATML.replace("m['role'] +", "m['role'] + loop.index | string +"), "more than put fixed text"),
        (CHATML.replace("m['content']", "m['content'] | upper"), "once and in order"),
        (CHATML.replace("m['content']", "m['content'] + m['content']"), "once and in order"),
        (CHATML.replace("in messages", "in messages[-1:]"), "once and in order"),
        (CHATML.replace("m['content']", "m['content'].split('<b>')[0]"), "more than put fixed text"),
        ("{{ '{{' }}" + CHATML, "braces"),
    ],
)
def test_a_template_that_does_more_is_refused(template: str, reason: str) -> None:
    with pytest.raises(UnknownTemplateError, match=reason):
        go_template(rendered_by(template, {}, {}, adds_bos=False), template)


@pytest.mark.parametrize(
    ("template", "text"),  # as Go 1.27 renders them
    [
        ("a {{ .Name }} b", "a x b"),
        ("a \n {{- .Name -}} \n b", "axb"),
        ("{{ $.Name }}|{{ .Inner.Name }}", "x|y"),
        ('{{ if eq .Name "y" }}1{{ else if eq .Name "x" "z" }}2{{ else }}3{{ end }}', "2"),
        ("{{ if not .Empty }}no{{ end }}{{ if .Items }}yes{{ end }}", "noyes"),
        ("{{ range $i, $v := .Items }}{{ $i }}{{ $v.Name }}{{ .Name }} {{ end }}", "0aa 1bb "),
        ("{{ range .Items }}{{ if eq .Name $.Name }}!{{ end }}{{ .Name }}{{ end }}", "ab"),
        (
            "{{ range $i, $_ := .Items }}{{ $last := eq (len (slice $.Items $i)) 1 }}{{ $last }} {{ end }}",
            "false true ",
        ),
        ('{{ "tab\\t\\"quoted\\" é" }}', 'tab\t"quoted" é'),
    ],
)
def test_the_known_part_of_go_templates(template: str, text: str) -> None:
    values = {"Name": "x", "Empty": "", "Items": [{"Name": "a"}, {"Name": "b"}], "Inner": {"Name": "y"}}
    assert render(template, values) == text


@pytest.mark.parametrize(
    "template",
    ["{{ if .X }}", "{{ end }}", "{{ printf .X }}", "{{ $y }}", "{{ .Y }}", '{{ "}}" }}', "{{ .X | len }}",
     "{{ }}", "{{ len (.X }}",
     "{{ if .X }}{{ else }}{{ else }}{{ end }}", "{{ .X .X }}"],
)  # fmt: skip
def test_what_is_not_known_of_go_templates_is_refused(template: str) -> None:
    with pytest.raises(TemplateSyntaxError):
        render(template, {"X": "x"})


@pytest.mark.parametrize(
    "system", [None, "Plain.", 'With "quotes"\n\nand lines', 'PARAMETER stop "x"\nFROM y', 'ends in "']
)
def test_a_modelfile_is_read_as_it_was_written(system: str | None, tmp_path: Path) -> None:
    template = go_template(rendered_by(CHATML, {}, {}, adds_bos=False), CHATML)
    output = Modelfile("m-q8_0.gguf", template, system, [("temperature", "0"), ("stop", "<|im_end|>")])
    (tmp_path / "Modelfile").write_text(str(output))
    assert read_modelfile(tmp_path / "Modelfile") == output


def test_a_system_prompt_that_a_modelfile_cannot_hold_is_refused() -> None:
    with pytest.raises(UnknownTemplateError, match="system prompt"):
        str(Modelfile("m.gguf", "x", 'Write """docstrings""".'))


def test_ollamas_own_sampling_does_not_take_over() -> None:
    greedy = dict(parameters_of(GenerationConfig(temperature=0.7), []))
    assert greedy == {"temperature": "0", "repeat_penalty": "1.0"}
    settings = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9, repetition_penalty=1.1)
    assert dict(parameters_of(settings, ["<end>"])) == {
        "temperature": "0.6", "top_p": "0.9", "repeat_penalty": "1.1", "stop": '"<end>"',
    }  # fmt: skip
