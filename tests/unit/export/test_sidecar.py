"""What travels with a format asks as training did, with the system turn and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from trainer.export.provenance import examine, template_sha256, write_provenance
from trainer.export.request import TokenPrompt
from trainer.export.sidecar import carried_findings, served_template, with_template, write_carried

SYSTEM = {"role": "system", "content": 'Answer as {"a": {}}.'}
USER = {"role": "user", "content": "Hi"}


def carried(folder: Path, tokenizer: Any, template: Any, *, default_system: bool = True) -> list[str]:
    """Write a folder with a template and return what is found in it."""
    folder.mkdir()
    stop_id = tokenizer.eos_token_id
    prompt = {"system": SYSTEM["content"], "default_system": default_system, "chat_template_kwargs": {}}
    write_carried(folder, with_template(tokenizer, template), GenerationConfig(), stop_id, prompt, base=None)
    ids = tokenizer.apply_chat_template([SYSTEM, USER], add_generation_prompt=True, return_dict=False)
    request = [TokenPrompt(list(ids), [SYSTEM, USER])]
    digest = template_sha256(template)
    return list(carried_findings(folder, request, stop_id=stop_id, template=digest, eos_token=tokenizer.eos_token))


def test_held_out_prompts_are_the_same_tokens_without_their_system_turn(tmp_path: Path, tiny_tokenizer: Any) -> None:
    before = tiny_tokenizer.chat_template
    template, why_not = served_template(tiny_tokenizer, SYSTEM["content"], {})
    assert why_not == "" and template != before == tiny_tokenizer.chat_template
    assert carried(tmp_path / "a", tiny_tokenizer, template) == []


def test_a_template_without_the_default_that_it_should_have_is_found(tmp_path: Path, tiny_tokenizer: Any) -> None:
    assert "1 of 1 prompts" in carried(tmp_path / "a", tiny_tokenizer, tiny_tokenizer.chat_template)[0]
    assert carried(tmp_path / "b", tiny_tokenizer, tiny_tokenizer.chat_template, default_system=False) == []


@pytest.mark.parametrize("system", [None, "Be brief."], ids=["none", "refused"])
def test_without_a_shared_prompt_or_a_place_for_it_the_template_stays(tiny_tokenizer: Any, system: str | None) -> None:
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer = with_template(tiny_tokenizer, refuses + tiny_tokenizer.chat_template)
    template, why_not = served_template(tokenizer, system, {})
    assert template == tokenizer.chat_template and why_not


def test_verify_looks_for_the_template_that_travels_along(tmp_path: Path, tiny_tokenizer: Any) -> None:
    trained, template = tiny_tokenizer.chat_template, served_template(tiny_tokenizer, SYSTEM["content"], {})[0]
    carried(tmp_path / "a", tiny_tokenizer, template)
    facts = {"template": template_sha256(trained), "stop_token_id": tiny_tokenizer.eos_token_id}
    write_provenance(tmp_path / "a", facts | {"served_template": template_sha256(template)})
    assert not [finding for finding in examine(tmp_path / "a").findings if "template" in finding]
    (tmp_path / "a" / "chat_template.jinja").write_text(trained, encoding="utf-8")
    assert any("template" in finding for finding in examine(tmp_path / "a").findings)
