"""Render the model card that travels with an export: Markdown with Hugging Face front matter."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, assert_never

from jinja2 import Environment, PackageLoader, StrictUndefined
from ruamel.yaml import YAML

from trainer.recipe.export import Format, library_of
from trainer.render.damage import Damage, damage_summary, damages, habit_measures, looked_at, suite_measures
from trainer.render.format import DASH, flatten, title_of
from trainer.render.metrics import ScoreRow, score_rows, verdict, write_difference, write_interval, write_value
from trainer.render.sections import PROOF_COLUMNS, data_pairs, proofs

_SETTINGS = ("method", "adapter", "pack", "train")
"""Sections of the recipe that the table of settings lists."""


@dataclass(frozen=True)
class CardFacts:
    """Everything that the card says.

    Keeping paths of this machine out of `base_model` and the recipe is the caller's duty.

    Args:
        name: name of the run.
        base_model: hub id, or another name of the base model; written as it is.
        base_on_hub: whether `base_model` is a hub id; a folder's name may look like one.
        revision: its commit, tag or branch, where known.
        formats: exported formats, folders beside the card: adapter, merged, bnb4, fp8, awq, gptq, gguf.
        adapter_kind: none, lora or qlora.
        method_kind: sft, dpo, ...
        recipe_yaml: the recipe in full.
        trainer_version: version of this package.
        data_report: data/report.json.
        train_numbers: numbers of train/stage.json.
        scores: eval/scores.json.
        verify: export/verify.json.
        gates: eval/gates.json.
        licence: identifier such as apache-2.0, where known.
        provenance: hashes of what the model was made from, as in provenance.json.
        system: the system prompt that questions were trained with, if there is one.
        clients_send: what a client sends to be answered as in training.
        template_kwargs: what the chat template was given in training.
        place: where the one format of this card lies; None where the card lies beside folders of formats.
    """

    name: str
    base_model: str
    revision: str | None
    formats: list[Format]
    adapter_kind: Literal["none", "lora", "qlora"]
    method_kind: str
    recipe_yaml: str
    trainer_version: str
    data_report: dict[str, Any] | None = None
    train_numbers: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] | None = None
    verify: dict[str, dict[str, Any]] | None = None
    gates: list[dict[str, Any]] | None = None
    licence: str | None = None
    provenance: dict[str, Any] | None = None
    base_on_hub: bool = True
    system: str | None = None
    clients_send: str = "the question alone"
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    place: str | None = None


def public_name(name_or_path: str) -> str:
    """Return a model's name without a path of this machine."""
    return Path(name_or_path).name if Path(name_or_path).is_absolute() else name_or_path


def public_recipe(value: Any) -> Any:
    """Return the values of a recipe without the folders of this machine."""
    if isinstance(value, dict):
        return {name: public_recipe(item) for name, item in value.items()}
    if isinstance(value, list):
        return [public_recipe(item) for item in value]
    return public_name(value) if isinstance(value, str) else value


def recipe_text(values: Any) -> str:
    """Return the values of a recipe as YAML."""
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(values, text)
    return text.getvalue()


def render_card(facts: CardFacts) -> str:
    """Render the card; its front matter is YAML that the Hugging Face hub reads."""
    environment = Environment(
        loader=PackageLoader("trainer.render"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    text = environment.get_template("card.md.j2").render(facts=facts, **_context(facts))
    return text.encode("utf-8", "replace").decode("utf-8")


def _context(facts: CardFacts) -> dict[str, Any]:
    return {
        "front_matter": _front_matter(facts),
        "what": _what(facts.adapter_kind),
        "verdict": verdict(facts.scores),
        "licence": f"Its licence, `{facts.licence}`, applies to this model too."
        if facts.licence
        else "Its own card names no licence; whatever it is, it applies to this model too.",
        "data_pairs": data_pairs(facts.data_report),
        "settings": list(_settings(facts.recipe_yaml)),
        "train_pairs": [(title_of(key), text) for key, text in flatten(facts.train_numbers)],
        "scores": [_score_cells(row) for row in score_rows(facts.scores)],
        "damage_summary": damage_summary(facts.scores),
        "damages": [damage.sentence for damage in damages(facts.scores)],
        "looked_at": looked_at(facts.scores),
        "outside": [_outside_cells(damage) for damage in _measured_outside(facts.scores)],
        "limits": _unmeasured(facts.scores),
        "failed_gates": [gate for gate in facts.gates or [] if not gate.get("passed")],
        "proof_titles": [*PROOF_COLUMNS.values(), "same answers", "held-out score (trained)"],
        "proofs": [(proof, _answer_cells((facts.verify or {})[proof.format])) for proof in proofs(facts.verify)],
        "survivals": list(_survivals(facts.verify or {})),
        "compressed": dict(_compressed(facts.verify or {})),
        "made_from": list(_made_from(facts.provenance)),
        "loads_from_hub": facts.base_on_hub and _is_hub_id(facts.base_model),
        "package": facts.base_model.removeprefix("package:") if facts.base_model.startswith("package:") else "",
        "messages": _messages(facts.system),
        "fence": _fence(facts.recipe_yaml),
        "system_fence": _fence(facts.system or ""),
    }


def _library(formats: list[Format]) -> str:
    """Return the library that opens all formats; an adapter's comes first, as the first thing that the card shows."""
    libraries = {library_of(format) for format in formats}
    if "peft" in libraries:
        return "peft"
    return libraries.pop() if len(libraries) == 1 else "transformers"


def _what(adapter_kind: Literal["none", "lora", "qlora"]) -> str:
    match adapter_kind:
        case "none":
            return "full fine-tuning"
        case "lora":
            return "LoRA adapter"
        case "qlora":
            return "QLoRA adapter"
        case _:
            assert_never(adapter_kind)


def _front_matter(facts: CardFacts) -> str:
    """Return the metadata as YAML. Source: https://huggingface.co/docs/hub/model-cards."""
    is_adapter = "adapter" in facts.formats
    # the hub refuses a card whose base_model is no id of it
    base = facts.base_model if facts.base_on_hub and not facts.base_model.startswith("package:") else None
    metadata = {
        "base_model": base,
        "base_model_relation": None if base is None else "adapter" if is_adapter else "finetune",
        "library_name": _library(facts.formats),
        "pipeline_tag": "text-generation",
        "license": facts.licence,
        "tags": ["recipe-trainer", facts.method_kind, *([facts.adapter_kind] if facts.adapter_kind != "none" else [])],
    }
    yaml, stream = YAML(), io.StringIO()
    yaml.dump({key: value for key, value in metadata.items() if value is not None}, stream)
    return stream.getvalue()


def _settings(recipe_yaml: str) -> Iterator[tuple[str, str]]:
    recipe = YAML(typ="safe", pure=True).load(recipe_yaml)
    sections = recipe if isinstance(recipe, dict) else {}
    yield from flatten({name: sections[name] for name in _SETTINGS if isinstance(sections.get(name), dict)})


def _made_from(provenance: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Yield what the model was made from and its sha256."""
    for group in ("base", "data", "trained"):
        found = (provenance or {}).get(group) or {}
        for name, digest in (found.get("files", {}) if group == "base" else found).items():
            yield f"{group}: {name}", str(digest)
    for name in ("recipe", "template"):
        if (provenance or {}).get(name):
            yield name, str((provenance or {})[name])


def _answer_cells(proof: dict[str, Any]) -> list[str]:
    score, asked = proof.get("score"), proof.get("num_answers")
    return [
        f"{proof['same_answers']} of {asked}" if asked else DASH,
        f"{score['metric']} {score['exported']:.1%} ({score['trained']:.1%})" if score else DASH,
    ]


def _survivals(verify: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield how much of the update the merged weights hold."""
    for name, proof in verify.items():
        if proof.get("survival"):
            share, low = proof["survival"]["median"], proof["survival"]["lowest"]
            yield (
                f"`{name}`: {share:.1%} of the update survives rounding to {proof.get('dtype')} (median over the "
                f"tensors, lowest {low:.1%}; rounding {proof.get('rounding')}, base {proof.get('base')})"
            )


def _compressed(verify: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield each format of llm-compressor and how its weights are held."""
    for name, proof in verify.items():
        if "scheme" in proof:
            groups = ""
            if "group_size" in proof:
                groups = f" with a scale for every {proof['group_size']} weights"
                groups += f", calibrated on {proof['calibration_rows']} training rows"
            yield name, f"`{proof['scheme']}`{groups}, by llm-compressor {proof['llmcompressor']}"


def _messages(system: str | None) -> str:
    """Return the conversation of the example as Python."""
    turns = [{"role": "system", "content": system}] if system else []
    lines = [json.dumps(turn, ensure_ascii=False) for turn in [*turns, {"role": "user", "content": "..."}]]
    return f"[{lines[0]}]" if len(lines) == 1 else "[\n    " + ",\n    ".join(lines) + ",\n]"


def _measured_outside(scores: dict[str, Any] | None) -> list[Damage]:
    return [*habit_measures(scores), *suite_measures(scores)]


def _outside_cells(damage: Damage) -> list[str]:
    return [damage.title, *_score_cells(damage.row)[1:]]


def _unmeasured(scores: dict[str, Any] | None) -> str:
    """Say what nothing measured: abilities outside the task only where eval did not look at them."""
    if not looked_at(scores):
        return (
            "Nothing here measures safety, bias, or abilities outside the task; tuning can weaken what the base model "
            "had learnt of them."
        )
    return (
        "Outside the task only what stands under “Outside the task” was measured; safety and bias beyond it were not, "
        "and tuning can weaken what the base model had learnt of them."
    )


def _score_cells(row: ScoreRow) -> list[str]:
    cells = [row.metric.title]
    for score in (row.base, row.tuned):
        interval = write_interval(row.metric, score.low, score.high) if score else ""
        cells.append(write_value(row.metric, score.value if score else None) + (f" ({interval})" if interval else ""))
    interval = write_interval(row.metric, row.low, row.high, signed=True)
    cells.append(write_difference(row.metric, row.difference) + (f" ({interval})" if interval else ""))
    measured = row.tuned or row.base
    return [*cells, f"{measured.num_rows:,}" if measured and measured.num_rows else DASH]


def _cell(text: object) -> str:
    """Escape what would end a table cell or start a tag."""
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|").replace("<", "&lt;")


def _is_hub_id(base_model: str) -> bool:
    return bool(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base_model)) and not base_model.endswith(".gguf")


def _fence(text: str) -> str:
    """Return a code fence longer than any run of backticks in the text."""
    return "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
